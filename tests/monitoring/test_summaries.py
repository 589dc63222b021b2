import logging
import sys

import matplotlib
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring import phase as phase_module
from mnemonics_tf.monitoring import pictures
from mnemonics_tf.monitoring.summaries import Summaries, final_metrics
from mnemonics_tf.settings import Settings

NAMES = ("average_accuracy", "last_accuracy", "forgetting", "mean_forgetting", "backward_transfer")
METRICS = dict.fromkeys(NAMES, 0.5)


def hyperparameters(directory, trial="a", **values) -> EventAccumulator:
    """Writes a run's settings and metrics as a run does, and reads them again."""
    settings = Settings().changed(**values).results_settings()
    metrics = final_metrics({"classifier": METRICS, "nme": METRICS})
    Summaries(directory).hyperparameters(settings, metrics, trial)
    return EventAccumulator(str(directory)).Reload()


def plugin_data(events, tag) -> bytes:
    return events.SummaryMetadata(tag).plugin_data.content


def test_what_tells_runs_apart_stands_first_in_the_table(tmp_path):
    events = hyperparameters(tmp_path, exemplars_per_class=2, seed=3)
    content = plugin_data(events, hparams_metadata.EXPERIMENT_TAG)
    table = hparams_metadata.parse_experiment_plugin_data(content)
    columns = [info.name for info in table.hparam_infos]
    # TensorBoard sorts them so, and shows the first five.
    assert sorted(columns)[:5] == ["Exemplars", "Memory", "Method", "N", "Seed"]
    assert len(columns) == len(set(columns)) > 40
    names = [info.display_name for info in table.metric_infos]
    assert {"nme_average_accuracy", "classifier_last", "nme_forgetting"} <= set(names)
    values = row(events)
    assert set(values) == set(columns)
    assert values["Memory"].string_value == "2 a class"
    assert values["Seed"].string_value == "3"


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"exemplars_total": 50}, "50 in all"),
        ({"exemplar_bytes_per_class": 640, "codec": "jpeg"}, "640 bytes a class, jpeg"),
        ({"exemplar_bytes_total": 6400}, "6400 bytes in all"),
    ],
)
def test_the_memory_is_one_column(tmp_path, budget, words):
    assert row(hyperparameters(tmp_path, **budget))["Memory"].string_value == words


def row(events):
    content = plugin_data(events, hparams_metadata.SESSION_START_INFO_TAG)
    return hparams_metadata.parse_session_start_info_plugin_data(content).hparams


def test_runs_of_equal_settings_are_trials_of_their_own(tmp_path):
    names = set()
    for trial in ("a", "b"):
        events = hyperparameters(tmp_path / trial, trial)
        content = plugin_data(events, hparams_metadata.SESSION_START_INFO_TAG)
        start = hparams_metadata.parse_session_start_info_plugin_data(content)
        names.add(start.group_name)
    assert names == {"a", "b"}


def test_confusion_matrices_have_names_and_lines_between_phases():
    counts = 10 * np.eye(4, dtype=int)
    drawn = pictures.confusion_matrix(counts, ["$x", "b", "_", "d"], [2, 4])
    assert not np.array_equal(drawn, pictures.confusion_matrix(counts, ["$y", *"b_d"], [2, 4]))
    assert not np.array_equal(drawn, pictures.confusion_matrix(counts, ["$x", *"b_d"], [3, 4]))
    many = np.eye(60, dtype=int)
    names = [str(label) for label in range(60)]
    drawn = pictures.confusion_matrix(many, names, [30, 60])
    np.testing.assert_array_equal(drawn, pictures.confusion_matrix(many, names[::-1], [30, 60]))


def test_pictures_leave_a_notebook_its_own_plots_and_ignore_its_matplotlibrc(monkeypatch):
    plain = pictures.accuracy_matrix([[1.0]])
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red", "backend": "svg"}):
        np.testing.assert_array_equal(pictures.accuracy_matrix([[1.0]]), plain)
        assert matplotlib.rcParams["text.usetex"]
        assert matplotlib.get_backend() == "svg"


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("drawing", "RuntimeError: Failed to process string with tex"),
        ("import", "ImportError: cannot import name"),
    ],
)
def test_a_matplotlib_that_fails_costs_the_pictures_and_is_told_once(
    tmp_path, monkeypatch, caplog, trouble, reason
):
    heads = {"nme": {"group_accuracies": [0.5], "confusion_matrix": [[1, 0], [0, 1]]}}
    arguments = (tmp_path, 0, heads, [], ["a", "b"], [2])
    assert set(phase_module._matrices(*arguments)) == {
        "accuracy_matrix/nme",
        "confusion_matrix/nme",
    }

    def fail(*_, **__):
        raise RuntimeError("Failed to process string with tex")

    if trouble == "drawing":
        monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.draw", fail)
    else:
        monkeypatch.delattr("matplotlib.figure.Figure")
    with caplog.at_level(logging.WARNING):
        assert [phase_module._matrices(*arguments) for _ in range(2)] == [{}, {}]
    (told,) = caplog.messages
    assert "no matrices" in told
    assert reason in told


def test_a_full_disk_is_a_clear_line(tmp_path, monkeypatch):
    summaries = Summaries(tmp_path)
    summaries.scalars("train", {"loss": 1.0}, 0)
    summaries.flush()

    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.summary, "scalar", fail)
        with pytest.raises(UserError, match="the disk is full"):
            summaries.scalars("train", {"loss": 1.0}, 1)
    (event_file,) = tmp_path.iterdir()
    assert event_file.stat().st_size > 0
