"""What exemplars that learn are measured by; the registry of objectives."""

from collections.abc import Callable

from mnemonics_tf.bilevel.objectives.base import Objective
from mnemonics_tf.bilevel.objectives.class_means import ClassMeans
from mnemonics_tf.bilevel.objectives.unrolled_training import UnrolledTraining

#: by the value of --objective; a new one is a new file and one line here
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "unrolled_training": UnrolledTraining,
    "class_means": ClassMeans,
}
