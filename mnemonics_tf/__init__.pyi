# The public names, for type checkers; __init__.py imports them when they are asked for.

from mnemonics_tf import bilevel as bilevel
from mnemonics_tf.data.sources import open_source as open_source
from mnemonics_tf.errors import UserError as UserError
from mnemonics_tf.experiment import Experiment as Experiment
from mnemonics_tf.own_classifier.exemplars import learn_exemplars as learn_exemplars
from mnemonics_tf.settings import Settings as Settings

__version__: str
_HAS_GPU: bool
