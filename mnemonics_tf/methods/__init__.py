"""How a model learns beside its exemplars; the registry of methods."""

from mnemonics_tf.methods.base import Method
from mnemonics_tf.methods.bic import BiC
from mnemonics_tf.methods.icarl import ICaRL
from mnemonics_tf.methods.joint import Joint
from mnemonics_tf.methods.lucir import LUCIR
from mnemonics_tf.methods.lwf import LwF

#: by the value of --method; a new method is a new file and one line here
METHODS: dict[str, type[Method]] = {
    "lwf": LwF,
    "icarl": ICaRL,
    "bic": BiC,
    "lucir": LUCIR,
    "joint": Joint,
}

#: those that come with the project, of which is known that they train phase 0 alike and which
#: settings they read (`run.effects`); of any other neither is
BUILT_IN = frozenset({"lwf", "icarl", "bic", "lucir", "joint"})
