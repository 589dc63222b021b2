"""How many exemplars may be kept."""

import dataclasses

from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import ExemplarSettings


@dataclasses.dataclass(frozen=True)
class Budget:
    """How many exemplars may be kept (paper, Section 5.1).

    Attributes:
        per_class: setting (1): a fixed number for every class; None when `total` rules.
        total: setting (2): a fixed number in all, shared evenly by the classes seen; older classes
            give up exemplars as new ones arrive.
    """

    per_class: int | None = None
    total: int | None = None

    def __post_init__(self):
        if (self.per_class is None) == (self.total is None):
            raise UserError(
                f"exemplars per class {self.per_class} and in total {self.total}: pass exactly one "
                "of --exemplars_per_class and --exemplars_total"
            )

    def quota(self, num_seen: int) -> int:
        """Returns how many exemplars a class may have once `num_seen` classes are known.

        Raises:
            UserError: if not even one exemplar a class fits.
        """
        quota = (self.per_class or 0) if self.total is None else self.total // num_seen
        if quota < 1:
            raise UserError(
                f"--exemplars_total={self.total} leaves no exemplar for each of {num_seen} "
                f"classes: pass at least {num_seen}"
            )
        return quota


def make_budget(wanted: ExemplarSettings) -> Budget:
    """Returns the budget that settings ask for."""
    if wanted.exemplars_total:
        return Budget(total=wanted.exemplars_total)
    return Budget(per_class=wanted.exemplars_per_class)
