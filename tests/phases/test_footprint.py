"""What learning exemplars will need of memory: asked before a run or a phase, as its stages ask."""

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.errors import UserError
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.phases import beginning, footprint, learning
from mnemonics_tf.phases.asked_for import phases_to_run
from mnemonics_tf.run.files import write_json
from mnemonics_tf.settings import RunSettings, Settings
from tests.phases.exemplar_stages import adjust, make

ALL = {"inner_scope": "all", "exemplars": "mnemonics", "depth": 8}
NONE = {"exemplars": "herding"}
OLD = {"adjust_old_exemplars": True, "exemplars_per_class": 5}


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture
def asked(monkeypatch):
    """How many exemplars and outer images memory is asked for."""
    sizes = []
    for module in (footprint, learning):
        monkeypatch.setattr(
            module,
            "check_footprint",
            lambda bytes_per_image, inner, outer, *numbers, begun=False: sizes.append(numbers),
        )
    return sizes


@pytest.fixture
def expected(digits, asked, tmp_path):
    """Returns what is asked before a run of five classes and then one in each phase, or two."""

    def ask(**values):
        settings = Settings(RunSettings(run_dir=str(tmp_path / "run"))).changed(**values)
        experiment = Experiment(settings, digits, tf.distribute.get_strategy())
        asked.clear()
        phases = phases_to_run(settings, experiment.protocol)
        counts = digits.training_counts_of(experiment.protocol.order)
        beginning.check_memory(experiment.workshop, phases, counts)
        return asked[0] if asked else None

    return ask


def test_the_stages_ask_for_what_was_expected(stage, calls, asked):
    """Of three exemplars for each of four classes, and three more classes."""
    wanted = {"inner_scope": "all", "validation_share": 0.1}
    for values in ({"adjust_old_exemplars": False}, {"train_beside_old": True}):
        workshop, _ = stage.enter(0, **wanted, **values)
        experiment = stage.experiment
        counts = experiment.source.training_counts_of(experiment.protocol.order)
        phases = experiment.protocol.phases[:2]
        sizes = list(footprint._step_sizes(workshop.settings, phases, counts))
        kept = [3] * len(phases[0].new_classes)
        assert list(footprint._step_sizes(workshop.settings, phases[1:], counts, kept)) == sizes[1:]
        asked.clear()
        for phase in (0, 1):
            workshop, state = stage.enter(phase, **wanted, **values)
            make(workshop, state)
            adjust(workshop, state)
        assert sizes == asked


@pytest.mark.parametrize(
    ("values", "num_rows"),
    [
        ({}, 5 * 20),
        ({"exemplars_total": 35}, 5 * 7),
        ({"train_beside_old": True, "num_phases": 1}, 10 * 20),
        (NONE | OLD, 9 * 3),  # of five exemplars two subsets have three at most
        (NONE | OLD | {"adjust_subsets": 5}, 9 * 1),
        (OLD, 9 * 3),
        (OLD | {"last_phase": 1}, 5 * 5),
    ],
)
def test_the_stage_with_the_most_exemplars_is_the_one_that_counts(expected, values, num_rows):
    assert expected(**ALL | values)[0] == num_rows


@pytest.mark.parametrize(
    "values",
    [
        {"inner_scope": "classifier"},
        NONE,
        {"objective": "class_means"},
        {"exemplar_bytes_total": 10**6},
    ],
)
def test_nothing_is_asked_where_no_backbone_is_trained_or_no_number_is_known(expected, values):
    assert expected(**ALL | values) is None


def test_who_has_not_the_memory_is_told_before_the_run(digits, monkeypatch, tmp_path):
    settings = Settings(RunSettings(run_dir=str(tmp_path / "run"))).changed(**ALL)
    experiment = Experiment(settings, digits, tf.distribute.get_strategy())
    monkeypatch.setattr(devices, "available_bytes", lambda: 10**6)
    told = "GiB are there: lower --inner_batch_size .now 100."
    with pytest.raises(UserError, match=told), experiment.session(console=False):
        pass
    assert not experiment.directory.root.exists()
    monkeypatch.setattr(devices, "available_bytes", lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(beginning, "any_worker", lambda strategy, mine: not mine)
        with pytest.raises(UserError, match="another worker has too little memory"):
            beginning.check_memory(experiment.workshop, [], np.zeros([10], np.int64))
    monkeypatch.setattr(devices, "available_bytes", lambda: 10**6)
    write_json(experiment.directory.settings, {})  # what was begun goes on
    with experiment.session(console=False):
        pass
