"""What exemplars that learn are measured by; the registry of objectives."""

from collections.abc import Callable

from mnemonics_tf.bilevel.objectives.anchored import Anchored
from mnemonics_tf.bilevel.objectives.base import Objective
from mnemonics_tf.bilevel.objectives.class_means import ClassMeans
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining
from mnemonics_tf.registry import find
from mnemonics_tf.settings import InnerSettings, OuterSettings

#: by the value of --objective; a new one is a new file and one line here
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "unrolled_training": UnrolledTraining,
    "class_means": ClassMeans,
    "anchored": Anchored,
}


def on_originals(name: str) -> bool:
    """Whether an objective measures exemplars on the very images that they began as.

    Its class says so by `on_originals = True`. Its outer batches are the originals of those of a
    step's exemplars that learn, and `row` `[m]`, their places among all of the step.

    Args:
        name: value of --objective.

    Raises:
        UserError: if there is none of that name.
    """
    return getattr(find(OBJECTIVES, name, "objective"), "on_originals", False)


def has_inner_loop(name: str) -> bool:
    """Whether an objective trains a temporary model, which its class says by `inner_loop = True`.

    Args:
        name: value of --objective.

    Raises:
        UserError: if there is none of that name.
    """
    return getattr(find(OBJECTIVES, name, "objective"), "inner_loop", False)


def trains_encoder(inner: InnerSettings, outer: OuterSettings) -> bool:
    """Whether exemplars learn by an inner loop that trains more than the classifier.

    Args:
        inner: the base level.
        outer: the meta level.

    Raises:
        UserError: if there is no objective of that name.
    """
    return inner.inner_scope != "classifier" and has_inner_loop(outer.objective)


def second_order(inner: InnerSettings, outer: OuterSettings) -> bool:
    """Whether the meta-gradient takes second derivatives of what comes before the classifier.

    Args:
        inner: the base level; an estimator of the user's own may take them.
        outer: the meta level.

    Raises:
        UserError: if there is no objective of that name.
    """
    return trains_encoder(inner, outer) and inner.meta_gradient != "first_order"
