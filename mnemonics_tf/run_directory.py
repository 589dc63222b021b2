"""Where everything of a run lies, and how it is written: to a temporary name, then replaced."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from mnemonics_tf.errors import UserError

_ZIP_LOCAL_HEADER = 30  # bytes; the last four hold the lengths of what follows: name and extra

_NOT_WRITABLE = (
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT),  # a path that can't be a directory
)


@contextlib.contextmanager
def user_error_on_disk_trouble(path: pathlib.Path) -> Iterator[None]:
    """Turns a full or read-only disk into a message that names the path and the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk is full: could not write {path}; free some space and start the same "
                "command again, it goes on where it stopped"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise UserError(
                f"{path} can't be written ({error.strerror}); "
                "pass a writable directory as --run_dir"
            ) from error
        raise


def write_atomically(path: pathlib.Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file so that at any moment either the old or the new one is whole.

    Args:
        path: the file.
        write: called with a binary stream.

    Raises:
        UserError: if the disk is full or read-only; the old file stays.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    with user_error_on_disk_trouble(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically."""
    write_atomically(path, lambda stream: stream.write(text.encode()))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON atomically, an entry a line; lists of plain values stay on one line."""
    write_text(path, _indented(value, "") + "\n")


def _indented(value: Any, margin: str) -> str:
    inner = margin + " "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(str(k))}: {_indented(v, inner)}" for k, v in value.items()]
        left, right = "{}"
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        items = [_indented(item, inner) for item in value]
        left, right = "[]"
    else:
        return json.dumps(value)
    lines = ",\n".join(inner + item for item in items)
    return f"{left}\n{lines}\n{margin}{right}"


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
        UserError: if the file is damaged.
    """
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is damaged ({error}); restore it or use another --run_dir"
        ) from error


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays as an .npz, atomically; slashes in names are kept."""
    write_atomically(path, lambda stream: np.savez(stream, **arrays))


#: pixels (uint8) of more bytes stay in their file and are read from there as they are needed
MAPPED_BYTES = 2**28


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads an .npz; never unpickles. The zip's checksums reveal damage.

    Large arrays of pixels are memory-mapped, read-only.

    Raises:
        UserError: if the file is missing, damaged or holds Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _read_or_map(path, archive, name) for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; the run directory is incomplete") from error
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or no array file ({error})") from error


def _read_or_map(path: pathlib.Path, archive: Any, name: str) -> np.ndarray:
    member = f"{name}.npy" if f"{name}.npy" in archive.zip.namelist() else name
    entry = archive.zip.getinfo(member)
    if entry.file_size < MAPPED_BYTES or entry.compress_type != zipfile.ZIP_STORED:
        return archive[name]
    with archive.zip.open(entry) as stream:
        np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if dtype != np.uint8 or fortran_order:
            return archive[name]
        header = stream.tell()
        while stream.read(2**22):  # to its end, where the checksum is compared
            pass
    with open(path, "rb") as stream:
        stream.seek(entry.header_offset)
        local = stream.read(_ZIP_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", local[-4:])
    start = entry.header_offset + _ZIP_LOCAL_HEADER + name_length + extra_length
    return np.memmap(path, dtype, "r", start + header, shape)


class RunDirectory:
    """The files of one run.

    Args:
        root: the run's directory; made on the first write.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)
        self.flags = self.root / "flags.txt"
        self.settings = self.root / "settings.json"
        self.classes = self.root / "classes.json"
        self.results = self.root / "results.json"
        self.log = self.root / "log.txt"
        self.export = self.root / "export"
        self.tensorboard = self.root / "tensorboard"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from the run; the lock dies with its holder.

        Raises:
            UserError: if another process works on the run, or the directory can't be written.
        """
        path = self.root / ".lock"
        with user_error_on_disk_trouble(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            stream = open(path, "w")  # noqa: SIM115, it stays open as long as the lock
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise UserError(
                f"another process works on {self.root}: wait for it, or pass another --run_dir"
            ) from error
        try:
            yield
        finally:
            stream.close()

    def phase(self, index: int) -> pathlib.Path:
        """Returns the directory of one phase."""
        return self.root / "phases" / f"{index:02d}"

    def record(self, index: int) -> pathlib.Path:
        """Returns the file that closes a phase: written last, its presence says 'done'."""
        return self.phase(index) / "phase.json"

    def model(self, index: int) -> pathlib.Path:
        """Returns the arrays of Theta_i at the end of phase i."""
        return self.phase(index) / "model.npz"

    @property
    def base_model(self) -> pathlib.Path:
        """Returns the arrays of Theta_0 as trained, for runs that share it."""
        return self.phase(0) / "base_model.npz"

    def exemplars(self, index: int) -> pathlib.Path:
        """Returns the exemplar memory at the end of phase i."""
        return self.phase(index) / "exemplars.npz"

    def predictions(self, index: int) -> pathlib.Path:
        """Returns what both heads predicted for the test set at the end of phase i."""
        return self.phase(index) / "predictions.npz"
