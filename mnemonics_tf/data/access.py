"""The gate to training data: a phase sees its own classes, and nothing that has passed."""

import contextlib

from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet, naming_broken_files
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
        self._in_use: dict[str, ImageSet] = {}

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
        return self._handed_out("training", images)

    def test_set(self, phase: Phase) -> ImageSet:
        """Returns the test images of all classes seen by phase i, with labels in class order."""
        images = self._source.test_set(self._protocol.original_ids(phase.seen_classes))
        return self._handed_out("test", images)

    def naming_broken_files(self) -> contextlib.AbstractContextManager[None]:
        """Where decoding fails within, names the file among those handed out last.

        Raises:
            UserError: names the first file that can't be decoded; other errors pass.
        """
        return naming_broken_files(self._in_use.values())

    def _handed_out(self, part: str, images: ImageSet) -> ImageSet:
        images = images.relabel(self._protocol.labels_of(images.labels))
        # Names of files only: pixels must not outlive their phase here.
        if isinstance(images, ArrayImageSet):
            self._in_use.pop(part, None)
        else:
            self._in_use[part] = images
        return images
