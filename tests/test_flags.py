"""The flags of the settings, and flagfiles."""

import os

import pytest
from absl import app, flags

from mnemonics_tf.errors import UserError
from mnemonics_tf.flags import parse_flags, passed_settings, settings_from_flags
from mnemonics_tf.settings import Settings, all_fields


def test_defaults_of_flags_are_those_of_the_settings(parse):
    assert settings_from_flags(parse()) == Settings()


@pytest.mark.parametrize("name", [field.name for _, field, _ in all_fields(Settings())])
def test_every_setting_is_a_flag_with_a_help_text(parse, name):
    flag = parse()[name]
    words = flag.help.split(">: ")[-1]  # an enumeration's help begins with its values
    assert words.endswith(".")


def test_flags_of_every_kind(parse):
    values = settings_from_flags(
        parse(
            *("--run_dir=/tmp/a b", "--download", "--seed=7", "--class_order=2,0,1"),
            *("--learning_rate=0.25", "--learning_rate_milestones=0.25,0.5", "--method=joint"),
            "--noinner_augmentation",
        )
    )
    assert values.run.run_dir == "/tmp/a b"
    assert values.run.download is True
    assert values.protocol.seed == 7
    assert values.protocol.class_order == (2, 0, 1)
    assert values.training.learning_rate == 0.25
    assert values.training.learning_rate_milestones == (0.25, 0.5)
    assert values.training.method == "joint"
    assert values.inner.inner_augmentation is False


def test_settings_that_were_passed_are_told_from_defaults(parse):
    passed = passed_settings(parse("--seed=0", "--class_order=2,0", "--nodownload"))
    assert passed == {"seed": 0, "class_order": (2, 0), "download": False}


def test_a_list_may_be_empty(parse):
    values = settings_from_flags(parse("--learning_rate_milestones=", "--class_order="))
    assert values.training.learning_rate_milestones == ()
    assert values.protocol.class_order == ()


def test_list_items_of_the_wrong_kind(parse):
    with pytest.raises(UserError, match="--class_order=1,two: expected int values"):
        settings_from_flags(parse("--class_order=1,two"))
    with pytest.raises(UserError, match="--learning_rate_milestones=x: expected float values"):
        settings_from_flags(parse("--learning_rate_milestones=x"))


@pytest.mark.parametrize("argument", ["--method=unknown", "--epochs=ten", "--no_such_flag=1"])
def test_flags_that_cannot_be_parsed_end_the_program(parse, argument, capsys):
    parse()
    flags.FLAGS.unparse_flags()
    with pytest.raises(SystemExit) as caught:
        app.parse_flags_with_usage(["train", argument])
    assert caught.value.code not in (0, None)
    assert argument.split("=")[0].lstrip("-") in capsys.readouterr().err


FLAGFILES = {
    "includes itself": ({"a": "--flagfile=a\n--seed=1"}, "a includes itself"),
    "includes itself by another": ({"a": "--flagfile=b", "b": "--flagfile=a"}, "a includes itself"),
    "is nested too deep": (
        {"a": "--flagfile=0", **{str(i): f"--flagfile={i + 1}" for i in range(20)}},
        "too many others",
    ),
    "is not there": ({}, "a can't be read as flags"),
    "is no text": ({"a": b"\xff\xfe\x00"}, "a can't be read as flags"),
}


@pytest.mark.parametrize("case", FLAGFILES)
def test_flagfiles_that_cannot_be_read(case, tmp_path, monkeypatch, capsys):
    files, message = FLAGFILES[case]
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SystemExit) as caught:
        parse_flags(["train", "--flagfile=a"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --flagfile=")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, "a\tb" * 100])
def test_a_flagfile_whose_name_no_file_can_have(name, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_flags(["train", f"--flagfile={name}"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --flagfile=")
    assert "can't be read as flags (File name too long" in error
    assert len(error) < 350
    assert error[:-1].isprintable()


def test_a_flagfile_that_could_be_read_only_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SystemExit):
        parse_flags(["train", f"--flagfile={tmp_path / 'pipe'}"])
    assert "pipe is no regular file" in capsys.readouterr().err


def test_a_flagfile_may_include_another_twice(parse, tmp_path):
    parse()
    flags.FLAGS.unparse_flags()
    (tmp_path / "b").write_text("--seed=5")
    (tmp_path / "a").write_text(f"--flagfile={tmp_path}/b\n# text\n--flagfile={tmp_path}/b\n")
    parse_flags(["train", f"--flagfile={tmp_path}/a"])
    assert flags.FLAGS.seed == 5
