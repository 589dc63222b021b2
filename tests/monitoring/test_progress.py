"""What a run says while it works, on a terminal and elsewhere."""

import errno
import io
import logging
import os
import re
import sys

import pytest

from mnemonics_tf.monitoring import progress
from mnemonics_tf.monitoring.progress import (
    LOGGER,
    StageProgress,
    duration,
    log_before_run,
    log_to,
    waiting_for,
    watched,
)

METRICS = {
    "classification": 0.25,
    "loss": 1.8114,
    "learning_rate": 0.001,
    "images_per_second": 227.9,
}


class Stream(io.StringIO):
    """Standard output that says whether it is a terminal."""

    def __init__(self, terminal: bool):
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.fixture
def stream(monkeypatch, tmp_path):
    """Makes standard output a terminal or not; to be called in the test, or pytest undoes it."""

    def make(terminal: bool) -> Stream:
        stream = Stream(terminal)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("TERM", "xterm")
        log_to(tmp_path / "log.txt")
        return stream

    return make


def screen(text: str) -> list[str]:
    """The lines that a terminal would show of what was written to it."""
    lines = [""]
    for token in re.findall(r"\x1b\[K|\r|\n|[^\x1b\r\n]+", text):
        if token == "\n":
            lines.append("")
        elif token == "\x1b[K":
            lines[-1] = ""  # all of it: what is written here always follows a return
        elif token != "\r":
            lines[-1] += token
    return lines


def test_a_terminal_shows_one_line_that_changes(stream, clock):
    stream = stream(terminal=True)
    stage = StageProgress(1, 5, "train", total=4)
    clock.now += 10
    stage.update(1, METRICS)
    first = "phase 1/5 train epoch 1/4  loss 1.811  228 images/s  30 s left"
    others = "  classification 0.25  learning_rate 1.0e-03"
    assert screen(stream.getvalue()) == [first + others]
    clock.now += 20
    stage.update(2, METRICS)
    (line,) = screen(stream.getvalue())
    assert line.startswith("phase 1/5 train epoch 2/4  loss 1.811  228 images/s  30 s left")
    LOGGER.info("a message")
    stage.update(3, METRICS)
    clock.now += 60
    stage.update(4, METRICS)
    message, last, empty = screen(stream.getvalue())
    assert message == "a message"
    assert last.startswith("phase 1/5 train epoch 4/4")
    assert "took 1:30" in last
    assert empty == ""


def test_a_terminal_without_messages_shows_no_line(stream, clock, tmp_path):
    """As a notebook's cell that wants none: log.txt has plain lines then."""
    stream = stream(terminal=True)
    log_to(tmp_path / "log.txt", console=False)
    stage = StageProgress(1, 5, "train", total=4)
    clock.now += 10
    stage.update(1, METRICS)
    assert "train epoch 1/4" in (tmp_path / "log.txt").read_text()
    progress.stop_logging()
    StageProgress(1, 5, "train", total=4).update(1, METRICS)
    assert stream.getvalue() == ""
    with progress.in_command():  # which prints what comes of it
        StageProgress(1, 5, "train", total=4).update(1, METRICS)
        assert screen(stream.getvalue())[0].startswith("phase 1/5 train epoch 1/4")


def test_a_line_never_breaks(stream, clock, monkeypatch):
    stream = stream(terminal=True)
    monkeypatch.setenv("COLUMNS", "40")
    stage = StageProgress(1, 5, "train", total=4)
    clock.now += 10
    stage.update(1, METRICS)
    (line,) = screen(stream.getvalue())
    assert line == "phase 1/5 train epoch 1/4  30 s left  l"


def test_what_is_waited_for_passes(stream, clock, monkeypatch):
    stream = stream(terminal=True)
    waiting_for("reading")
    assert screen(stream.getvalue()) == ["reading ..."]
    StageProgress(1, 5, "train", total=4)
    assert screen(stream.getvalue()) == ["phase 1/5 train epoch 0/4  begins ..."]
    LOGGER.info("a message")
    assert screen(stream.getvalue()) == ["a message", ""]
    monkeypatch.setenv("TERM", "dumb")  # knows no way to clear a line
    waiting_for("reading")
    assert screen(stream.getvalue()) == ["a message", ""]


def test_nothing_is_waited_for_where_nobody_asked_for_messages(stream):
    stream = stream(terminal=True)
    progress.stop_logging()
    waiting_for("reading")
    assert stream.getvalue() == ""


def test_elsewhere_lines_are_plain_and_not_too_many(stream, clock, tmp_path):
    stream = stream(terminal=False)
    stage = StageProgress(0, 5, "adjust", total=100, start=90, unit="step")
    for step in range(91, 101):
        clock.now += 1
        stage.update(step, {"meta_loss": 0.5, "images_per_second": 80.0})
    text = stream.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    lines = text.splitlines()
    assert [line.split()[4] for line in lines] == ["91/100", "96/100", "100/100"]
    assert lines[0] == "phase 0/5 adjust step 91/100  meta_loss 0.5  80 images/s  9 s left"
    logged = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in logged] == lines


def test_what_is_traced_tells_neither_speed_nor_time_left(stream, clock, monkeypatch):
    stream = stream(terminal=False)
    stage = StageProgress(0, 5, "train", total=100)
    clock.now += 20
    monkeypatch.setattr(progress.TRACES, "seconds", progress.TRACES.seconds + 15)
    stage.update(1, METRICS)
    clock.now += 10
    stage.update(11, METRICS)
    first, second = stream.getvalue().splitlines()
    assert first.startswith("phase 0/5 train epoch 1/100  loss 1.811  time left not known yet  cl")
    assert "228 images/s  1:29 left" in second


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_real_terminal_is_known_as_one(tmp_path, monkeypatch, clock):
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        log_to(tmp_path / "log.txt")
        stage = StageProgress(0, 0, "train", total=2)
        stage.update(1, METRICS)
        stage.update(2, METRICS)
        terminal.flush()
        shown = ""
        while "\n" not in shown:
            shown += os.read(ours, 4096).decode()
    os.close(ours)
    assert shown.count("\n") == 1
    assert "\r\x1b[Kphase 0/0 train epoch 1/2" in shown
    assert "\x1b" not in (tmp_path / "log.txt").read_text()


def test_durations():
    assert [duration(s) for s in (0.4, 59, 60, 3599, 3723)] == [
        *("0 s", "59 s", "1:00", "59:59", "1:02:03")
    ]


def failing(error):
    def write(text):
        raise error

    return write


def test_a_full_disk_costs_the_log_its_lines_and_nothing_else(tmp_path, monkeypatch, capfd):
    log_to(tmp_path / "log.txt")
    LOGGER.info("before")
    (file,) = (h for h in LOGGER.handlers if isinstance(h, logging.FileHandler))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(file, "stream", type("Full", (), {"write": failing(full)}))
        LOGGER.info("meanwhile")
    LOGGER.info("after")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["before", "after"]
    printed = capfd.readouterr()
    assert "meanwhile" in printed.out
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("terminal", [True, False])
def test_a_run_goes_on_when_nobody_reads_its_output(tmp_path, monkeypatch, capfd, clock, terminal):
    reader, writer = os.pipe()
    with open(writer, "w") as output:
        os.close(reader)
        monkeypatch.setattr(output, "isatty", lambda: terminal)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            log_to(tmp_path / "log.txt")
            StageProgress(0, 0, "train", total=2).update(1, METRICS)
            LOGGER.info("K\u00e4fer")
            LOGGER.info("after")
    lines = (tmp_path / "log.txt").read_text("utf-8").splitlines()
    assert [line.split()[-1] for line in lines][-2:] == ["K\u00e4fer", "after"]
    assert capfd.readouterr().err == "standard output was closed: the work goes on without it\n"


def test_mistakes_in_a_message_are_shown(tmp_path, capfd):
    log_to(tmp_path / "log.txt")
    LOGGER.info("%d", "no number")
    assert "Traceback" in capfd.readouterr().err


def test_what_was_said_before_the_log_file_stands_first(tmp_path, capsys):
    log_before_run()
    LOGGER.info("read")
    log_to(tmp_path / "log.txt")
    assert not (tmp_path / "log.txt").read_text()  # a run that is refused leaves its log alone
    LOGGER.info("begun")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["read", "begun"]
    assert capsys.readouterr().out == "read\nbegun\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_watched_is_told_of_where_it_takes_long(stream, clock, terminal):
    stream = stream(terminal)
    for seconds in (0.1, 3):
        for item in watched("abcd", 4, "reading file"):
            clock.now += seconds
            assert item in "abcd"
    stream.seek(0)
    lines = screen(stream.read())
    assert lines[-2:] == ["reading file 4/4  took 12 s", ""]
    assert ("reading file 2/4  6 s left" in lines) == (not terminal)
    assert not any("took 0 s" in line for line in lines)


def test_what_ends_early_is_not_told_to_be_done(stream, clock):
    stream = stream(terminal=False)
    for item in watched("abcd", 4, "reading file"):
        clock.now += 6
        if item == "c":
            break
    assert "took" not in stream.getvalue()


def test_a_program_s_own_log_stays(tmp_path, capsys):
    """Its handlers get the run's messages too, and its level is what it was."""
    own = logging.StreamHandler(messages := io.StringIO())
    LOGGER.addHandler(own)
    LOGGER.setLevel(logging.WARNING)
    try:
        for name in ("first", "second"):
            log_to(tmp_path / "log.txt", console=False)
            LOGGER.info("%s run", name)
            progress.stop_logging()
            LOGGER.info("not asked for")
        LOGGER.warning("afterwards")
        assert LOGGER.level == logging.WARNING
        assert LOGGER.propagate
    finally:
        LOGGER.removeHandler(own)
        LOGGER.setLevel(logging.NOTSET)
    assert messages.getvalue().splitlines() == ["first run", "second run", "afterwards"]
    assert capsys.readouterr().out == ""
