"""Learning without Forgetting, with exemplars."""

from mnemonics_tf.methods.base import Method, cross_entropy, distillation


class LwF(Method):
    """Cross-entropy on all seen classes and distillation on the old ones.

    L = lambda L_c + (1 - lambda) L_d (Eq. 5); in phase 0, L = L_c.

    Source: Li and Hoiem, Learning without Forgetting, TPAMI 2018; the paper's Section 4.2. As in
    the paper's tables, exemplars are replayed, which the original method does not do.
    """

    def loss_parts(self, batch, outputs, old_outputs):
        classification = cross_entropy(batch["label"], outputs.logits)
        if old_outputs is None:
            return {"classification": classification}
        weight = self.settings.classification_weight
        return {
            "classification": weight * classification,
            "distillation": (1 - weight)
            * distillation(outputs.logits, old_outputs.logits, self.settings.temperature),
        }
