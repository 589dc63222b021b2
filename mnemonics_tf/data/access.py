"""The gate to training data: a phase sees its own classes, and nothing that has passed."""

from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource


class PhaseData:
    """Hands out each phase's training data once, in order, and forgets it afterwards.

    Args:
        source: where images come from.
        protocol: which classes belong to which phase.
        keep_past: leave earlier phases' data in reach (the upper bound).
    """

    def __init__(self, source: DataSource, protocol: ClassIncrementalProtocol, keep_past: bool):
        self._source = source
        self._protocol = protocol
        self._keep_past = keep_past

    def training_set(self, phase: Phase) -> ImageSet:
        """Returns D_i with labels in class order; data of earlier phases is released for good.

        With `keep_past` it is D_0..D_i.
        """
        if self._keep_past:
            labels = phase.seen_classes
        else:
            labels = phase.new_classes
            past = range(phase.num_old)
            self._source.release(self._protocol.original_ids(past))
        images = self._source.training_set(self._protocol.original_ids(labels))
        return images.relabel(self._protocol.labels_of(images.labels))

    def test_set(self, phase: Phase) -> ImageSet:
        """Returns the test images of all classes seen by phase i, with labels in class order."""
        images = self._source.test_set(self._protocol.original_ids(phase.seen_classes))
        return images.relabel(self._protocol.labels_of(images.labels))
