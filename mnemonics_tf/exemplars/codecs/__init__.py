"""What an exemplar is stored as; the registry of codecs."""

from mnemonics_tf.exemplars.codecs.base import Codec
from mnemonics_tf.exemplars.codecs.pixels import Pixels
from mnemonics_tf.exemplars.codecs.webp_lossless import LosslessWebP

#: by the value of --codec; a new one is a new file and one line here
CODECS: dict[str, type[Codec]] = {
    "pixels": Pixels,
    "webp_lossless": LosslessWebP,
}
