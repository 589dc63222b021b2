"""How much may be kept: so many exemplars, or so many bytes of what is stored of them."""

import dataclasses

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.exemplars.storage import first_rows
from mnemonics_tf.settings import ExemplarSettings

_DEFAULT_PER_CLASS = ExemplarSettings().exemplars_per_class


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much may be kept (paper, Section 5.1); exactly one of the four is set.

    Attributes:
        per_class: setting (1): a fixed number for every class.
        total: setting (2): a fixed number in all, shared evenly by the classes seen; older classes
            give up exemplars as new ones arrive.
        bytes_per_class: setting (1) in bytes of a class's code.
        bytes_total: setting (2) in bytes of all codes.
    """

    per_class: int | None = None
    total: int | None = None
    bytes_per_class: int | None = None
    bytes_total: int | None = None

    def __post_init__(self):
        if sum(value is not None for value in dataclasses.astuple(self)) != 1:
            raise UserError(
                f"exemplars per class {self.per_class} and in total {self.total}, bytes per class "
                f"{self.bytes_per_class} and in total {self.bytes_total}: pass exactly one of "
                "--exemplars_per_class, --exemplars_total, --exemplar_bytes_per_class and "
                "--exemplar_bytes_total"
            )

    @property
    def counts_bytes(self) -> bool:
        """Whether quotas are bytes."""
        return self.per_class is None and self.total is None

    @property
    def flag(self) -> str:
        """The flag that sets it, with its value."""
        name, value = next((k, v) for k, v in dataclasses.asdict(self).items() if v is not None)
        return f"--exemplar{'_' if self.counts_bytes else 's_'}{name}={value}"

    @property
    def in_words(self) -> str:
        """What may be kept: `20 a class`, `61440 bytes in all`."""
        value = next(value for value in dataclasses.astuple(self) if value is not None)
        unit = " bytes" if self.counts_bytes else ""
        shared = self.total is not None or self.bytes_total is not None
        return f"{value}{unit} {'in all' if shared else 'a class'}"

    def share(self, num_seen: int) -> int:
        """Returns how many exemplars, or bytes, each of so many classes has, were it none."""
        fixed = self.bytes_per_class if self.counts_bytes else self.per_class
        total = self.bytes_total if self.counts_bytes else self.total
        return (fixed or 0) if total is None else total // num_seen

    def quota(self, num_seen: int) -> int:
        """Returns how many exemplars, or bytes, a class may have once `num_seen` are known.

        Raises:
            UserError: if not even one of them is left for a class.
        """
        quota = self.share(num_seen)
        if quota < 1:
            raise UserError(
                f"{self.flag} leaves no {'byte' if self.counts_bytes else 'exemplar'} for each of "
                f"{num_seen} classes: pass at least {num_seen}"
            )
        return quota

    def of_classes(self, per_class: int, num_classes: int) -> str:
        """Returns the flag of a budget of this kind that has so much for each of some classes."""
        value = per_class if self.total is None and self.bytes_total is None else None
        name = self.flag.partition("=")[0]
        return f"{name}={value or per_class * num_classes}"


def make_budget(wanted: ExemplarSettings) -> Budget:
    """Returns the budget that settings ask for.

    Raises:
        UserError: if there are several, which contradict each other.
    """
    set_apart = {
        "total": wanted.exemplars_total,
        "bytes_per_class": wanted.exemplar_bytes_per_class,
        "bytes_total": wanted.exemplar_bytes_total,
    }
    chosen = {name: value for name, value in set_apart.items() if value}
    budgets = [Budget(**{name: value}) for name, value in chosen.items()]
    counts_bytes = any(budget.counts_bytes for budget in budgets)
    if counts_bytes and wanted.exemplars_per_class != _DEFAULT_PER_CLASS:
        budgets.append(Budget(per_class=wanted.exemplars_per_class))
    if len(budgets) > 1:
        raise UserError(
            f"{' and '.join(budget.flag for budget in budgets)} are budgets that contradict each "
            "other: pass one of them, and leave the others out"
        )
    return budgets[0] if budgets else Budget(per_class=wanted.exemplars_per_class)


def kept_within(memory: ExemplarMemory, budget: Budget, num_seen: int) -> ExemplarMemory:
    """Returns what of a memory a budget allows: of each class the first ones (line 17).

    Args:
        memory: of all classes seen.
        budget: of the run.
        num_seen: how many classes are known.

    Raises:
        UserError: if not even the first exemplar of a class fits into its bytes.
    """
    rows = rows_within(memory, budget, num_seen)
    if len(np.setdiff1d(memory.labels, memory.labels[rows])):
        refuse_too_few_bytes(budget, num_seen, memory.codec, _largest_first(memory), begun=True)
    return memory.kept(rows)


def rows_within(memory: ExemplarMemory, budget: Budget, num_seen: int) -> np.ndarray:
    """Returns the rows of a memory that a budget allows: of each class the first ones, if any.

    Args:
        memory: of all classes seen.
        budget: of the run.
        num_seen: how many classes are known.
    """
    quota = budget.quota(num_seen)
    if budget.counts_bytes:
        return memory.rows_within(quota)
    return first_rows(memory.labels, quota)


def check_last_share(
    memory: ExemplarMemory, budget: Budget, num_classes: int, begun: bool = True
) -> None:
    """Refuses to go on where a class's first exemplar will not fit once all classes are known.

    Args:
        memory: of the classes seen so far.
        budget: of the run.
        num_classes: that share it in the end.
        begun: whether the phase has begun, so that its budget is fixed.

    Raises:
        UserError: if it will not; says how many bytes are enough.
    """
    if budget.counts_bytes and budget.quota(num_classes) < (needed := _largest_first(memory)):
        refuse_too_few_bytes(budget, num_classes, memory.codec, needed, begun)


def _largest_first(memory: ExemplarMemory) -> int:
    """Returns the bytes of the class whose first exemplar, alone, takes the most."""
    return int(memory.trimmed(1).bytes_by_class().max())


def refuse_too_few_bytes(
    budget: Budget, num_seen: int, codec: str, needed: int, begun: bool
) -> None:
    """Refuses a budget into which not even the first exemplar of a class fits.

    Args:
        budget: in bytes.
        num_seen: how many classes share it.
        codec: what exemplars are stored as.
        needed: the bytes of a class with its first exemplar alone.
        begun: whether a run or a further phase has begun with it.

    Raises:
        UserError: says how many bytes are enough.
    """
    enough = budget.of_classes(needed, num_seen)
    way_out = f"pass at least {enough}"
    if begun:
        way_out = (
            f"begin anew with at least {enough}, and some more for the images of later classes; "
            "--phase0_from=RUN keeps what a run has trained in phase 0"
        )
    raise UserError(
        f"{budget.flag} leaves {budget.share(num_seen)} bytes for each of {num_seen} classes, but "
        f"a single exemplar takes {needed} bytes with --codec={codec}: {way_out}"
    )
