"""Every image is decoded once before anything trains, so that a broken one is not met hours later.

What was found is kept: a file of the same name, size and times is not decoded again. The notes lie
in the user's cache directory, never beside the images.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import PIL
import tensorflow as tf

from mnemonics_tf.data import caches
from mnemonics_tf.data.decoding import examine
from mnemonics_tf.errors import UserError, counted, printable
from mnemonics_tf.monitoring.progress import LOGGER, duration, watched

#: how many broken files a message names
_NAMED = 10

#: files between two looks at the clock
_BATCH = 2048
_SECONDS_BETWEEN_NOTES = 60.0

#: beyond it, notes of files that are no longer there are not carried along
_MOST_NOTED = 2**23

#: who decides: other versions may decode otherwise
DECODERS = f"TensorFlow {tf.__version__}, Pillow {PIL.__version__}"


def check_files(
    root: pathlib.Path,
    paths: Sequence[str],
    skip_broken: bool,
    by_pillow: bool | None = None,
) -> dict[str, bool]:
    """Decodes every file; returns, for the good ones, whether Pillow must decode them.

    Args:
        root: what paths begin from.
        paths: of the files.
        skip_broken: warn of broken files and leave them out.
        by_pillow: whether Pillow decodes them all; None finds out for each what is right.

    Raises:
        UserError: names the broken files, unless they may be skipped.
    """
    notes = _Notes(root, by_pillow)
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    told = "files looked up: batch"  # on a network's file system that alone takes long
    looked_up = watched(batches, len(batches), told)
    digests = np.array([notes.digest(root, p) for batch in looked_up for p in batch], np.uint64)
    known = notes.known(digests)
    verdicts: list[bool | str] = [bool(verdict) for verdict in known]

    def check(row: int) -> bool | str:
        try:
            contents = (root / paths[row]).read_bytes()
        except OSError as error:
            return f"{error.strerror}"
        return examine(contents, 3, by_pillow)

    def keep() -> None:
        notes.keep(digests[known >= 0], known[known >= 0])

    rows = np.flatnonzero(known < 0)
    for row, verdict in examined(check, rows, f"below {printable(root)}", keep):
        verdicts[row] = verdict
        known[row] = -1 if isinstance(verdict, str) else verdict
    if len(rows):
        keep()
    broken = [
        (printable(paths[row]), str(verdicts[row])) for row in np.flatnonzero(known < 0).tolist()
    ]
    report_broken(broken, len(paths), "files", f"below {printable(root)}", skip_broken)
    return {paths[row]: bool(known[row]) for row in np.flatnonzero(known >= 0).tolist()}


def examined(
    examine_one: Callable[[int], bool | str],
    rows: np.ndarray,
    place: str,
    note: Callable[[], None],
) -> Iterator[tuple[int, bool | str]]:
    """Yields rows and what `examine_one` says of them, from several threads; tells how far it is.

    Args:
        examine_one: takes a row.
        rows: int `[n]`.
        place: where the images are, for the log.
        note: called now and then, so that little is lost if the process is stopped.
    """
    if not len(rows):
        return
    started = noted = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH].tolist()
            yield from zip(batch, pool.map(examine_one, batch), strict=True)
            now, done = time.monotonic(), start + len(batch)
            if now - noted > _SECONDS_BETWEEN_NOTES:
                note()
                noted = now
                left = (now - started) / done * (len(rows) - done)
                LOGGER.info("checked %d of %d images, %s left", done, len(rows), duration(left))
    LOGGER.info(
        "checked %s %s in %s",
        *(counted(len(rows), "image"), place, duration(time.monotonic() - started)),
    )


def report_broken(
    broken: Sequence[tuple[str, str]], total: int, kind: str, place: str, skip_broken: bool
) -> None:
    """Tells of images that can't be decoded.

    Args:
        broken: for each what a person finds it by, and what is wrong.
        total: how many there are, good and broken.
        kind: what holds an image: "files" or "records".
        place: where they are.
        skip_broken: whether they may be left out.

    Raises:
        UserError: names the first ones, unless they may be left out.
    """
    if not broken:
        return
    listed = "".join(f"\n  {name}: {problem}" for name, problem in broken[:_NAMED])
    more = f"\n  and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    message = f"{len(broken)} of {total} {kind} {place} can't be used:{listed}{more}"
    if not skip_broken:
        raise UserError(f"{message}\nmend or remove them, or pass --skip_broken")
    LOGGER.warning("%s\nthey are left out", message)


class _Notes:
    """Which files below a directory could be decoded when they were last looked at.

    Args:
        root: the directory.
        by_pillow: which decoder they were decoded by; None: each by its own.
    """

    def __init__(self, root: pathlib.Path, by_pillow: bool | None):
        place = os.fsencode(f"{root.resolve()}\0{by_pillow}")
        name = hashlib.sha256(place).hexdigest()[:16]
        self._path = caches.in_user_cache(f"checked_{name}.npz")
        found = caches.load(self._path)
        digests, verdicts = found.get("digests"), found.get("by_pillow")
        self._digests: np.ndarray = np.empty(0, np.uint64)
        self._verdicts: np.ndarray = np.empty(0, np.int8)
        if (
            digests is not None
            and verdicts is not None
            and (digests.dtype, verdicts.dtype) == (np.uint64, np.int8)
            and digests.ndim == 1
            and digests.shape == verdicts.shape
        ):
            self._digests, self._verdicts = digests, verdicts

    @staticmethod
    def digest(root: pathlib.Path, path: str) -> int:
        """Returns what a file's name, size and times come to, in 64 bits."""
        facts: tuple[int, ...]
        try:
            found = os.stat(root / path)
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        except OSError:
            facts = ()
        text = os.fsencode(f"{DECODERS}\0{path}\0{facts}")
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def known(self, digests: np.ndarray) -> np.ndarray:
        """Returns int8 `[n]`: 1 for good files that Pillow decodes, 0 for others, -1: not known."""
        if not len(self._digests):
            return np.full(len(digests), -1, np.int8)
        places = np.searchsorted(self._digests, digests).clip(max=len(self._digests) - 1)
        found = self._digests[places] == digests
        return np.where(found, self._verdicts[places], np.int8(-1)).astype(np.int8)

    def keep(self, digests: np.ndarray, by_pillow: np.ndarray) -> None:
        """Notes good files, beside those noted before: a subset leaves the whole set its own."""
        if len(self._digests) <= _MOST_NOTED:
            digests = np.concatenate([digests, self._digests])
            by_pillow = np.concatenate([by_pillow, self._verdicts])
        digests, first = np.unique(digests, return_index=True)
        verdicts = by_pillow.astype(np.int8)[first]
        if not caches.store(self._path, {"digests": digests, "by_pillow": verdicts}):
            place = self._path or "~/.cache (this user has no home)"
            LOGGER.info("%s can't be written: the images will be checked again next time", place)
