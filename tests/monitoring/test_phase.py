"""What TensorBoard is given of a whole run, read back from its files."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.projector import projector_config_pb2

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.monitoring import phase as phase_module
from mnemonics_tf.monitoring import projector
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json
from mnemonics_tf.settings import (
    AdjustmentSettings,
    ExemplarSettings,
    InnerSettings,
    ModelSettings,
    OuterSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_networks")]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    """A short run in which exemplars learn, are adjusted, and weights transfer."""
    directory = tmp_path_factory.mktemp("summaries") / "run"
    settings = Settings(
        RunSettings(run_dir=str(directory)),
        ProtocolSettings(base_classes=8, num_phases=1),
        ModelSettings(weight_transfer=True),
        TrainingSettings(base_epochs=1, epochs=1, finetune_epochs=1),
        ExemplarSettings(exemplars="mnemonics", exemplars_per_class=4),
        InnerSettings(inner_steps=2),
        OuterSettings(outer_steps=2),
        adjustment=AdjustmentSettings(adjust_old_exemplars=True, adjust_steps=2),
    )
    for _ in range(2):  # the second time all phases are done, and nothing is written twice
        Experiment(settings, load_digits(), tf.distribute.get_strategy()).run()
    return RunDirectory(directory)


@pytest.fixture(scope="module")
def events(run) -> EventAccumulator:
    accumulator = EventAccumulator(str(run.tensorboard), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def values(events, tag) -> dict[int, list]:
    """The values of a tag by step; for images width, height and the pictures."""
    return {event.step: tf.make_ndarray(event.tensor_proto) for event in events.Tensors(tag)}


def picture(value) -> np.ndarray:
    return tf.io.decode_png(value[2]).numpy()


def test_both_heads_and_the_course_of_training(run, events):
    results = read_json(run.results)
    for head in ("classifier", "nme"):
        found = values(events, f"accuracy/{head}")
        expected = dict(enumerate(results["summary"][head]["phase_accuracies"]))
        assert {step: float(v) for step, v in found.items()} == pytest.approx(expected)
    tags = events.Tags()["tensors"]
    for name in ("classification", "distillation", "loss", "learning_rate", "images_per_second"):
        assert f"train/phase01/{name}" in tags
    assert "distillation" not in " ".join(tag for tag in tags if "phase00" in tag)


def test_matrices_are_pictures_after_every_phase(events):
    for kind in ("accuracy_matrix", "confusion_matrix"):
        for head in ("classifier", "nme"):
            found = values(events, f"{kind}/{head}")
            assert set(found) == {0, 1}
            pixels = picture(found[1])
            assert pixels.shape[-1] == 3
            assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
            assert not np.array_equal(pixels, picture(found[0]))


def test_strips_show_exemplars_as_first_stored_and_now(run, events):
    first = picture(values(events, "exemplars_birth_now_difference")[1])
    before, now = (ExemplarMemory.load(run.exemplars(i)).images[0] for i in (0, 1))
    side = now.shape[1]
    np.testing.assert_array_equal(first[:, :side], before)
    np.testing.assert_array_equal(first[:, side : 2 * side], now)
    assert first.shape[1] == 3 * side


def test_scales_of_weight_transfer_from_phase_1_on(events):
    tags = [tag for tag in events.Tags()["tensors"] if tag.startswith("weight_transfer/")]
    assert len(tags) == 2 * 2  # scales and shifts of two convolutions
    for tag in tags:
        assert set(values(events, tag)) == {1}


def test_final_metrics_stand_beside_the_settings_once(run, events):
    summary = read_json(run.results)["summary"]
    for head in ("classifier", "nme"):
        for name in ("average_accuracy", "forgetting"):
            (found,) = events.Tensors(f"final/{head}_{name}")
            assert tf.make_ndarray(found.tensor_proto) == pytest.approx(summary[head][name])
    content = events.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = hparams_metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["Method"].string_value == "lwf"
    assert start.hparams["model/depth"].number_value == 8


def test_curves_go_on_over_all_phases(events):
    for stage, phases in (("train", (0, 1)), ("finetune", (1,))):  # an epoch each
        steps = {phase: values(events, f"{stage}/phase{phase:02d}/loss") for phase in phases}
        assert all(set(found) == {0} for found in steps.values())
        course = values(events, f"{stage}/all_phases/loss")
        assert [float(course[step]) for step in sorted(course)] == [
            float(steps[phase][0]) for phase in phases
        ]
        assert sorted(course) == list(range(len(phases)))


def test_the_projector_finds_exemplars_among_their_class_data(run):
    text = (run.tensorboard / "projector_config.pbtxt").read_text()
    config = text_format.Parse(text, projector_config_pb2.ProjectorConfig())
    assert [e.tensor_name for e in config.embeddings] == ["phase01", "phase00"]
    newest = config.embeddings[0]
    features = np.loadtxt(run.tensorboard / newest.tensor_path, delimiter="\t")
    header, *rows = (run.tensorboard / newest.metadata_path).read_text().splitlines()
    assert header == "class\tkind"
    assert len(rows) == len(features)
    assert rows.count("9\texemplar") == 4
    assert rows.count("9\ttest image") == 30
    sheet = tf.io.decode_png((run.tensorboard / newest.sprite.image_path).read_bytes()).numpy()
    width, height = newest.sprite.single_image_dim
    across = sheet.shape[1] // width
    memory = ExemplarMemory.load(run.exemplars(1))
    row, column = divmod(len(rows) - 4, across)  # the first exemplar of the last class shown
    shown = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
    last = np.flatnonzero(memory.labels == memory.labels.max())[0]
    np.testing.assert_array_equal(shown, memory.images[last])


def test_large_images_are_shrunk_and_names_stay_in_their_cells(tmp_path):
    images = np.full((3, 100, 50, 3), 7, np.uint8)
    columns = {"class": ["a\tb", "c\nd", "e"], "kind": ["x", "x", "y"]}
    projector.write_embedding(tmp_path, "phase00", np.eye(3), images, columns)
    text = (tmp_path / "projector" / "phase00" / "metadata.tsv").read_text()
    assert text == "class\tkind\na b\tx\nc d\tx\ne\ty\n"
    sheet = tf.io.decode_png((tmp_path / "projector" / "phase00" / "sprite.png").read_bytes())
    assert sheet.shape == (96, 48, 3)


def test_the_projector_opens_the_newest_phase_by_its_number(tmp_path):
    one = np.zeros((1, 2, 2, 1), np.uint8)
    for phase in (99, 100, 9):
        columns = {"class": ["a"], "kind": ["b"]}
        projector.write_embedding(tmp_path, f"phase{phase:02d}", np.zeros((1, 2)), one, columns)
    text = (tmp_path / "projector_config.pbtxt").read_text()
    config = text_format.Parse(text, projector_config_pb2.ProjectorConfig())
    names = [embedding.tensor_name for embedding in config.embeddings]
    assert names == ["phase100", "phase99", "phase09"]


def test_exemplars_of_an_earlier_phase_that_are_gone_stop_nothing(run, tmp_path):
    """Workers beside the chief have those of the last phase alone."""
    memory = ExemplarMemory.load(run.exemplars(1))
    rows = phase_module.rows_shown(memory.labels)
    phase = Phase(1, range(8, 10), range(10))
    directory = RunDirectory(tmp_path)
    births = phase_module._births(directory, phase, [8, 10], memory, rows)
    np.testing.assert_array_equal(births, memory.images_at(rows))
    old = np.flatnonzero(memory.labels < 8)
    first = ExemplarMemory(255 - memory.images_at(old), memory.labels[old])
    directory.exemplars(0).parent.mkdir(parents=True)
    first.save(directory.exemplars(0))
    births = phase_module._births(directory, phase, [8, 10], memory, rows)
    np.testing.assert_array_equal(births[:8], 255 - memory.images_at(rows[:8]))
    np.testing.assert_array_equal(births[8:], memory.images_at(rows[8:]))


def test_exemplars_of_phases_whose_classes_are_not_shown_are_not_read(tmp_path):
    directory = RunDirectory(tmp_path)
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 1), np.uint8)
    memory = ExemplarMemory(images, np.arange(4))
    for index in range(3):
        directory.exemplars(index).parent.mkdir(parents=True)
        ExemplarMemory(images[: index + 1] + 9, np.arange(index + 1)).save(
            directory.exemplars(index)
        )
    directory.exemplars(1).write_bytes(b"large, and read in vain")
    phase, rows = Phase(3, range(3, 4), range(4)), np.array([0, 2, 3])
    births = phase_module._births(directory, phase, [1, 2, 3, 4], memory, rows)
    np.testing.assert_array_equal(births[:, 0, 0, 0], [9, 11, 3])
