"""BiC: bias correction of the new classes' logits."""

import numpy as np
import tensorflow as tf

from mnemonics_tf.methods.base import Method, cross_entropy, distillation

_NEWTON_STEPS = 50

#: (a, b) of a correction that changes nothing
_NONE = np.array([1.0, 0.0])


class BiC(Method):
    """Cross-entropy and distillation, then a linear correction fitted on held-out balanced data.

    L = rho L_d + (1 - rho) L_c with rho = old / all classes. Then, with the network frozen, (a, b)
    of z_k <- a z_k + b over the phase's new classes are fitted to images that training did not see,
    as many of each class (`fit_correction`). In the next phase the frozen old model keeps that
    correction, and the new one begins without any and learns from it, as in the authors' release
    (`resnet.py`). A balanced fine-tune, which the original does not have, follows the fit, with the
    correction in force.

    Departure from the authors' release, which sets images of each class aside in its first phase
    and never trains on them: here all methods share phase 0 and what is kept, and each phase holds
    some of the exemplars out anew. Those of old classes were trained on in earlier phases, so that
    the fit sees old classes surer than they are.

    Source: Wu et al., Large Scale Incremental Learning, CVPR 2019, Eq. 1 to 5.
    """

    corrects_logits = True

    def loss_parts(self, batch, outputs, old_outputs):
        classification = cross_entropy(batch["label"], outputs.logits)
        if old_outputs is None:
            return {"classification": classification}
        rho = old_outputs.num_classes / outputs.num_classes
        distilled = distillation(outputs.logits, old_outputs.logits, self.settings.temperature)
        return {"classification": (1 - rho) * classification, "distillation": rho * distilled}

    def held_out_per_class(self, phase, exemplars_per_class):
        """A tenth of the exemplars, one at least; none where there is nothing to correct."""
        if phase.index == 0:
            return 0
        return max(1, round(self.settings.correction_share * exemplars_per_class))

    def after_training(self, model, phase, labels, logits):
        gain, offset = fit_correction(labels, logits, phase.num_old)
        model.correct_logits(phase.new_classes, gain, offset)


def fit_correction(labels: np.ndarray, logits: np.ndarray, num_old: int) -> tuple[float, float]:
    """Returns the likeliest (a, b) of z_k <- a z_k + b on held-out images (BiC, Eq. 4).

    They minimise sum CE + ((a - 1)^2 + b^2) / 2 over the images. The second term, a normal prior
    around no correction, is not in the paper: a few images, two of a class with 20 exemplars, can
    often be told apart without a mistake, and then the cross-entropy alone has no minimum. With
    many images it weighs nothing. The authors' release has a stronger one on b, 0.05 n b^2 for n
    images, and none on a, which there the end of its gradient descent keeps finite.

    The problem is convex in (a, b); Newton's method with step halving solves it. A general
    minimiser (SciPy's) would want loss, gradient and Hessian just so, and be one package more.

    Args:
        labels: `[n]`.
        logits: before this phase's correction, `[n, classes]`.
        num_old: classes below it keep their logits.
    """
    logits = logits.astype(np.float64)
    new = np.arange(logits.shape[1]) >= num_old
    # d corrected logit / d(a, b): the logit and 1 for new classes, 0 for old ones.
    slopes = np.stack([np.where(new, logits, 0.0), np.broadcast_to(new, logits.shape)], axis=-1)
    truth = slopes[np.arange(len(labels)), labels]

    def loss(solution):
        corrected = np.where(new, solution[0] * logits + solution[1], logits)
        of_images = np.sum(cross_entropy(labels, tf.constant(corrected)).numpy())
        return float(of_images + np.sum((solution - _NONE) ** 2) / 2)

    solution = _NONE
    for _ in range(_NEWTON_STEPS):
        corrected = np.where(new, solution[0] * logits + solution[1], logits)
        probabilities = tf.nn.softmax(tf.constant(corrected)).numpy()
        mean = np.einsum("nk,nki->ni", probabilities, slopes)
        gradient = (mean - truth).sum(axis=0) + solution - _NONE
        second = np.einsum("nk,nki,nkj->nij", probabilities, slopes, slopes)
        hessian = (second - mean[:, :, None] * mean[:, None]).sum(axis=0) + np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-8 and loss(solution - size * step) > loss(solution):
            size /= 2
        solution = solution - size * step
        if np.abs(size * step).max() < 1e-10:
            break
    return float(solution[0]), float(solution[1])
