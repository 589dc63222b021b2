"""How many images fit into so many bytes, and codes cut to a length, in a codec's own terms."""

from typing import Any

import numpy as np

from mnemonics_tf.exemplars.codecs.base import Codec, StreamCodec

#: along the line; sizes all but lie on it
_GUESSES = 4


def chosen(codec: Codec, code: Any, rows: np.ndarray) -> Any:
    """Returns the code of some images of a code.

    Streams are dropped as they are. Of a picture that images share there is nothing to drop: it is
    decoded and encoded anew, which costs a codec that loses something another loss.

    Args:
        codec: of the code.
        code: of a class.
        rows: which of its images, ascending.
    """
    if isinstance(codec, StreamCodec):
        head, streams = codec.split(code)
        return codec.join(head, [streams[row] for row in rows])
    return codec.encode(codec.decode(code)[rows])


def first_that_fit(codec: Codec, code: Any, num_bytes: int) -> int:
    """Returns how many images of a code, from the first on, fit into so many bytes.

    Args:
        codec: of the code.
        code: of a class.
        num_bytes: that the code of these images may take.
    """
    if isinstance(codec, StreamCodec):
        head, streams = codec.split(code)
        free = num_bytes - codec.num_bytes(codec.join(head, []))
        return int(np.searchsorted(np.cumsum([len(one) for one in streams]), free, side="right"))
    size = codec.num_bytes(code)
    images = codec.decode(code)
    if size <= num_bytes:
        return len(images)
    return _longest_prefix(codec, images, num_bytes, size)


def _longest_prefix(codec: Codec, images: np.ndarray, num_bytes: int, size: int) -> int:
    """Returns how many of the first images fit, where all of them, in `size` bytes, do not.

    What is returned fits, and leaves no room for another image of half the mean size, or is the
    largest number that fits. Encoding takes long: the number is guessed along the line between the
    numbers known to fit and not to fit, and only where that does not end soon, halfway.
    """
    fits, fits_size, too_many, tries = 0, 0, len(images), 0
    while too_many - fits > 1:
        per_image = (size - fits_size) / (too_many - fits)
        if fits and num_bytes - fits_size < per_image / 2:
            break
        step = (num_bytes - fits_size) / per_image if tries < _GUESSES else (too_many - fits) / 2
        guess = fits + min(max(int(step), 1), too_many - fits - 1)
        guess_size, tries = codec.num_bytes(codec.encode(images[:guess])), tries + 1
        if guess_size <= num_bytes:
            fits, fits_size = guess, guess_size
        else:
            too_many, size = guess, guess_size
    return fits
