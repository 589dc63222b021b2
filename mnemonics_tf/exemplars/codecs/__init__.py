"""What an exemplar is stored as; the registry of codecs."""

from collections.abc import Callable

from mnemonics_tf.exemplars.codecs.base import Codec
from mnemonics_tf.exemplars.codecs.jpeg import Jpeg
from mnemonics_tf.exemplars.codecs.pixels import Pixels
from mnemonics_tf.exemplars.codecs.webp_lossless import LosslessWebP
from mnemonics_tf.registry import find

#: by the value of --codec; a new one is a new file and one line here
CODECS: dict[str, type[Codec]] = {
    "pixels": Pixels,
    "webp_lossless": LosslessWebP,
    "jpeg": Jpeg,
}

#: those that are built with a quality
WITH_QUALITY = frozenset({"jpeg"})


def loses_nothing(name: str) -> bool:
    """Whether the codec of a name gives every pixel back.

    Raises:
        UserError: if there is none of that name.
    """
    return getattr(find(CODECS, name, "codec"), "lossless", False)


def make_codec(name: str, quality: int) -> Codec:
    """Returns the codec of a name.

    Args:
        name: value of --codec.
        quality: value of --jpeg_quality, for those that have one.

    Raises:
        UserError: if there is none of that name.
    """
    kind: Callable[..., Codec] = find(CODECS, name, "codec")
    return kind(quality) if name in WITH_QUALITY else kind()
