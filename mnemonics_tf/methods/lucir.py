"""LUCIR: learning a unified classifier incrementally via rebalancing."""

import math

import numpy as np
import tensorflow as tf

from mnemonics_tf.methods.base import Method, cross_entropy


class LUCIR(Method):
    """Cosine classifier, less-forget constraint and margin ranking.

    L = L_c + lambda (1 - cos(f_old, f)) + L_mr, with lambda = lambda_base sqrt(old / new classes);
    L_mr = 1 / K sum_{k in top K new classes} max(0, m - cos(w_y, f) + cos(w_k, f)), averaged over
    the batch's images of old classes. New class weights start at the mean feature of their images,
    scaled to the mean norm of the old weights; weights of old classes stay frozen.

    Source: Hou et al., Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019,
    Eq. 6 to 8 and the authors' release for imprinting and freezing.
    """

    classifier = "cosine"

    def loss_parts(self, batch, outputs, old_outputs, phase):
        parts = {"classification": cross_entropy(batch["label"], outputs.logits)}
        if old_outputs is not None:
            weight = self.settings.less_forget_weight * math.sqrt(phase.num_old / phase.num_new)
            parts["less_forget"] = weight * less_forget(outputs.features, old_outputs.features)
            ranking = margin_ranking(
                outputs.logits / outputs.scale,
                batch["label"],
                phase.num_old,
                self.settings.ranking_margin,
                self.settings.ranking_classes,
            )
            parts["margin_ranking"] = ranking * mean_over_old(batch, phase.num_old)
        return parts

    def configure(self, model, phase):
        model.classifier.freeze_old()

    def initialise_new_classes(self, model, phase, features_of):
        """Imprints the new classes' weights (mean normalised feature, norm of the old weights)."""
        if phase.index == 0:
            return
        kernel = model.classifier.kernel().numpy().copy()
        norm = np.linalg.norm(kernel[:, : phase.num_old], axis=0).mean()
        for label in phase.new_classes:
            features = features_of(label)
            mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(axis=0)
            kernel[:, label] = norm * mean / np.linalg.norm(mean)
        model.classifier.set_kernel(kernel)


def less_forget(features: tf.Tensor, old_features: tf.Tensor) -> tf.Tensor:
    """Returns 1 - cos(f_old, f) of each example, `[b]` (LUCIR, Eq. 6)."""
    new = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=1)
    old = tf.math.l2_normalize(tf.cast(old_features, tf.float32), axis=1)
    return 1 - tf.reduce_sum(new * old, axis=1)


def margin_ranking(
    cosines: tf.Tensor, labels: tf.Tensor, num_old: int, margin: float, top: int
) -> tf.Tensor:
    """Returns the margin ranking loss of each example, `[b]`; 0 for new classes (LUCIR, Eq. 8).

    Args:
        cosines: cos(w_k, f), without the learned scale, `[b, classes]`.
        labels: `[b]`.
        num_old: number of old classes.
        margin: m.
        top: K, the number of new classes ranked against; at most all of them.
    """
    hardest, _ = tf.math.top_k(cosines[:, num_old:], k=min(top, cosines.shape[1] - num_old))
    truth = tf.gather(cosines, labels, axis=1, batch_dims=1)
    violations = tf.nn.relu(margin - truth[:, None] + hardest)
    return tf.where(labels < num_old, tf.reduce_mean(violations, axis=1), 0.0)


def mean_over_old(batch: dict[str, tf.Tensor], num_old: int) -> tf.Tensor:
    """Returns factors `[b]` that turn the batch's weighted sum into a mean over old-class images.

    The count is that of all replicas, as the batch's weights are.
    """
    is_old = tf.cast(batch["label"] < num_old, tf.float32)
    share = tf.reduce_sum(is_old * batch["weight"])
    context = tf.distribute.get_replica_context()
    if context is not None and context.num_replicas_in_sync > 1:
        share = context.all_reduce(tf.distribute.ReduceOp.SUM, share)
    return tf.fill(tf.shape(is_old), tf.math.divide_no_nan(1.0, share))
