"""iCaRL with softmax losses, as the LUCIR and mnemonics protocols have it."""

from mnemonics_tf.methods.lwf import LwF


class ICaRL(LwF):
    """Cross-entropy and distillation as in `LwF`; predicts by the nearest mean of exemplars.

    Source: Rebuffi et al., iCaRL: Incremental Classifier and Representation Learning, CVPR 2017.
    The original trains with binary cross-entropies; the paper's tables, and LUCIR's before them,
    use softmax, so that methods differ by what they are about. Weighted as Eq. 5 has it; the
    releases of LUCIR and of the paper add both parts with weight 1, which is twice the gradient.
    """

    prediction_head = "nme"
