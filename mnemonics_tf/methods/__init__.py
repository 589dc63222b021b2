"""How a model learns beside its exemplars; the registry of methods."""

from mnemonics_tf.methods.base import Method
from mnemonics_tf.methods.joint import Joint
from mnemonics_tf.methods.lwf import LwF

#: by the value of --method; a new method is a new file and one line here
METHODS: dict[str, type[Method]] = {
    "lwf": LwF,
    "joint": Joint,
}
