"""Where everything of a run lies, and the lock that gives it one writer."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.paths import user_path
from mnemonics_tf.run.files import (
    check_held,
    check_regular,
    user_error_on_disk_trouble,
    watched,
)


class RunDirectory:
    """The files of one run.

    Args:
        root: the run's directory; made on the first write. `~` is a home.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = user_path(root)
        self.flags = self.root / "flags.txt"
        self.settings = self.root / "settings.json"
        self.classes = self.root / "classes.json"
        #: a user's own backbone, and the weights that it begins with
        self.backbone = self.root / "backbone.json"
        self.backbone_weights = self.root / "backbone.npz"
        self.results = self.root / "results.json"
        self.log = self.root / "log.txt"
        self.export = self.root / "export"
        self.tensorboard = self.root / "tensorboard"

    def require(self) -> None:
        """Raises UserError unless a run has begun here."""
        if not self.settings.exists():
            raise UserError(f"--run_dir={self.root} holds no run: settings.json is missing")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes from the run; the lock dies with its holder.

        Raises:
            UserError: if another process works on the run, the directory can't be written or
                locked, or what is no file has the name of one of the run's; and at the next write
                within, if the directory was removed or replaced meanwhile.
        """
        for path in (
            *(self.flags, self.settings, self.classes, self.results, self.log),
            *(self.backbone, self.backbone_weights),
        ):
            check_regular(path)
        path = self.root / ".lock"
        with user_error_on_disk_trouble(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            stream = os.fdopen(os.open(path, flags, 0o666), "w")  # open as long as the lock
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise UserError(
                f"another process works on {self.root}: wait for it, or pass another --run_dir"
            ) from error
        except OSError as error:  # some network and FUSE file systems have no locks
            stream.close()
            raise UserError(
                f"{printable(path)} can't be locked ({error.strerror}), so that two processes "
                "could write one run: pass another --run_dir, on a file system with locks, e.g. a "
                "local one"
            ) from error
        with contextlib.closing(stream), watched(path, os.fstat(stream.fileno())):
            check_held(path)  # it may have been removed before it was locked
            yield

    def phase(self, index: int) -> pathlib.Path:
        """Returns the directory of one phase."""
        return self.root / "phases" / f"{index:02d}"

    def record(self, index: int) -> pathlib.Path:
        """Returns the file that closes a phase: written last, its presence says 'done'."""
        return self.phase(index) / "phase.json"

    def learned(self, index: int) -> pathlib.Path:
        """Returns the file that tells where a phase beyond the run's protocol came from."""
        return self.phase(index) / "learned.json"

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

    def exemplar_starts(self, index: int) -> pathlib.Path:
        """Returns the images that learned exemplars of phase i began as, a few, for pictures."""
        return self.phase(index) / "exemplar_starts.npz"

    def predictions(self, index: int) -> pathlib.Path:
        """Returns what both heads predicted for the test set at the end of phase i."""
        return self.phase(index) / "predictions.npz"
