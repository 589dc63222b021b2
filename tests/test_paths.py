"""Paths as users pass them."""

import os
import pathlib

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.paths import user_path
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.run.directory import RunDirectory


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_tilde_is_a_home(home):
    assert user_path("~/runs/x") == home / "runs" / "x"
    assert user_path(str(user_path("./~/x"))) == pathlib.Path.cwd() / "~" / "x"
    assert RunDirectory("~/runs/x").results == home / "runs" / "x" / "results.json"
    with pytest.raises(UserError, match=str(home / "a")):
        load_runs(["~/a"])


def test_a_user_without_a_home_is_told_so(monkeypatch):
    """As in a container that runs under a number which no passwd file knows."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    with pytest.raises(UserError, match="^~/x: there is no such home; pass the whole path"):
        user_path("~/x")


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a\nb", "a\rb", "a\0b", "caf\udce9"])
def test_what_is_no_path_is_refused_on_one_line(path):
    with pytest.raises(UserError) as raised:
        user_path(path)
    assert str(raised.value).isprintable()
