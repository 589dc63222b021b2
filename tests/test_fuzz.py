"""Random flags and random damage: whatever comes in, a clear error or a sound result."""

import contextlib
import dataclasses
import json
import pathlib
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, write_arrays
from mnemonics_tf.run.resume import claim_directory, read_record, read_settings
from mnemonics_tf.settings import RunSettings, Settings

bounded = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SOURCE = load_digits()

NAMES = [
    field.name
    for group in dataclasses.fields(Settings)
    for field in dataclasses.fields(getattr(Settings(), group.name))
]
NUMBERS = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**31, -(2**31), 2**64, 10**30]),
    st.floats(),
)
VALUES = st.one_of(
    NUMBERS.map(str),
    st.lists(NUMBERS, max_size=4).map(lambda items: ",".join(map(str, items))),
    st.booleans().map(str),
    st.sampled_from(["lwf", "bic", "lucir", "joint", "mnemonics", "herding", "random", "all", ""]),
    st.text(max_size=5),
)
ARGUMENTS = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)


@bounded
@given(named=ARGUMENTS)
def test_flags(parse, tmp_path, named):
    """They are refused by absl or by us, or let a run begin; never anything else."""
    named = {name: value for name, value in named.items() if name not in ("run_dir", "download")}
    run_dir = tmp_path / "run"
    with contextlib.suppress(UserError, flags.Error):
        wanted = settings_from_flags(
            parse(f"--run_dir={run_dir}", *(f"--{name}={value}" for name, value in named.items()))
        )
        Experiment(wanted, SOURCE, tf.distribute.get_strategy()).check_begin()
    assert not run_dir.exists()


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def leaves(value, path=()) -> list[tuple]:
    """Returns the paths of all values within a JSON value, its own first."""
    inner = value.items() if isinstance(value, dict) else ()
    return [path, *(leaf for key, item in inner for leaf in leaves(item, (*path, key)))]


def replaced(value, path: tuple, new):
    """Returns a JSON value in which the value at `path` is another."""
    return {**value, path[0]: replaced(value[path[0]], path[1:], new)} if path else new


STORED_SETTINGS = Settings().results_settings()


@bounded
@given(path=st.sampled_from(leaves(STORED_SETTINGS)), new=JSON)
def test_settings_json(tmp_path, path, new):
    directory = RunDirectory(tmp_path / "run")
    changed = replaced(STORED_SETTINGS, path, new)
    directory.root.mkdir(exist_ok=True)
    directory.settings.write_text(json.dumps(changed))
    phases = ClassIncrementalProtocol(range(10), 5, 5).phases
    with contextlib.suppress(UserError):
        wanted = Settings.from_results_settings(
            read_settings(directory), RunSettings(str(directory.root))
        )
        Experiment(wanted, SOURCE, tf.distribute.get_strategy())
    with contextlib.suppress(UserError):
        claim_directory(directory, Settings(), {}, phases)
        for group, values in STORED_SETTINGS.items():
            for name, value in values.items():  # what is not there had its default then
                assert changed.get(group, {}).get(name, value) == value


PHASE = ClassIncrementalProtocol(range(10), 5, 5).phases[1]
HEAD = {"accuracy": 0.5, "group_accuracies": [0.25, 1.0]}
RECORD = {"phase": 1, "num_seen": 6, "heads": {"classifier": HEAD, "nme": HEAD}}


@bounded
@given(path=st.sampled_from(leaves(RECORD)), new=JSON)
def test_phase_json(tmp_path, path, new):
    directory = RunDirectory(tmp_path)
    directory.phase(1).mkdir(parents=True, exist_ok=True)
    directory.record(1).write_text(json.dumps(replaced(RECORD, path, new)))
    with contextlib.suppress(UserError):
        for head in read_record(directory, PHASE)["heads"].values():
            assert all(0 <= value <= 1 for value in head["group_accuracies"])


@st.composite
def damages(draw) -> list[tuple[str, float, bytes]]:
    """Cuts, overwritten and inserted bytes, at places given as shares of the length."""
    kind = st.sampled_from(["cut", "overwrite", "insert", "remove"])
    place = st.floats(0, 1)
    return draw(st.lists(st.tuples(kind, place, st.binary(min_size=1, max_size=8)), min_size=1))


def damaged(contents: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for kind, share, new in changes:
        at = round(share * len(contents))
        if kind == "cut":
            contents = contents[:at]
        elif kind == "insert":
            contents = contents[:at] + new + contents[at:]
        else:
            kept = contents[at + len(new) :]
            contents = contents[:at] + (new if kind == "overwrite" else b"") + kept
    return contents


ARRAYS = {
    "stem/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "labels": np.arange(3, dtype=np.int32),
    "name": np.array("text"),
}


def array_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.npz"
        write_arrays(path, ARRAYS)
        return path.read_bytes()


ARRAY_FILE = array_file()


@bounded
@given(changes=damages())
def test_array_files(tmp_path, changes):
    path = tmp_path / "x.npz"
    path.write_bytes(damaged(ARRAY_FILE, changes))
    with contextlib.suppress(UserError):
        for name, array in read_arrays(path).items():
            np.testing.assert_array_equal(array, ARRAYS[name])


@settings(bounded, max_examples=30)  # each of them waits for the disk
@given(changes=damages())
def test_checkpoints(tmp_path, changes):
    checkpoints = PhaseCheckpoints(tmp_path / "phase", "run")
    for position in (1, 2):
        checkpoints.save(Snapshot("train", position, {"model": {"kernel": np.full(4, position)}}))
    newest = max((tmp_path / "phase").iterdir())
    newest.write_bytes(damaged(newest.read_bytes(), changes))
    found = checkpoints.latest()
    assert found.groups["model"]["kernel"].tolist() == [found.position] * 4
    checkpoints.clear()


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """A warning for every damaged checkpoint is right, and not worth keeping."""
    caplog.set_level("ERROR", logger="mnemonics_tf")
