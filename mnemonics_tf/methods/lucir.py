"""LUCIR: learning a unified classifier incrementally via rebalancing."""

import numpy as np
import tensorflow as tf

from mnemonics_tf.methods.base import MeanOver, Method, cross_entropy
from mnemonics_tf.models.classifiers import MASKED
from mnemonics_tf.norms import unit_length


class LUCIR(Method):
    """Cosine classifier, less-forget constraint and margin ranking.

    L = L_c + lambda (1 - cos(f_old, f)) + L_mr, with lambda = lambda_base sqrt(old / new classes);
    L_mr = 1 / K sum_{k in top K new classes} max(0, m - cos(w_y, f) + cos(w_k, f)), averaged over
    the batch's images of old classes. New class weights start at the mean feature of their images,
    scaled to the mean norm of the old weights; weights of old classes stay frozen but for the
    fine-tune (`finetune_old_classes`).

    Source: Hou et al., Learning a Unified Classifier Incrementally via Rebalancing, CVPR 2019,
    Eq. 6 to 8 and the authors' release for imprinting and freezing.
    """

    classifier = "cosine"
    freezes_old_classes = True

    def loss_parts(self, batch, outputs, old_outputs):
        parts = {"classification": cross_entropy(batch["label"], outputs.logits)}
        if old_outputs is None:
            return parts
        num_old, num_seen = old_outputs.num_classes, outputs.num_classes
        weight = self.settings.less_forget_weight * tf.sqrt(num_old / (num_seen - num_old))
        parts["less_forget"] = weight * less_forget(outputs.features, old_outputs.features)
        ranking = margin_ranking(
            outputs.logits / outputs.scale,
            batch["label"],
            num_old,
            num_seen,
            self.settings.ranking_margin,
            self.settings.ranking_classes,
        )
        is_old = tf.cast(batch["label"], tf.float32) < num_old
        parts["margin_ranking"] = MeanOver(ranking, is_old)
        return parts

    def initialise_new_classes(self, model, phase, features_of):
        """Imprints the new classes' weights (mean normalised feature, norm of the old weights)."""
        if phase.index == 0:
            return
        kernel = model.classifier.seen_kernel()
        norm = np.linalg.norm(kernel[:, : phase.num_old], axis=0).mean()
        for label in phase.new_classes:
            features = features_of(label)
            mean = unit_length(features).mean(axis=0)
            kernel[:, label] = norm * mean / np.linalg.norm(mean)
        model.classifier.set_kernel(kernel)


def less_forget(features: tf.Tensor, old_features: tf.Tensor) -> tf.Tensor:
    """Returns 1 - cos(f_old, f) of each example, `[b]` (LUCIR, Eq. 6)."""
    new = tf.math.l2_normalize(tf.cast(features, tf.float32), axis=1)
    old = tf.math.l2_normalize(tf.cast(old_features, tf.float32), axis=1)
    return 1 - tf.reduce_sum(new * old, axis=1)


def margin_ranking(
    cosines: tf.Tensor,
    labels: tf.Tensor,
    num_old: tf.Tensor | float,
    num_seen: tf.Tensor | float,
    margin: float,
    top: int,
) -> tf.Tensor:
    """Returns the margin ranking loss of each example, `[b]`; 0 for new classes (LUCIR, Eq. 8).

    Args:
        cosines: cos(w_k, f), without the learned scale, `[b, capacity]`.
        labels: `[b]`.
        num_old: number of old classes, a float.
        num_seen: number of old and new classes, a float.
        margin: m.
        top: K, the number of new classes ranked against; at most all of them.
    """
    capacity = cosines.shape[1]
    columns = tf.range(capacity, dtype=tf.float32)
    is_new = (columns >= num_old) & (columns < num_seen)
    rivals = tf.where(is_new, cosines, tf.constant(MASKED, cosines.dtype))
    hardest, _ = tf.math.top_k(rivals, k=min(top, capacity))
    truth = tf.gather(cosines, labels, axis=1, batch_dims=1)
    violations = tf.nn.relu(margin - truth[:, None] + hardest)  # 0 for what is masked
    ranked = tf.cast(tf.minimum(float(top), num_seen - num_old), cosines.dtype)
    is_old = tf.cast(labels, tf.float32) < num_old
    return tf.where(is_old, tf.reduce_sum(violations, axis=1) / ranked, 0.0)
