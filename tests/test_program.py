"""How commands end: one line, and an exit status."""

import io
import os
import re
import sys
import tomllib

import pytest

from mnemonics_tf.errors import UserError
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


def test_letters_that_the_terminal_lacks_are_shown_by_number(parse, monkeypatch):
    parse()
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))

    @program()
    def main(arguments):
        print("K\u00e4fer")
        return 0

    assert main(["name"]) == 0
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
