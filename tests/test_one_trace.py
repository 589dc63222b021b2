"""One model and one graph go through all phases: as good as new ones, and hardly any traces."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.files import RunDirectory, read_arrays
from mnemonics_tf.settings import (
    ExemplarSettings,
    MnemonicsSettings,
    ModelSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)
from mnemonics_tf.tracing import TRACES

LEARNED = {
    "exemplar": ExemplarSettings("mnemonics", exemplars_per_class=4),
    "mnemonics": MnemonicsSettings(
        inner_start="pool",
        pool_size=2,
        inner_steps=3,
        outer_steps=2,
        validation_every=1,
        adjust_old_exemplars=True,
        adjust_steps=2,
    ),
}
CASES = {
    "lwf": {"training": {"method": "lwf"}},
    "icarl in float16": {"training": {"method": "icarl", "mixed_precision": "float16"}},
    "bic with transfer": {"training": {"method": "bic"}, "model": {"weight_transfer": True}},
    "lucir with transfer and a pool": {
        "training": {"method": "lucir"},
        "model": {"weight_transfer": True},
        **LEARNED,
    },
    "joint": {"training": {"method": "joint"}},
}


class TinySource(InMemorySource):
    """Noise around a brightness that tells the class; classes of many sizes."""

    name = "tiny"
    channel_mean = (0.5,)
    channel_std = (0.25,)
    augmentation = "shift"

    def __init__(self, num_classes: int):
        generator = np.random.default_rng(0)

        def images(label: int, count: int) -> np.ndarray:
            noise = generator.integers(0, 60, (count, 8, 8, 1))
            return (noise + 190 * label // num_classes).astype(np.uint8)

        classes = range(num_classes)
        training = {k: images(k, 9 + k % 7) for k in classes}
        test = {k: images(k, 5) for k in classes}
        super().__init__(training, test, [f"class {k}" for k in classes])


@pytest.fixture(autouse=True)
def no_exports(monkeypatch):
    """Exports have tests of their own, and trace by their nature."""
    monkeypatch.setattr(Experiment, "_export", lambda *arguments: None)


def settings_of(run_dir, groups: dict, num_phases: int, last_phase: int = -1, **run) -> Settings:
    kinds = {"training": TrainingSettings(base_epochs=1, epochs=1, finetune_epochs=1)}
    kinds |= {"model": ModelSettings(), "exemplar": ExemplarSettings(exemplars_per_class=4)}
    chosen = {
        group: dataclasses.replace(kinds[group], **values) if isinstance(values, dict) else values
        for group, values in groups.items()
    }
    return Settings(
        RunSettings(str(run_dir), last_phase=last_phase, **run),
        ProtocolSettings(base_classes=2, num_phases=num_phases),
        **{**kinds, **chosen},
    )


def run(settings: Settings, source) -> RunDirectory:
    Experiment(settings, source, tf.distribute.get_strategy()).run()
    return RunDirectory(settings.run.run_dir)


@pytest.mark.parametrize("case", CASES)
def test_one_process_equals_a_new_one_for_every_phase(tmp_path, case):
    groups = CASES[case]
    whole = run(settings_of(tmp_path / "whole", groups, 2), TinySource(4))
    for phase in range(3):
        settings = settings_of(tmp_path / "apart", groups, 2, last_phase=phase)
        apart = run(settings, TinySource(4))
    for phase in range(3):
        for kind in (RunDirectory.model, RunDirectory.exemplars, RunDirectory.predictions):
            ours, expected = (read_arrays(kind(each, phase)) for each in (whole, apart))
            assert ours.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(ours[name], array, err_msg=f"{phase} {name}")


def traced_by(settings: Settings, source) -> dict[str, int]:
    before = TRACES.counts.copy()
    run(settings, source)
    return dict(TRACES.counts - before)


@pytest.mark.parametrize("jit_compile", ["off", "on"])
def test_25_phases_trace_no_more_than_one(tmp_path, jit_compile):
    """Whatever the sizes of the classes, and with them those of the last batches."""
    groups = {"training": {"batch_size": 8}, "model": {"weight_transfer": True}}
    settings = settings_of(tmp_path / "run", groups, 25, jit_compile=jit_compile)
    counts = traced_by(settings, TinySource(27))
    feeds = [kind for kind in counts if kind.startswith(("train,", "finetune,"))]
    # Phase 0, the later phases with their old model and scales, the fine-tune.
    assert sum(counts[kind] for kind in feeds) == 3
    assert counts["evaluate"] == 1
    compiled = {kind: count for kind, count in counts.items() if kind.startswith("compiled")}
    expected = {"compiled differentiate": 3, "compiled apply": 3} if jit_compile == "on" else {}
    assert compiled == expected
    assert sum(counts.values()) == 4 + sum(expected.values())


def test_learned_exemplars_of_later_phases_share_their_graphs(tmp_path):
    learned = {
        **LEARNED,
        "mnemonics": dataclasses.replace(LEARNED["mnemonics"], inner_start="fresh_head"),
    }
    few, many = (
        traced_by(settings_of(tmp_path / str(n), learned, n), TinySource(n + 2)) for n in (3, 6)
    )
    assert many == few


def test_seconds_of_a_phase_tell_tracing_apart(tmp_path):
    settings = settings_of(tmp_path / "run", {}, 2)
    experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
    phases = experiment.run()["phases"]
    seconds = [phase["seconds"] for phase in phases]
    assert all(
        {"tracing", "train", "exemplars", "finetune", "evaluate", "export"} <= set(s)
        for s in seconds
    )
    assert seconds[0]["tracing"] > 0
    assert seconds[2]["tracing"] < 0.2 * seconds[0]["tracing"]
