"""TensorFlow's greetings are kept from a terminal, and nothing else."""

import logging
import os
import subprocess
import sys

import pytest

from mnemonics_tf.startup import tell_uncaught, tells, without_greetings
from tools.generate_build import REPOSITORY

GREETINGS = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n"
    b"I0000 00:00:1.2 3 port.cc:153] oneDNN custom operations are on.\n"
)
ERROR = b"E0000 00:00:1.2 3 cuda.cc:1] no device\n"


@pytest.fixture
def not_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.mark.usefixtures("not_imported")
def test_errors_pass_and_greetings_do_not(capfd):
    with without_greetings():
        os.write(2, GREETINGS + ERROR)
    os.write(2, b"later\n")
    assert capfd.readouterr().err == ERROR.decode() + "later\n"


@pytest.mark.usefixtures("not_imported")
def test_what_fails_within_is_told(capfd):
    def fails():
        with without_greetings():
            os.write(2, GREETINGS + b"no symbol\n")
            raise ImportError

    with pytest.raises(ImportError):
        fails()
    assert capfd.readouterr().err == "no symbol\n"


@pytest.mark.usefixtures("not_imported")
def test_who_asks_for_them_gets_them(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with without_greetings():
        os.write(2, GREETINGS)
    assert capfd.readouterr().err == GREETINGS.decode()


@pytest.mark.parametrize(
    ("message", "told"),
    [("5 out of the last 5 calls triggered tf.function retracing.", False), ("no device", True)],
)
def test_retracing_is_not_told(message, told):
    record = logging.LogRecord("tensorflow", logging.WARNING, "", 1, message, (), None)
    assert tells(record) == told
    assert tells in logging.getLogger("tensorflow").filters


def test_closed_streams_take_no_file_s_place(tmp_path):
    """Without it the first file that is opened is standard output."""
    program = (
        "import sys, types; sys.modules['tensorflow'] = types.ModuleType('tensorflow');"
        "import mnemonics_tf.startup, os;"
        f"file = open({str(tmp_path / 'file')!r}, 'w');"
        "print('said'); os.write(1, b'said'); os.write(2, b'said'); print('said', file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    closed = ["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", *command]
    subprocess.run(closed, check=True, cwd=REPOSITORY)
    assert (tmp_path / "file").read_text() == ""


def test_ctrl_c_before_a_program_begins_is_one_line(capsys):
    tell_uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "stopped at once\n"
    tell_uncaught(KeyError, KeyError("missing"), None)
    assert "KeyError: 'missing'" in capsys.readouterr().err
