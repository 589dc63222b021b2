"""The command's flags reach what they are for."""

import pytest
from absl import flags

from mnemonics_tf import learn
from mnemonics_tf.errors import UserError
from mnemonics_tf.extension.wanted import Request, further_dataset


@pytest.fixture(scope="module")
def own_flags():
    if "skip_known" not in flags.FLAGS:
        learn.define_own_flags()


@pytest.fixture
def asked(own_flags, parse, monkeypatch):
    """What the command asks for, given its arguments; its status if it asks for nothing."""

    def ask(*arguments: str):
        found = []
        monkeypatch.setattr(learn, "learn", lambda *given: found.extend(given) or 0)
        parse(*arguments)
        status = learn.main(["learn"])
        return found if status == 0 else status

    return ask


def test_flags(asked):
    passed = {"run_dir": "run", "data_dir": "new"}
    arguments = [f"--{name}={value}" for name, value in passed.items()]
    assert asked(*arguments) == [Request(passed), False]
    for flag, values in (
        ("skip_known", {"skip_known": True}),
        ("noexport", {"export": False}),
        ("run_data_dir=old", {"run_data_dir": "old"}),
        ("epochs=3", {"passed": passed | {"epochs": 3}}),
    ):
        assert asked(*arguments, f"--{flag}") == [Request(**{"passed": passed, **values}), False]
    assert asked("--run_dir=run", "--undo") == [Request({"run_dir": "run"}), True]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (Request({"run_dir": "run", "data_dir": "cats", "epochs": 3}), "--data_dir, --epochs"),
        (Request({"run_dir": "run", "method": "lwf"}, True, False, "x"), "--method, --skip_known"),
        (Request({"run_dir": "run", "model_name": "x"}, export=False), "--noexport"),
        (Request({"run_dir": "run", "method": "mine:Mine"}, run_data_dir="x"), "--run_data_dir"),
    ],
)
def test_nothing_is_taken_back_by_a_command_that_also_says_what_to_learn(wanted, told):
    with pytest.raises(UserError, match=f"^--undo with {told}.*: it takes .* back for good"):
        learn.learn(wanted, takes_back=True)


def test_code_of_the_run_s_own_may_be_named_to_take_a_phase_back(tmp_path):
    passed = {"run_dir": str(tmp_path), "model_name": "x", "method": "mine:Mine"}
    with pytest.raises(UserError, match="holds no run"):
        learn.learn(Request(passed), takes_back=True)


def test_what_is_missing(asked, capsys):
    assert asked("--data_dir=new") == 2
    assert "--run_dir is missing" in capsys.readouterr().err


def test_no_run(tmp_path):
    with pytest.raises(UserError, match="holds no run: settings.json is missing"):
        learn.learn(Request({"run_dir": str(tmp_path), "data_dir": "new"}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("began_with", "goes_on_with"),
    [
        ("folder", "folder"),
        ("imagenet_subset", "folder"),
        ("digits", "npz"),
        ("tfds:made_up", "tfds:made_up"),
    ],
)
def test_the_kind_of_data_that_brings_more(began_with, goes_on_with):
    assert further_dataset(began_with) == goes_on_with


def test_data_of_code_of_one_s_own_are_named_again():
    with pytest.raises(UserError, match="pass --dataset .*--dataset=mine:source"):
        further_dataset("mine:source")
