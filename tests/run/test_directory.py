"""The lock of a run directory, also of one that is removed under its holder."""

import errno
import fcntl
import os
import shutil

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.summaries import Summaries
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_text
from tools.generate_build import REPOSITORY


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_one_process_has_the_lock(directory):
    with directory.locked():
        with pytest.raises(UserError, match="another process works on"):
            directory.locked().__enter__()
        write_text(directory.results, "")
    with directory.locked():
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(directory, monkeypatch, code):
    def flock(stream, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=f"{directory.root}.* can't be locked .*another --run_dir"):
        directory.locked().__enter__()


@pytest.mark.parametrize("begun_again", [False, True])
def test_whoever_lost_the_directory_writes_nothing_more(directory, begun_again):
    with directory.locked():
        write_text(directory.results, "")
        shutil.rmtree(directory.root)
        if begun_again:  # as by another process
            directory.root.mkdir()
            (directory.root / ".lock").touch()
        for write in (
            lambda: write_text(directory.record(0), ""),
            lambda: Summaries(directory.tensorboard).scalars("loss", {"x": 1.0}, 0),
        ):
            with pytest.raises(UserError, match="was removed or replaced") as raised:
                write()
            assert "\n" not in str(raised.value)
        assert directory.root.exists() == begun_again
        assert not directory.record(0).parent.exists()
    write_text(directory.results, "")  # without a lock anybody may


def test_the_documents_name_every_file_of_a_run(directory):
    text = (REPOSITORY / "docs" / "running.md").read_text("utf-8")
    tree = text.partition("## What a run leaves")[2].split("```")[1]
    files = [path.name for path in vars(directory).values() if path != directory.root]
    by_phase = [directory.base_model, directory.exemplars(0), directory.exemplar_starts(0)]
    by_phase += [directory.model(0), directory.predictions(0), directory.record(0)]
    missing = [name for name in (*files, *(p.name for p in by_phase)) if name not in tree]
    assert not missing
