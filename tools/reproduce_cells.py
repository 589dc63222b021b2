"""The rows of the tables: a method with its exemplars each, and what the paper has there."""

import dataclasses
import functools
import re
from collections.abc import Sequence

from mnemonics_tf.errors import UserError
from mnemonics_tf.methods import METHODS
from mnemonics_tf.reporting.published import Choices, Published, published_values
from mnemonics_tf.settings import ExemplarSettings

#: Methods that train exactly as another one does, bit for bit: iCaRL changes the head that LwF is
#: read by and nothing else, and results.json holds both heads.
TRAINED_AS = {"icarl": "lwf"}

#: exemplars of a ceiling's row for each one of the others
TIMES = 4

_METHODS_OF_TABLE_1 = ("lwf", "icarl", "bic", "lucir")

#: exemplars of a class where nothing else is said
PER_CLASS = ExemplarSettings().exemplars_per_class

# Tables that the paper has not: what exemplars are worth that take the same bytes.

#: of a class's exemplars as plain pixels of CIFAR-100
_BYTES = f"--exemplar_bytes_per_class={PER_CLASS * 32 * 32 * 3}"
#: of them on average JPEG of quality 90 holds in these bytes
_AS_JPEG = 127
#: an epoch sees as many exemplars in all rows
_REPLAY = f"--replay_per_class={PER_CLASS}"
#: flags that say how exemplars are stored
_STORED = re.compile("--(codec|jpeg_quality|coded_share|exemplar_bytes_per_class)=")
_WEBP = ("--codec=webp_lossless", _BYTES)


def _jpeg(quality: int = 90, share: float = 0.5) -> tuple[str, ...]:
    return "--codec=jpeg", f"--jpeg_quality={quality}", f"--coded_share={share:g}", _BYTES


_JPEG = _jpeg()
_ANCHORED = (
    *("--objective=anchored", "--inner_start=pool", "--pool_size=2", "--exemplars_per_step=0"),
    *("--outer_steps=20", "--outer_learning_rate=0.0063", "--outer_halvings=2"),
    *("--max_shift=255", "--validation_share=0"),
)


@dataclasses.dataclass(frozen=True)
class Cell(Choices):
    """A row of a table: a method, whose head is read, with its exemplars.

    Attributes:
        name: shown in the table.
        ceiling: whether there are more plain real images than the other rows have bytes for, of
            which an epoch replays as many as of theirs: what there is to gain by better exemplars.
        images: of a class in a ceiling; 0: `TIMES` as many as there are without it.
        more: flags beside those of its choices. Its runs then have the name of the row.
    """

    name: str
    ceiling: bool = False
    images: int = 0
    more: tuple[str, ...] = ()

    @property
    def trained_as(self) -> str:
        """The value of --method."""
        return TRAINED_AS.get(self.method, self.method)

    @property
    def kernels(self) -> str:
        """What becomes of kernels from phase 1 on, in words."""
        return "frozen" if self.transfer else "all kernels"

    def flags(self) -> list[str]:
        """Returns the flags of a run of this cell."""
        chosen = [
            f"--method={self.trained_as}",
            f"--exemplars={self.exemplars}",
            f"--{'' if self.transfer else 'no'}weight_transfer",
            f"--{'' if self.adjust else 'no'}adjust_old_exemplars",
        ]
        return [*chosen, *([] if self.finetune else ["--finetune_epochs=0"]), *self.more]

    @property
    def run_name(self) -> str | None:
        """Names its runs, where flags would make too long a name; None where flags do it."""
        return re.sub("[^a-z0-9.]+", "_", self.name.lower()) if self.more else None

    @property
    def stored_as(self) -> frozenset[str]:
        """The flags of its codec and its bytes; none where exemplars are so many plain pixels."""
        return frozenset(flag for flag in self.more if _STORED.match(flag))

    def compares_with(self, other: "Cell") -> bool:
        """Whether the other is this row with herding's exemplars as plain pixels, not adjusted."""
        return self != other and not other.stored_as and self._with_herding(other)

    def begins_as(self, other: "Cell") -> bool:
        """Whether its exemplars began as the other's, herding's in a codec, which stayed so."""
        learned = self.exemplars == "mnemonics" and self.stored_as
        return bool(learned) and self.stored_as == other.stored_as and self._with_herding(other)

    def _with_herding(self, other: "Cell") -> bool:
        """Whether the other trains alike, with herding's exemplars, not adjusted."""
        mine, theirs = ((c.method, c.transfer, c.finetune) for c in (self, other))
        chosen = other.exemplars == "herding" and not other.adjust and not other.ceiling
        return mine == theirs and chosen

    def published(self, dataset: str, num_phases: int) -> Published | None:
        """Returns the paper's figures; None where it has none, or of something else."""
        own = self.ceiling or self.more
        row = None if own else published_values(dataset, num_phases, self)
        return row if row and not row.departures else None


def cells(
    table: str, methods: Sequence[str] = (), ceiling: bool = False, wanted: str = ""
) -> list[Cell]:
    """Returns the rows of a table.

    Args:
        table: one of `TABLES`.
        methods: those whose rows are wanted; empty: all.
        ceiling: with rows of what exemplars could be worth: those of the table, or one for each
            method that has exemplars.
        wanted: regular expression that the names of rows hold.

    Raises:
        UserError: if a method has no row in the table, or no row has such a name.
    """
    rows = TABLES[table]()
    known = dict.fromkeys(cell.method for cell in rows)
    for method in methods:
        if method not in known:
            raise UserError(
                f"--methods={','.join(methods)}: table {table} has no row of {method!r}; "
                f"it has {', '.join(known)}"
            )
    rows = [cell for cell in rows if not methods or cell.method in methods]
    if not ceiling:
        rows = [cell for cell in rows if not cell.ceiling]
    elif not any(cell.ceiling for cell in rows):
        rows += _ceilings(rows)
    named = [cell for cell in rows if _pattern(wanted).search(cell.name)]
    if not named:
        names = ", ".join(repr(cell.name) for cell in rows)
        raise UserError(f"--rows={wanted}: table {table} has no such row; it has {names}")
    return named


def _pattern(wanted: str) -> re.Pattern:
    try:
        return re.compile(wanted)
    except re.error as error:
        raise UserError(f"--rows={wanted} is no regular expression: {error}") from error


def _ceilings(rows: Sequence[Cell]) -> list[Cell]:
    """Returns a row for each method that has exemplars, with four times as many."""
    methods = dict.fromkeys(
        cell.method for cell in rows if not METHODS[cell.method].keeps_past_data
    )
    names = {method: f"{method} ceiling, {TIMES} x herding" for method in methods}
    return [
        Cell(method, "herding", True, False, True, name, ceiling=True)
        for method, name in names.items()
    ]


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


def _bytes() -> list[Cell]:
    """What is kept in the bytes of 20 plain images: more of them in a better format, or learned."""
    learned = ("--max_shift=1", "--outer_steps=40")
    kinds = (
        ("random", "random", ()),
        ("herding", "herding", ()),
        ("learned", "mnemonics", learned),
        ("WebP herding", "herding", _WEBP),
        ("WebP learned", "mnemonics", (*_WEBP, *learned)),
        ("JPEG herding", "herding", _JPEG),
        ("JPEG anchored", "mnemonics", (*_JPEG, *_ANCHORED)),
        # The best quality on a seed that is in no other row (table `jpeg`).
        ("JPEG 95 herding", "herding", _jpeg(95)),
        ("JPEG 95 anchored", "mnemonics", (*_jpeg(95), *_ANCHORED)),
    )
    return _own_table(kinds, (0, _AS_JPEG))


def _shift() -> list[Cell]:
    """How far learned exemplars may move from the images that they began as, 255: anywhere."""
    learned = {
        "learned" if shift == "1" else f"learned {shift}": (f"--max_shift={shift}",)
        for shift in ("0.5", "1", "2", "4", "255")
    }
    # What chooses by the next phase, where the probe does not see the harm.
    learned["learned 4, rehearsal"] = (*learned["learned 4"], "--validation=rehearsal")
    kinds = (
        ("herding", "herding", ()),
        *((name, "mnemonics", (*more, "--outer_steps=40")) for name, more in learned.items()),
    )
    return _own_table(kinds, (0,))


def _jpeg_choices() -> list[Cell]:
    """The quality of JPEG, and the share of new images that go through the codec as well."""
    kinds = (
        ("herding", "herding", ()),
        *((f"JPEG {quality} herding", "herding", _jpeg(quality)) for quality in (75, 85, 95)),
        ("JPEG herding", "herding", _JPEG),
        *((f"JPEG herding, {share:g} coded", "herding", _jpeg(share=share)) for share in (0, 1)),
    )
    return _own_table(kinds, (0, _AS_JPEG))


def _own_table(
    kinds: Sequence[tuple[str, str, tuple[str, ...]]], ceilings: Sequence[int]
) -> list[Cell]:
    """Returns a table that the paper has not; a row in two of them has the same runs.

    Args:
        kinds: what a row is called, the exemplars it has, and further flags.
        ceilings: images of a class in each ceiling; 0: `TIMES` those of the other rows.
    """
    plain = [
        Cell(method, "herding", transfer, False, True, method)
        for method in ("lwf", "lucir")
        for transfer in (False, True)
    ]
    return [row for cell in plain for row in _own_rows(cell, kinds, ceilings)]


def _own_rows(
    plain: Cell, kinds: Sequence[tuple[str, str, tuple[str, ...]]], ceilings: Sequence[int]
) -> list[Cell]:
    """Returns the rows of one method and its kernels.

    Args:
        plain: has these.
        kinds: as in `_own_table`.
        ceilings: likewise.
    """
    row = functools.partial(dataclasses.replace, plain)
    name = f"{plain.method} {plain.kernels}"
    return [
        *(
            row(name=f"{name} {kind}", exemplars=exemplars, more=(*more, _REPLAY))
            for kind, exemplars, more in kinds
        ),
        *(
            row(
                name=f"{name} ceiling {images or ''}".strip(),
                ceiling=True,
                images=images,
                more=(_REPLAY,),
            )
            for images in ceilings
        ),
    ]


#: those that the paper has not
_OWN = {"bytes": _bytes, "shift": _shift, "jpeg": _jpeg_choices}
OWN_TABLES = tuple(_OWN)

TABLES = {"1": _table_1, "2": _table_2, "ablation": _ablation, **_OWN}
