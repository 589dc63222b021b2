"""The upper bound: joint training on all data so far."""

from mnemonics_tf.methods.base import Method, cross_entropy


class Joint(Method):
    """Cross-entropy on all data of all seen classes (the paper's Upper Bound, Figure 4).

    It forgets nothing because it gives nothing up: every earlier phase's data stays in reach, so it
    neither distils nor needs exemplars. Exemplars are still kept, for the nearest-mean head.
    """

    keeps_past_data = True

    def loss_parts(self, batch, outputs, old_outputs):
        return {"classification": cross_entropy(batch["label"], outputs.logits)}
