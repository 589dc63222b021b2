"""iCaRL as the LUCIR and mnemonics protocols train it."""

from mnemonics_tf.methods.lwf import LwF


class ICaRL(LwF):
    """Cross-entropy and distillation as in `LwF`; predicts by the nearest mean of exemplars.

    Source: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017.
    The original trains with binary cross-entropies; the paper's tables, and LUCIR's before them,
    use softmax, so that methods differ by what they are about.
    """

    prediction_head = "nme"
