"""One model and one graph go through all phases: as good as new ones, and hardly any traces."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.source import InMemorySource
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays
from mnemonics_tf.settings import RunSettings, Settings
from mnemonics_tf.tracing import TRACES

# Exports trace by their nature.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_runs", "small_networks")]

LEARNED = {
    "exemplars": "mnemonics",
    "inner_start": "pool",
    "pool_size": 2,
    "inner_steps": 3,
    "outer_steps": 2,
    "validation_every": 1,
    "adjust_old_exemplars": True,
    "adjust_steps": 2,
}
CASES = {
    "bic with transfer": {"method": "bic", "weight_transfer": True},
    "lucir with transfer and a pool": {"method": "lucir", "weight_transfer": True, **LEARNED},
}
MORE_CASES = {
    "lwf": {"method": "lwf"},
    "icarl in float16": {"method": "icarl", "mixed_precision": "float16"},
    "joint": {"method": "joint"},
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


def settings_of(run_dir, values: dict, num_phases: int, **more) -> Settings:
    return Settings(RunSettings(str(run_dir))).changed(
        base_classes=2,
        num_phases=num_phases,
        base_epochs=1,
        epochs=1,
        finetune_epochs=1,
        exemplars_per_class=4,
        **values,
        **more,
    )


def run(settings: Settings, source) -> RunDirectory:
    Experiment(settings, source, tf.distribute.get_strategy()).run()
    return RunDirectory(settings.run.run_dir)


@pytest.mark.parametrize(
    "case", [*CASES, *(pytest.param(case, marks=pytest.mark.exhaustive) for case in MORE_CASES)]
)
def test_one_process_equals_a_new_one_for_every_phase(tmp_path, case):
    values = (CASES | MORE_CASES)[case]
    whole = run(settings_of(tmp_path / "whole", values, 2), TinySource(4))
    for phase in range(3):
        settings = settings_of(tmp_path / "apart", values, 2, last_phase=phase)
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


@pytest.mark.parametrize("jit_compile", ["off", pytest.param("on", marks=pytest.mark.exhaustive)])
def test_25_phases_trace_no_more_than_one(tmp_path, jit_compile):
    """Whatever the sizes of the classes, and with them those of the last batches."""
    values = {"batch_size": 8, "weight_transfer": True}
    settings = settings_of(tmp_path / "run", values, 25, jit_compile=jit_compile)
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
    learned = {**LEARNED, "inner_start": "fresh_head"}
    few, many = (
        traced_by(settings_of(tmp_path / str(n), learned, n), TinySource(n + 2)) for n in (3, 5)
    )
    assert many == few


def test_seconds_of_a_phase_tell_tracing_apart(tmp_path):
    settings = settings_of(tmp_path / "run", {}, 2)
    strategy = tf.distribute.get_strategy()
    phases = Experiment(settings, load_digits(), strategy).run()["phases"]
    seconds = [phase["seconds"] for phase in phases]
    assert all(
        {"tracing", "train", "exemplars", "finetune", "evaluate", "export"} <= set(s)
        for s in seconds
    )
    assert seconds[0]["tracing"] > 0
    assert seconds[2]["tracing"] < 0.2 * seconds[0]["tracing"]
