import errno
import logging
import os

from mnemonics_tf.progress import LOGGER, log_to


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


def test_mistakes_in_a_message_are_shown(tmp_path, capfd):
    log_to(tmp_path / "log.txt")
    LOGGER.info("%d", "no number")
    assert "Traceback" in capfd.readouterr().err
