"""New images that go through the codec, in part, in the phase they belong to."""

import math
from collections.abc import Sequence

import numpy as np

from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.pipeline import concatenate
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs import loses_nothing, make_codec
from mnemonics_tf.exemplars.codecs.base import LimitedCodec
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods.base import Method
from mnemonics_tf.monitoring.progress import watched
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.settings import ExemplarSettings, Settings

#: where none is told, of codecs that lose something
_DEFAULT = 0.5


def coded_share(wanted: ExemplarSettings) -> float:
    """Returns the share of new images that go through the codec.

    Raises:
        UserError: if a share is told that changes nothing, or that is none.
    """
    share = wanted.coded_share
    if -1 < share < 0:
        raise UserError(f"--coded_share={share}: pass a number from 0 to 1, or -1 for the codec's")
    lossless = loses_nothing(wanted.codec)
    if share > 0 and lossless:
        raise UserError(
            f"--coded_share={share} changes nothing with --codec={wanted.codec}, which loses "
            "nothing: leave it out"
        )
    if share >= 0:
        return share
    return 0.0 if lossless else _DEFAULT


def check_coded_share(
    settings: Settings,
    method: Method,
    protocol: ClassIncrementalProtocol,
    source: DataSource,
    phases: Sequence[Phase],
) -> None:
    """Refuses a share of a new class's images that is more than its code can hold.

    Args:
        settings: of a run, or of a phase that follows one, that has not begun.
        method: how the model learns.
        protocol: what is learned when.
        source: tells how many images there are.
        phases: whose new classes are looked at.

    Raises:
        UserError: names the share to pass instead.
    """
    stored, share = settings.exemplar, coded_share(settings.exemplar)
    coder = make_codec(stored.codec, stored.jpeg_quality)
    if not share or method.keeps_past_data or not isinstance(coder, LimitedCodec):
        return
    counts = source.training_counts_of(protocol.order)
    largest = max((int(max(counts[one.new_classes])) for one in phases if one.index), default=0)
    coded, most = _num_coded(share, largest), coder.most_images(source.image_shape)
    if coded > most:
        raise UserError(
            f"--coded_share={share:g} codes {coded} of the {largest} new images of a class, and "
            f"--codec={stored.codec} stores {most} at most: pass at most --coded_share="
            f"{math.floor(1000 * most / largest) / 1000:g}"
        )


def _num_coded(share: float, num_images: int) -> int:
    return round(share * num_images)


def partly_coded(
    workshop: Workshop, phase: Phase, images: ImageSet, memory: ExemplarMemory
) -> ImageSet:
    """Returns D_i, of each class a share of the images as the memory would give them back.

    Old classes are seen as the codec leaves them. Were all new images seen as they were taken, its
    artefacts would tell old from new, and the network would learn them instead of the classes.
    Phase 0 has no old classes: it learns from images as they are, whatever the codec, so that runs
    share its model.

    Args:
        workshop: of the run.
        phase: which.
        images: D_i, the images of a class together.
        memory: with the codec.
    """
    share = coded_share(workshop.settings.exemplar)
    if phase.index == 0 or not share:
        return images
    chosen = np.zeros(len(images), bool)
    coded = ExemplarMemory.empty(images.image_shape, codec=memory.codec, quality=memory.quality)
    classes = watched(phase.new_classes, phase.num_new, f"phase {phase.index} encoding class")
    for label in classes:  # a class at a time: no more stand decoded while they are coded
        members = images.indices_of(label)
        generator = numpy_generator(workshop.seed, "coded", phase.index, label)
        rows = np.sort(generator.permutation(members)[: _num_coded(share, len(members))])
        if len(rows):
            coded = coded.extended(images.subset(rows).load_all(), np.full(len(rows), label))
        chosen[rows] = True
    rest = images.subset(np.flatnonzero(~chosen))
    if isinstance(images, ArrayImageSet):  # which stand in memory as pixels: these do too
        return concatenate([rest, ArrayImageSet(coded.images, coded.labels)])
    # Streams stay streams; a codec of pictures, a user's own, has all that it coded decoded here.
    return concatenate([rest, coded.as_image_set()])
