"""How commands end: one line, and an exit status."""

import io
import os
import re
import sys
import tomllib

import pytest

from mnemonics_tf.errors import UserError, counted
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.export import export
from mnemonics_tf.monitoring.outlook import phases_in_words
from mnemonics_tf.program import program, refuse_arguments
from tools.generate_build import REPOSITORY


@pytest.mark.parametrize(
    ("trouble", "line", "status"),
    [
        (UserError("--x=1: pass 2"), "error: --x=1: pass 2", 2),
        (KeyboardInterrupt(), "stopped; go on", 130),
        (FloatingPointError("lower the rate"), "error: lower the rate, elsewhere", 1),
    ],
)
def test_trouble_is_one_line(parse, capsys, trouble, line, status):
    parse()

    @program(stopped="stopped; go on", diverged=", elsewhere")
    def main(arguments):
        raise trouble

    assert main(["name"]) == status
    assert capsys.readouterr().err == f"{line}\n"


def test_output_that_nobody_reads_ends_in_silence(parse, monkeypatch, capfd):
    parse()
    reader, writer = os.pipe()
    os.close(reader)

    @program()
    def main(arguments):
        print("never read")
        return 0

    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert main(["name"]) == 141
    assert capfd.readouterr() == ("", "")  # nor when the stream is closed


def test_lines_come_at_once_and_letters_that_are_lacking_by_number(parse, monkeypatch):
    parse()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))

    @program()
    def main(arguments):
        print("K\u00e4fer")
        return len(written.getvalue())

    assert main(["name"]) == len(b"K\\xe4fer\n")
    assert written.getvalue() == b"K\\xe4fer\n"


def test_other_errors_and_statuses_are_left_alone(parse):
    parse()

    @program()
    def main(arguments):
        return 3 if arguments else {}["missing"]

    assert main(["name"]) == 3
    with pytest.raises(KeyError):
        main([])


def test_what_has_no_name_is_refused():
    refuse_arguments(["train"])
    with pytest.raises(UserError, match="unexpected argument 'depth=8'"):
        refuse_arguments(["train", "depth=8"])


def test_the_readme_names_every_command():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    text = (REPOSITORY / "README.md").read_text("utf-8")
    sentence = text.partition("the commands `mnemonics-")[2].partition(";")[0]
    named = {f"mnemonics-{name.strip('-')}" for name in re.findall(r"-?(\w+)`", sentence)}
    assert named == set(project["scripts"])


def test_one_is_singular():
    assert [counted(n, thing) for thing in ("new class", "phase") for n in (0, 1, 2)] == [
        *("0 new classes", "1 new class", "2 new classes"),
        *("0 phases", "1 phase", "2 phases"),
    ]


def test_no_message_has_a_plural_of_one():
    """`1 classes` came of numbers put in front of the word: where it can be 1, `counted` does."""
    assert phases_in_words([1, 1]) == "1 class, then 1 phase of 1"


@pytest.mark.parametrize(("command", "rest"), [(evaluate, (False,)), (export, ())])
def test_what_reads_data_for_long_says_so(monkeypatch, command, rest):
    module, told = sys.modules[command.__module__], []

    def open_run(*_):
        told.append("opened")
        raise UserError("no such run")

    monkeypatch.setattr(module, "passing", told.append)
    monkeypatch.setattr(module, "open_run", open_run)
    with pytest.raises(UserError, match="no such run"):
        command("run", "", -1, *rest)
    assert told == ["reading the run and its data ...", "opened"]
