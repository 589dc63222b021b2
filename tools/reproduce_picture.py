"""A table's differences from herding, drawn."""

import pathlib
from collections.abc import Sequence

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.pictures import paired_differences
from tools.reproduce_cells import TIMES
from tools.reproduce_results import Run
from tools.reproduce_rows import rows


def refuse_no_difference(runs: Sequence[Run], beside: Sequence[Run]) -> None:
    """Refuses rows that are compared with none: there would be nothing to draw.

    Args:
        runs: whose rows are wanted.
        beside: those that rows may be compared with, wanted or not.

    Raises:
        UserError: if so.
    """
    cells = {run.cell for run in [*runs, *beside]}
    if not any(run.cell.compares_with(cell) for run in runs for cell in cells):
        names = ", ".join(dict.fromkeys(run.cell.name for run in runs))
        raise UserError(
            f"--picture draws how far rows are ahead of herding, and {names} is compared with no "
            "other: choose further --rows, or leave it out"
        )


def write_picture(path: pathlib.Path, runs: Sequence[Run], beside: Sequence[Run] = ()) -> None:
    """Draws the gain in average accuracy over herding, by method and kernels, of rows that have it.

    Args:
        path: of the picture; its suffix gives the format.
        runs: whose rows are wanted.
        beside: those that rows may be compared with, wanted or not.

    Raises:
        UserError: if no row has the difference.
    """
    cell_of = {run.cell.name: run.cell for run in runs}
    groups: dict[str, dict[str, tuple[Sequence[float], float | None]]] = {}
    for row in rows(runs, beside):
        gain, cell = row.over_herding.accuracy, cell_of[row.name]
        if gain.mean is None:
            continue
        group = f"{cell.method}, {cell.kernels}, N = {row.num_phases}"
        name = row.name.removeprefix(f"{cell.method} {cell.kernels} ")
        if cell.ceiling and not cell.images:
            name += f" ({TIMES} x)"
        groups.setdefault(group, {})[name] = (gain.values, gain.half_width)
    if not groups:
        raise UserError(
            "--picture: no row is done whose herding's is done too: nothing to draw; train what is "
            "left, or pass the folders (--output, --published) that hold both"
        )
    paired_differences(groups, path, "Gain in average accuracy over herding (points)")
