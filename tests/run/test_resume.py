"""Damaged run directories: diagnosed before anything is written."""

import dataclasses
import json
import pathlib
import re
import shutil

import numpy as np
import pytest

from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json, write_arrays, write_json
from mnemonics_tf.run.resume import claim_directory, load_memory, read_record
from mnemonics_tf.settings import ExemplarSettings, ProtocolSettings, Settings

SETTINGS = Settings(protocol=ProtocolSettings(base_classes=6, num_phases=2))
FACTS = {"phases": [["zero", "one"], ["two"]], "training_images": [5, 6, 7]}
PHASES = ClassIncrementalProtocol(range(10), 6, 2).phases


def record_of(phase) -> dict:
    head = {"accuracy": 0.5, "group_accuracies": [0.5] * (phase.index + 1)}
    heads = {"classifier": head, "nme": head}
    return {"phase": phase.index, "num_seen": phase.num_seen, "heads": heads}


def close(directory: RunDirectory, phase) -> None:
    labels = np.array(phase.seen_classes)
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    write_arrays(directory.exemplars(phase.index), {"images": images, "labels": labels})
    write_arrays(directory.model(phase.index), {"kernel": np.zeros(3)})
    write_json(directory.record(phase.index), record_of(phase))


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    """A run whose phase 0 is done and whose phase 1 has a checkpoint."""
    directory = RunDirectory(tmp_path / "run")
    assert claim_directory(directory, SETTINGS, FACTS, PHASES) == list(PHASES)
    close(directory, PHASES[0])
    write_arrays(directory.phase(1) / "checkpoint-000003.npz", {"moment": np.zeros(2)})
    return directory


def files_of(root: pathlib.Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_left_of_a_run(directory):
    before = files_of(directory.root)
    assert claim_directory(directory, SETTINGS, FACTS, PHASES) == list(PHASES[1:])
    assert files_of(directory.root) == before


def test_killed_before_anything_but_temporary_files_was_written(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.flags.write_text("")
    directory.phase(0).mkdir(parents=True)
    (directory.phase(0) / ".tmp-checkpoint-000000.npz").write_text("half")
    assert claim_directory(directory, SETTINGS, FACTS, PHASES) == list(PHASES)


def test_killed_while_a_phase_was_closed(directory):
    write_arrays(directory.exemplars(1), {})
    assert claim_directory(directory, SETTINGS, FACTS, PHASES) == list(PHASES[1:])


def contradict(directory: RunDirectory) -> None:
    """Predictions of phase 0 that are all right, beside a record that says half of them are."""
    labels = np.arange(6)
    arrays = dict.fromkeys(("labels", "classifier", "nme"), labels)
    write_arrays(directory.predictions(0), arrays)


DAMAGES = {
    "settings lost": (lambda d: d.settings.unlink(), "settings.json is missing, although"),
    "record lost": (lambda d: d.record(0).unlink(), "phases/00 has lost phase.json"),
    "phase lost": (
        lambda d: shutil.rmtree(d.phase(0)),
        "00/phase.json is missing, although phase 1",
    ),
    "model lost": (lambda d: d.model(0).unlink(), "phases/00 has lost model.npz"),
    "exemplars lost": (lambda d: d.exemplars(0).unlink(), "phases/00 has lost exemplars.npz"),
    "all but the model lost": (
        lambda d: [write_arrays(d.model(1), {}), next(d.phase(1).glob("check*")).unlink()],
        "phases/01 has lost phase.json",
    ),
    "settings of no run": (lambda d: write_json(d.settings, [1, 2]), "holds no groups"),
    "flat settings": (lambda d: write_json(d.settings, {"seed": 1}), "holds no groups"),
    "record of another phase": (
        lambda d: write_json(d.record(0), record_of(PHASES[1])),
        "does not close phase 0 with 6 classes",
    ),
    "classes of other data": (
        lambda d: write_json(d.classes, FACTS | {"training_images": [5, 6, 8]}),
        "holds a run on other data",
    ),
    "classes of no run": (lambda d: write_json(d.classes, [1]), "classes.json is damaged"),
    "record that contradicts its predictions": (
        contradict,
        "00/phase.json and .*00/predictions.npz contradict each other",
    ),
    "record cut short": (lambda d: d.record(0).write_text('{"phase": 0,'), "is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_directory_is_diagnosed_and_left_alone(directory, damage):
    apply, message = DAMAGES[damage]
    apply(directory)
    before = files_of(directory.root)
    with pytest.raises(UserError, match=message):
        claim_directory(directory, SETTINGS, FACTS, PHASES)
    assert files_of(directory.root) == before


@pytest.mark.parametrize(
    "heads",
    [
        None,
        [],
        {"classifier": {}},
        {"classifier": {"accuracy": "0.5", "group_accuracies": [0.5]}},
        {"classifier": {"accuracy": 0.5, "group_accuracies": [0.5, 0.5]}},
        {"classifier": {"accuracy": 10**400, "group_accuracies": [0.5]}},
        {"classifier": {"accuracy": 0.5, "group_accuracies": 0.5}},
    ],
)
def test_a_record_of_other_things(directory, heads):
    write_json(directory.record(0), record_of(PHASES[0]) | {"heads": heads})
    with pytest.raises(UserError, match="phase.json is damaged .heads"):
        read_record(directory, PHASES[0])


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1" * 5000, "[" * 100_000])
def test_json_that_is_no_record(directory, text):
    path = directory.record(0)
    path.write_text(json.dumps(record_of(PHASES[0])).replace("0.5", text))
    with pytest.raises(UserError, match="phase.json is damaged"):
        read_record(directory, PHASES[0])


@pytest.mark.parametrize(
    ("method", "exemplars", "refused"),
    [
        ("lwf", "herding", []),
        ("lwf", "mnemonics", ["max_shift"]),
        ("lucir", "herding", ["finetune_old_classes"]),
    ],
)
def test_a_setting_younger_than_the_run_counts_where_it_has_an_effect(
    tmp_path, method, exemplars, refused
):
    """Or the command of an earlier version would not go on with its own run."""
    directory = RunDirectory(tmp_path / "run")
    settings = SETTINGS.changed(method=method, exemplars=exemplars)
    claim_directory(directory, settings, FACTS, PHASES)
    noted = read_json(directory.settings)
    del noted["outer"]["max_shift"], noted["training"]["finetune_old_classes"]
    write_json(directory.settings, noted)
    if refused:
        with pytest.raises(UserError, match="other settings") as error:
            claim_directory(directory, settings, FACTS, PHASES)
        assert re.findall(r"--(\w+) was", str(error.value)) == refused
    else:
        assert claim_directory(directory, settings, FACTS, PHASES) == list(PHASES)


def test_exemplars_of_another_run(directory):
    assert len(load_memory(directory, PHASES[0], (8, 8, 1), ExemplarSettings())) == 6
    with pytest.raises(UserError, match="holds images \\[8, 8, 1\\] of 6 classes; expected"):
        load_memory(directory, PHASES[0], (32, 32, 3), ExemplarSettings())
    more = dataclasses.replace(PHASES[0], seen_classes=range(8))
    with pytest.raises(UserError, match="of 6 classes; expected .* labels 0 to 7"):
        load_memory(directory, more, (8, 8, 1), ExemplarSettings())


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_exemplars_of_as_many_channels_as_sources_have(directory, channels):
    images = np.zeros((6, 8, 8, channels), np.uint8)
    write_arrays(directory.exemplars(0), {"images": images, "labels": np.arange(6)})
    memory = load_memory(directory, PHASES[0], (8, 8, channels), ExemplarSettings())
    assert memory.image_shape == (8, 8, channels)


def test_exemplars_of_more_channels_than_a_picture_holds(directory):
    """Also where a report asks, which has no other images to compare them with."""
    images = np.zeros((6, 8, 8, 5), np.uint8)
    write_arrays(directory.exemplars(0), {"images": images, "labels": np.arange(6)})
    with pytest.raises(UserError, match="holds images .8, 8, 5. of 6 classes"):
        load_memory(directory, PHASES[0], (8, 8, 5), ExemplarSettings())


@pytest.mark.parametrize(
    ("codec", "quality", "told"),
    [("pixels", 90, "stored as pixels, "), ("jpeg", 50, "stored as jpeg of quality 50, ")],
)
def test_exemplars_of_another_codec_or_quality(directory, codec, quality, told):
    """A run would go on with them, and say that its memory is what its settings say."""
    path = directory.exemplars(0)
    memory = ExemplarMemory.load(path)
    ExemplarMemory(memory.images, memory.labels, codec=codec, quality=quality).save(path)
    wanted = ExemplarSettings(codec="jpeg", jpeg_quality=90)
    with pytest.raises(UserError, match=f"{told}and the run has jpeg of quality 90"):
        load_memory(directory, PHASES[0], (8, 8, 1), wanted)
