"""The registry of the data sources we know."""

from collections.abc import Callable

from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError

# The factories import late: naming a source must not cost the imports of all the others.


def _cifar100(data_dir: str, download: bool) -> DataSource:
    from mnemonics_tf.data import cifar

    return cifar.load_cifar100(data_dir, download)


def _digits(data_dir: str, download: bool) -> DataSource:
    from mnemonics_tf.data import digits

    return digits.load_digits()


SOURCES: dict[str, Callable[[str, bool], DataSource]] = {
    "cifar100": _cifar100,
    "digits": _digits,
}


def create(name: str, data_dir: str, download: bool) -> DataSource:
    """Opens the data source registered under `name`.

    Args:
        name: a key of `SOURCES`.
        data_dir: the folder that holds the data (or, where the source says so, the data itself).
        download: whether the source may fetch missing data from the network.

    Raises:
        UserError: if there is no such source, or its data is missing or damaged.
    """
    if name not in SOURCES:
        raise UserError(f"unknown data source {name!r}; known ones: {', '.join(sorted(SOURCES))}")
    return SOURCES[name](data_dir, download)
