"""The rows of the tables: a method with its exemplars each, and what the paper has there."""

import dataclasses
from collections.abc import Sequence

from mnemonics_tf.errors import UserError
from mnemonics_tf.methods import METHODS
from mnemonics_tf.reporting.published import Choices, Published, published_values

#: Methods that train exactly as another one does, bit for bit: iCaRL changes the head that LwF is
#: read by and nothing else, and results.json holds both heads.
TRAINED_AS = {"icarl": "lwf"}

#: exemplars of a ceiling's row for each one of the others
TIMES = 4

_METHODS_OF_TABLE_1 = ("lwf", "icarl", "bic", "lucir")


@dataclasses.dataclass(frozen=True)
class Cell(Choices):
    """A row of a table: a method, whose head is read, with its exemplars.

    Attributes:
        name: shown in the table.
        ceiling: whether there are four times as many exemplars, of which an epoch replays as many
            as the other rows have: what there is to gain by better ones.
    """

    name: str
    ceiling: bool = False

    @property
    def trained_as(self) -> str:
        """The value of --method."""
        return TRAINED_AS.get(self.method, self.method)

    def flags(self) -> list[str]:
        """Returns the flags of a run of this cell."""
        chosen = [
            f"--method={self.trained_as}",
            f"--exemplars={self.exemplars}",
            f"--{'' if self.transfer else 'no'}weight_transfer",
            f"--{'' if self.adjust else 'no'}adjust_old_exemplars",
        ]
        return chosen if self.finetune else [*chosen, "--finetune_epochs=0"]

    def published(self, dataset: str, num_phases: int) -> Published | None:
        """Returns the paper's figures; None where it has none, or of something else."""
        row = None if self.ceiling else published_values(dataset, num_phases, self)
        return row if row and not row.departures else None


def cells(table: str, methods: Sequence[str] = (), ceiling: bool = False) -> list[Cell]:
    """Returns the rows of a table.

    Args:
        table: `1`, `2` or `ablation`.
        methods: those whose rows are wanted; empty: all.
        ceiling: with a row for each method that has exemplars of what they could be worth.

    Raises:
        UserError: if a method has no row in the table.
    """
    rows = {"1": _table_1, "2": _table_2, "ablation": _ablation}[table]()
    known = dict.fromkeys(cell.method for cell in rows)
    for method in methods:
        if method not in known:
            raise UserError(
                f"--methods={','.join(methods)}: table {table} has no row of {method!r}; "
                f"it has {', '.join(known)}"
            )
    rows = [cell for cell in rows if not methods or cell.method in methods]
    if ceiling:
        with_exemplars = dict.fromkeys(
            c.method for c in rows if not METHODS[c.method].keeps_past_data
        )
        for method in with_exemplars:
            name = f"{method} ceiling, {TIMES} x herding"
            rows.append(Cell(method, "herding", True, False, True, name, True))
    return rows


def _table_1() -> list[Cell]:
    rows = []
    for method in _METHODS_OF_TABLE_1:
        rows.append(Cell(method, "herding", False, False, False, method))
        # What is left of the plug-in without learned exemplars: the gain of these stands apart.
        rows.append(Cell(method, "herding", True, False, True, f"{method} w/ herding"))
        rows.append(Cell(method, "mnemonics", True, False, True, f"{method} w/ ours w/o adj."))
        rows.append(Cell(method, "mnemonics", True, True, True, f"{method} w/ ours"))
    return [*rows, Cell("joint", "herding", False, False, False, "joint")]


def _table_2() -> list[Cell]:
    return [
        Cell("lucir", kind, True, adjust, True, f"{kind}{'' if adjust else ' w/o adj.'}")
        for kind in ("random", "herding", "mnemonics")
        for adjust in (False, True)
    ]


def _ablation() -> list[Cell]:
    """One thing at a time, on LUCIR: what the published gain mixes."""
    steps = (
        ("herding", "herding", False, False, False),
        ("+ fine-tune", "herding", False, False, True),
        ("+ weight transfer", "herding", True, False, False),
        ("+ both", "herding", True, False, True),
        ("+ both, adjusted", "herding", True, True, True),
        ("mnemonics, nothing else", "mnemonics", False, False, False),
        ("mnemonics + both", "mnemonics", True, False, True),
        ("mnemonics + both, adjusted", "mnemonics", True, True, True),
    )
    return [Cell("lucir", *choices, name) for name, *choices in steps]
