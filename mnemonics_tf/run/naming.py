"""The directory of a run for which none is named."""

import pathlib
import re

from mnemonics_tf.run.results import hash_of
from mnemonics_tf.settings import Settings

#: settings that the name spells out
_SPELLED = ("dataset", "method", "exemplars", "num_phases", "seed")

#: sources of whose images only the place tells what they are
_NAMED_BY_PLACE = ("folder", "npz")


def default_run_dir(settings: Settings) -> str:
    """Returns `runs/DATA_METHOD_EXEMPLARS_N5_seed0`, with a hash of what else is no default.

    Equal settings have one name, others another: what is run again goes on, what is run besides
    begins anew.

    Args:
        settings: of the run; where and how it runs plays no part, but for the name of the data.
    """
    data = settings.protocol.dataset
    if data in _NAMED_BY_PLACE and settings.run.data_dir:
        data += f"-{pathlib.Path(settings.run.data_dir).stem}"
    parts = [
        *(data, settings.training.method, settings.exemplar.exemplars),
        *(f"N{settings.protocol.num_phases}", f"seed{settings.protocol.seed}"),
    ]
    others = {name: v for name, v in settings.chosen().items() if name not in _SPELLED}
    if others:
        parts.append(hash_of(others)[:6])
    return "runs/" + re.sub(r"[^\w.-]", "-", "_".join(parts))
