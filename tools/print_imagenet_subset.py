"""Prints the 100 synset ids of ImageNet-Subset: python -m tools.print_imagenet_subset.

One a line, as `ID SYNSET`, where ID is the original class id that a run uses. With --in_class_order
they come in the order in which a run teaches them (class order seed 1993).
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
from absl import app, flags

from mnemonics_tf.data.imagenet import subset_synsets
from mnemonics_tf.data.protocol import class_order
from mnemonics_tf.errors import UserError
from mnemonics_tf.program import program, refuse_arguments

_IN_CLASS_ORDER = flags.DEFINE_boolean(
    "in_class_order", False, "List them as a run teaches them, not sorted."
)
_SEED = flags.DEFINE_integer("class_order_seed", 1993, "Seed of that order.")


@program()
def main(arguments: list[str]) -> int:
    """Prints the list."""
    refuse_arguments(arguments)
    if _SEED.present and not _IN_CLASS_ORDER.value:
        raise UserError("--class_order_seed needs --in_class_order: pass both, or neither")
    synsets = subset_synsets()
    order = range(len(synsets))
    if _IN_CLASS_ORDER.value:
        order = class_order(len(synsets), _SEED.value)
    for original in order:
        print(original, synsets[original])
    return 0


if __name__ == "__main__":
    app.run(main)
