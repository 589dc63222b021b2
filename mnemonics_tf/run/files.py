"""How files are written, to a temporary name and then renamed, and read without trusting them."""

import contextlib
import errno
import json
import math
import os
import pathlib
import re
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Container, Iterator
from typing import Any, BinaryIO, cast

import numpy as np

from mnemonics_tf.errors import UserError, printable, shortened

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ZIP_LOCAL_HEADER = 30  # bytes; the last four hold the lengths of what follows: name and extra

_NOT_WRITABLE = (
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EEXIST, errno.ENOENT),  # a path that can't be a directory
    errno.ELOOP,  # a link in the place of a file
    errno.ENAMETOOLONG,
)

_CHUNK_BYTES = 2**20


def check_path(option: str, path: str | os.PathLike) -> None:
    """Refuses a path that no file can have, or behind which this user may not look.

    Args:
        option: what it was passed as, for the message.
        path: of a file or directory that may be there or not.

    Raises:
        UserError: tells what is wrong with it.
    """
    place = os.path.expanduser(path)
    shown = shortened(path, 100)
    try:
        os.stat(place)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        reason = error.strerror if isinstance(error, OSError) else "it holds a NUL"
        raise UserError(f"{option}={shown} is no path that can be used ({reason})") from error
    if os.path.isdir(place) and not os.access(place, os.X_OK):
        raise UserError(
            f"{option}={shown} is a folder in which this user may open nothing: mend its "
            "permissions, or pass another"
        )


def check_output(option: str, path: pathlib.Path) -> None:
    """Refuses what no file can be written to, before the work that the file is for.

    Args:
        option: what it was passed as, for the message.
        path: of the file, which need not be there.

    Raises:
        UserError: tells what is wrong with it.
    """
    check_path(option, temporary_name(path))
    shown = printable(path)
    if path.is_dir():
        raise UserError(f"{option}={shown} is a folder: pass the name of a file")
    if path.exists() and not path.is_file():
        raise UserError(f"{option}={shown} is no regular file: pass the name of another")
    check_folder(option, path.parent)


def check_folder(option: str, path: pathlib.Path) -> None:
    """Refuses what no file can be written into, before the work that the file is for.

    Args:
        option: what it was passed as, for the message.
        path: of the folder, which need not be there.

    Raises:
        UserError: tells what is wrong with it.
    """
    place = next((p for p in (path, *path.parents) if os.path.lexists(p)), path)
    if not place.is_dir():
        trouble = "is no folder: pass another path"
    elif not os.access(place, os.W_OK):
        trouble = "can't be written to by this user"
    else:
        return
    raise UserError(f"{option}={printable(path)}: {printable(place)} {trouble}")


def check_regular(path: pathlib.Path) -> None:
    """Refuses what is there and no regular file: reading a pipe waits for ever.

    Raises:
        UserError: if it is a folder, a pipe, a device, or can't be looked at.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):
            return
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(path)} can't be read ({error})") from error
    raise UserError(f"{printable(path)} is no regular file: remove it, or put the right file there")


#: lock files that this process holds, and what they were when it took them
_HELD: dict[pathlib.Path, os.stat_result] = {}


@contextlib.contextmanager
def watched(lock: pathlib.Path, held: os.stat_result) -> Iterator[None]:
    """Within it nothing is written beside or below a lock file once another is in its place.

    Whoever removes a directory takes its lock along: another process would get a new one, and two
    would write one run.

    Args:
        lock: path of the lock file.
        held: the file that is locked.
    """
    lock = lock.absolute()
    _HELD[lock] = held
    try:
        yield
    finally:
        del _HELD[lock]


def check_held(path: pathlib.Path) -> None:
    """Refuses to write in a directory whose lock this process has lost.

    Raises:
        UserError: if its lock file was removed or replaced.
    """
    path = path.absolute()
    for lock, held in _HELD.items():
        if lock.parent not in (path, *path.parents):
            continue
        try:
            lost = not os.path.samestat(os.stat(lock, follow_symlinks=False), held)
        except OSError:
            lost = True
        if lost:
            raise UserError(
                f"{lock.parent} was removed or replaced while this command worked in it, and "
                "another process may have begun there: nothing more is written; start the command "
                "again, or pass another --run_dir"
            )


@contextlib.contextmanager
def user_error_on_disk_trouble(path: pathlib.Path, option: str = "--run_dir") -> Iterator[None]:
    """Turns a full or read-only disk into a message that names the path and the way out.

    Args:
        path: what is written.
        option: by which the user chose where.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"the disk is full (or a quota or file size limit is reached): could not write "
                f"{path}; free some space and start the same command again"
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise UserError(
                f"{path} can't be written ({error.strerror}); pass a place that can be written as "
                f"{option}"
            ) from error
        raise


def temporary_name(path: pathlib.Path) -> pathlib.Path:
    """Returns where a file is written before it takes its name."""
    return path.with_name(f".tmp-{path.name}")


def write_atomically(
    path: pathlib.Path, write: Callable[[BinaryIO], object], option: str = "--run_dir"
) -> None:
    """Writes a file so that at any moment either the old or the new one is whole, on disk too.

    Args:
        path: the file.
        write: called with a binary stream.
        option: by which the user chose where.

    Raises:
        UserError: if the disk is full or read-only, or a folder is in the way; the old file stays.
    """
    check_held(path)
    temporary = temporary_name(path)
    with user_error_on_disk_trouble(path, option):
        for place in (temporary, path):
            if place.is_dir() and not place.is_symlink():
                raise UserError(f"{place} is a folder, where a file is to be written: remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A killed process leaves its temporary file; "x" follows no link in its place.
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            flush_to_disk(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def flush_to_disk(path: pathlib.Path) -> None:
    """Returns once a file's contents, or the names in a directory, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(directory: pathlib.Path) -> None:
    """Removes what writes that were killed left in a directory; folders are none of ours."""
    for path in directory.glob(".tmp-*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()


def remove_tree(path: pathlib.Path) -> None:
    """Removes a folder with all in it, or a file or link in its place, if there is one.

    What a link points to stays.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def in_order_of_numbers(name: str) -> tuple[tuple[int, str], ...]:
    """Returns a key that sorts names by the numbers in them: phase 99 comes before phase 100."""
    parts = re.split(r"(\d+)", name)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def write_text(path: pathlib.Path, text: str, option: str = "--run_dir") -> None:
    """Writes a text file atomically, where `option` let the user choose."""
    write_atomically(path, lambda stream: stream.write(text.encode()), option)


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
        UserError: if the file is missing, damaged or no regular one.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; the run directory is incomplete") from error
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, text or numbers
        raise UserError(f"{path} is damaged ({error}); restore it, or take another run") from error


def write_arrays(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes named arrays as an .npz, atomically; slashes in names are kept."""
    write_atomically(path, lambda stream: np.savez(stream, **cast(dict[str, Any], arrays)))


#: pixels (uint8) of more bytes stay in their file and are read from there as they are needed
MAPPED_BYTES = 2**28


def read_arrays(path: pathlib.Path, wanted: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Reads an .npz; never unpickles. The zip's checksums reveal damage.

    Large arrays of pixels are memory-mapped, read-only.

    No more memory is taken than the file has bytes, whatever its headers say.

    Args:
        path: of the file.
        wanted: names of the arrays to read; None: all.

    Raises:
        UserError: if the file is missing, damaged, no regular one or holds Python objects.
    """
    return dict(_arrays_of(path, wanted))


def check_arrays(path: pathlib.Path) -> None:
    """Refuses what `read_arrays` would, with one array in memory at a time."""
    for _ in _arrays_of(path):
        pass


def _arrays_of(
    path: pathlib.Path, wanted: Container[str] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.compress_size for info in archive.infolist()) > os.path.getsize(path):
                raise ValueError("its members overlap")
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for name, info in members.items():
                if wanted is None or name in wanted:
                    yield name, _read_array(archive, info)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing; the run directory is incomplete") from error
    except Exception as error:  # zipfile and NumPy raise nearly anything at damaged files
        raise UserError(f"{path} is damaged or no array file ({error})") from error


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed, which no run writes")
    path = str(archive.filename)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran_order, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        size = dtype.itemsize * math.prod(shape)
        left = min(info.file_size, os.path.getsize(path)) - stream.tell()
        if size != left:
            raise ValueError(f"{info.filename} has {left} bytes for {dtype} of shape {shape}")
        if size >= MAPPED_BYTES and dtype == np.uint8 and not fortran_order:
            header = stream.tell()
            while stream.read(_CHUNK_BYTES):  # to its end, where the checksum is compared
                pass
            return np.memmap(path, dtype, "r", _start_of(path, info) + header, shape)
        contents = np.empty(size, np.uint8)
        for start in range(0, size, _CHUNK_BYTES):
            chunk = contents[start : start + _CHUNK_BYTES]
            chunk[:] = np.frombuffer(stream.read(len(chunk)), np.uint8)
        stream.read(1)  # at the end the checksum is compared
    return contents.view(dtype).reshape(shape, order="F" if fortran_order else "C")


def _start_of(path: str, info: zipfile.ZipInfo) -> int:
    """Returns where in the file the contents of a member begin."""
    with open(path, "rb") as stream:
        stream.seek(info.header_offset)
        local = stream.read(_ZIP_LOCAL_HEADER)
    name_length, extra_length = struct.unpack("<HH", local[-4:])
    return info.header_offset + _ZIP_LOCAL_HEADER + name_length + extra_length
