"""What must survive a kill within a phase: one owner, whole files, the newest two."""

import contextlib
import dataclasses
import logging
import pathlib
import re

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.files import check_arrays, read_arrays, remove_leftovers, write_arrays

_NAME = re.compile(r"checkpoint-\d{6,}\.npz")

_LOGGER = logging.getLogger("mnemonics_tf")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A moment within a phase.

    Attributes:
        stage: name of the stage it belongs to; all earlier stages are done.
        position: how many of the stage's steps are done.
        groups: arrays by group (`model`, `optimizer`, ...) and name.
    """

    stage: str
    position: int
    groups: dict[str, dict[str, np.ndarray]]


class PhaseCheckpoints:
    """Snapshots of one phase; a damaged newest one falls back to the one before it.

    Args:
        directory: of the phase.
        owner: names the run and the phase; snapshots of others are refused.
        writes: whether this process saves snapshots; of several workers the chief alone does.

    Attributes:
        directory: of the phase.
    """

    def __init__(self, directory: pathlib.Path, owner: str, writes: bool = True):
        self.directory = directory
        self._owner = owner
        self._writes = writes
        self._damaged: list[pathlib.Path] = []

    def save(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, if this process writes, and removes all but the two newest whole ones.

        Raises:
            UserError: if the disk is full or read-only.
        """
        if not self._writes:
            return
        arrays = {
            f"{group}:{name}": array
            for group, members in snapshot.groups.items()
            for name, array in members.items()
        }
        arrays["stage"] = np.array(snapshot.stage)
        arrays["position"] = np.array(snapshot.position)
        arrays["owner"] = np.array(self._owner)
        numbers = [int(path.stem.split("-")[1]) for path in self._files()]
        number = max(numbers, default=-1) + 1
        write_arrays(self.directory / f"checkpoint-{number:06d}.npz", arrays)
        for path in self._damaged:
            path.unlink(missing_ok=True)
        for path in self._files()[:-2]:
            path.unlink()

    def latest(self) -> Snapshot | None:
        """Returns the newest snapshot that is whole, or None.

        Raises:
            UserError: if there are snapshots and none of them is whole, or it is another run's or
                an earlier version's.
        """
        files = self._files()
        for path in reversed(files):
            try:
                arrays = read_arrays(path)
                _refuse_earlier_versions(path, arrays)
                owner, snapshot = _parse(arrays)
            except EarlierVersionError:
                raise
            except (UserError, KeyError, ValueError, TypeError) as error:
                _LOGGER.warning("checkpoint %s is damaged, trying the one before: %s", path, error)
                self._damaged.append(path)
                continue
            if owner != self._owner:
                raise UserError(
                    f"checkpoint {path} belongs to another run or phase: "
                    "put the right one back, or remove it"
                )
            return snapshot
        if files:
            raise UserError(
                f"no checkpoint in {self.directory} is whole; "
                f"remove {self.directory} to start the phase again"
            )
        return None

    def clear(self) -> None:
        """Removes all snapshots, and what killed writes left, once the phase is done."""
        for path in self._files():
            path.unlink()
        remove_leftovers(self.directory)

    def _files(self) -> list[pathlib.Path]:
        return _files_in(self.directory)


def newest_whole(directory: pathlib.Path) -> pathlib.Path | None:
    """Returns the file that `latest` would take, or the newest where it would find none whole.

    Args:
        directory: of a phase.
    """
    files = _files_in(directory)
    for path in reversed(files):
        with contextlib.suppress(UserError):
            check_arrays(path)
            return path
    return files[-1] if files else None


def _files_in(directory: pathlib.Path) -> list[pathlib.Path]:
    found = directory.glob("checkpoint-*.npz")
    numbered = [path for path in found if _NAME.fullmatch(path.name) and path.is_file()]
    return sorted(numbered, key=lambda path: int(path.stem.split("-")[1]))


class EarlierVersionError(UserError):
    """A snapshot is whole, and of a kind that this version does not go on from."""


def _refuse_earlier_versions(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    if "moment" in arrays:  # they counted stages instead of naming them
        raise EarlierVersionError(
            f"{path} was written by an earlier version of the program, in the middle of a phase: "
            f"finish the run with that version, or remove {path.parent} to begin the phase again"
        )


def _parse(arrays: dict[str, np.ndarray]) -> tuple[str, Snapshot]:
    owner = str(arrays.pop("owner"))
    stage, position = str(arrays.pop("stage")), int(arrays.pop("position"))
    groups: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        group, name = key.split(":", 1)
        groups.setdefault(group, {})[name] = array
    return owner, Snapshot(stage, position, groups)
