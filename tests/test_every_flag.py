"""Flags have their effect where it matters: from the command line through `Settings`.

What is tested elsewhere by way of a whole run is not repeated here.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import bilevel
from mnemonics_tf import experiment as experiment_module
from mnemonics_tf.data import sources
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.flags import settings_from_flags
from mnemonics_tf.methods.base import MeanOver
from mnemonics_tf.models.incremental import Outputs
from mnemonics_tf.phases import judge
from mnemonics_tf.phases import rehearsal as rehearsal_module
from mnemonics_tf.phases import train_model as train_model_module
from mnemonics_tf.phases import workshop as workshop_module
from mnemonics_tf.phases.adjust_exemplars import adjust_exemplars
from mnemonics_tf.phases.finetune import finetune_settings
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.run.checkpoints import PhaseCheckpoints
from mnemonics_tf.run.files import write_text
from mnemonics_tf.settings import RunSettings, Settings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_networks")]

TINY = ("--base_classes=4", "--num_phases=2", "--exemplars=mnemonics", "--exemplars_per_class=4")


@pytest.fixture(scope="module")
def digits():
    return load_digits()


@pytest.fixture
def make(digits, parse, tmp_path):
    """Makes an experiment of flags."""

    def make_experiment(*flags: str) -> Experiment:
        wanted = settings_from_flags(parse(f"--run_dir={tmp_path}/run", *TINY, *flags))
        return Experiment(wanted, digits, tf.distribute.get_strategy())

    return make_experiment


# Model level


@pytest.mark.parametrize(
    ("flag", "stage", "expected"),
    [
        ("base_epochs=3", "train", {"epochs": 3, "milestones": (2, 2)}),
        ("batch_size=7", "train", {"batch_size": 7}),
        ("learning_rate=0.25", "train", {"learning_rate": 0.25}),
        ("learning_rate_milestones=0.2,0.6", "train", {"milestones": (3, 9)}),
        ("learning_rate_decay=0.5", "train", {"decay": 0.5}),
        ("momentum=0.5", "train", {"momentum": 0.5}),
        ("weight_decay=0.125", "train", {"weight_decay": 0.125}),
        ("decay_normalization", "train", {"decay_normalization": True}),
        ("finetune_epochs=3", "finetune", {"epochs": 3}),
        ("finetune_learning_rate=0.5", "finetune", {"learning_rate": 0.5}),
        ("momentum=0.5", "finetune", {"momentum": 0.5}),
    ],
)
def test_how_the_optimiser_goes(make, monkeypatch, flag, stage, expected):
    found = {}

    def run_epochs(workshop, phase, images, loop, stage, before, draw):
        found["train"] = loop.settings
        return {}

    monkeypatch.setattr(train_model_module, "run_epochs", run_epochs)

    def settings_of(experiment):
        if stage == "finetune":
            return finetune_settings(experiment.workshop)
        experiment.run_stage("train", experiment.begin_phase(experiment.protocol.phases[0]))
        return found["train"]

    default, changed = settings_of(make()), settings_of(make(f"--{flag}"))
    assert dataclasses.replace(default, **expected) == changed != default


def loss_parts(experiment: Experiment) -> dict[str, np.ndarray]:
    """The parts of a method's loss on invented outputs of 3 old and 3 new classes."""
    generator = np.random.default_rng(0)
    features, logits = (
        tf.constant(generator.normal(size=shape), tf.float32) for shape in ((12, 4), (12, 6))
    )
    batch = {
        "label": tf.constant(np.arange(12) % 6, tf.int32),
        "weight": tf.fill([12], 1 / 12),
    }
    old = Outputs(features + 1, logits[:, :3] * 2, 1.0)
    parts = experiment.method.loss_parts(batch, Outputs(features, logits, 1.0), old)
    values = {k: v.values if isinstance(v, MeanOver) else v for k, v in parts.items()}
    return {name: value.numpy() for name, value in values.items()}


@pytest.mark.parametrize(
    ("method", "flag", "parts"),
    [
        ("lwf", "classification_weight=0.25", {"classification", "distillation"}),
        ("lwf", "temperature=3", {"distillation"}),
        ("lucir", "less_forget_weight=3", {"less_forget"}),
        ("lucir", "ranking_margin=0.75", {"margin_ranking"}),
        ("lucir", "ranking_classes=3", {"margin_ranking"}),
    ],
)
def test_which_parts_of_the_loss_change(make, method, flag, parts):
    default, changed = (
        loss_parts(make(f"--method={method}", *flags)) for flags in ((), (f"--{flag}",))
    )
    assert {k for k in default if not np.array_equal(default[k], changed[k])} == parts


@pytest.mark.parametrize(("flags", "times"), [((), 0), (("--finetune_base_phase",), 1)])
def test_the_fine_tune_of_phase_0(make, monkeypatch, flags, times):
    calls = []
    monkeypatch.setattr(experiment_module, "finetune_model", lambda *given: calls.append(given))
    experiment = make(*flags)
    state = experiment.begin_phase(experiment.protocol.phases[0])
    experiment.run_stage("finetune", state)
    assert len(calls) == times


def test_batches_of_evaluation(make, monkeypatch):
    asked = []
    monkeypatch.setattr(
        workshop_module, "Evaluator", lambda model, pipeline, size, *rest: asked.append(size)
    )
    experiment = make("--evaluation_batch_size=7")
    experiment.workshop.evaluator(experiment.begin_phase(experiment.protocol.phases[0]).model)
    assert asked == [7]


# Exemplar level


@pytest.fixture(scope="module")
def untrained(digits, tmp_path_factory):
    """An experiment whose workshop keeps what it built, over flags too, and its phase 0."""
    run = RunSettings(run_dir=str(tmp_path_factory.mktemp("run")))
    wanted = Settings(run).changed(base_classes=4, num_phases=2)
    experiment = Experiment(wanted, digits, tf.distribute.get_strategy())
    return experiment, experiment.begin_phase(experiment.protocol.phases[0])


SHORT = ("--inner_steps=3", "--outer_steps=3", "--outer_batch_size=40", "--validation_share=0")
SGD = ("--outer_optimizer=sgd", "--outer_learning_rate=100")
ALL = ("--inner_scope=all", "--inner_learning_rate=0.01")


@pytest.fixture
def learned(untrained, parse):
    """Makes exemplars of phase 0 as flags say: before they were rounded, and what is recorded."""

    def learn(*flags: str):
        experiment, state = untrained
        wanted = settings_from_flags(parse(*TINY, *SHORT, *flags))
        workshop = dataclasses.replace(experiment.workshop, settings=wanted)
        arguments = (state.phase, state.training_set, state.memory, state.model)
        state = dataclasses.replace(state, metrics={})
        return make_exemplars(workshop, *arguments, state.stage("exemplars"))

    return learn


@pytest.mark.parametrize(
    ("beside", "flag"),
    [
        ((), "mnemonics_start=random"),
        ((), "exemplar_seed=5"),
        ((), "validation_share=0.3"),
        ((), "inner_scope=transfer"),
        ((), "inner_start=model"),
        ((), "inner_steps=2"),
        ((), "inner_learning_rate=0.2"),
        ((), "inner_momentum=0.5"),
        ((), "inner_batch_size=4"),
        (ALL, "inner_batch_statistics"),
        ((), "noinner_augmentation"),
        ((), "meta_gradient=first_order"),
        (("--meta_gradient=truncated",), "truncated_steps=1"),
        ((), "objective=class_means"),
        ((), "exemplars_per_step=8"),
        ((), "outer_batch_size=20"),
        ((), "outer_steps=2"),
        ((), "outer_optimizer=sgd"),
        ((), "outer_learning_rate=0.03"),
        (SGD, "outer_momentum=0.5"),
        (SGD, "gradient_scale=2"),
        ((), "outer_halvings=1"),
    ],
)
def test_exemplars_learn_otherwise(learned, beside, flag):
    default, changed = (learned(*beside, *flags).unrounded for flags in ((), (f"--{flag}",)))
    assert not np.array_equal(default.images, changed.images)


def test_exemplars_learn_the_same_from_the_same_flags(learned):
    """Or else the test above would show nothing."""
    one, other = learned().unrounded, learned().unrounded
    np.testing.assert_array_equal(one.images, other.images)


@pytest.mark.parametrize(
    ("flags", "steps"),
    [((), 6), (("--patience=2",), 2), (("--patience=2", "--validation_every=2"), 4)],
)
def test_patience_ends_learning(learned, monkeypatch, flags, steps):
    falling = iter(range(0, -100, -1))
    monkeypatch.setattr(judge, "probe_accuracy", lambda *_: float(next(falling)))
    judged = ("--validation_share=0.2", "--validation_every=1", "--outer_steps=6")
    assert learned(*judged, *flags).metrics["steps"] == steps


@pytest.mark.parametrize("flags", [("--rehearsal_steps=1",), ("--rehearsal_steps=4",)])
def test_a_rehearsal_judges(learned, monkeypatch, flags):
    epochs = []
    monkeypatch.setattr(
        rehearsal_module,
        "train_model",
        lambda workshop, *_: epochs.append(workshop.settings.training.epochs),
    )
    judged = ("--validation=rehearsal", "--validation_share=0.2", "--outer_steps=1", "--epochs=9")
    learned(*judged, "--batch_size=10000", *flags)
    assert epochs == [int(flags[0][-1])] * 2


@pytest.mark.parametrize(
    "flag", ["adjust_steps=2", "adjust_learning_rate=0.1", "adjust_subsets=4", "exemplar_seed=5"]
)
def test_old_exemplars_are_adjusted_otherwise(untrained, learned, parse, flag):
    experiment, state = untrained
    memory = learned("--exemplars=herding").memory
    # To the next phase all classes so far are old ones; the model need not have grown.
    phase = dataclasses.replace(experiment.protocol.phases[1], seen_classes=range(4))

    def adjusted(*flags: str) -> np.ndarray:
        base = ("--adjust_old_exemplars", "--adjust_steps=4", "--adjust_learning_rate=0.3")
        wanted = settings_from_flags(parse(*TINY, *SHORT, *base, *flags))
        workshop = dataclasses.replace(experiment.workshop, settings=wanted)
        stage = dataclasses.replace(state, metrics={}).stage("adjust")
        return adjust_exemplars(workshop, phase, memory, state.model, stage)[0].images

    assert not np.array_equal(adjusted(), adjusted(f"--{flag}"))


@pytest.mark.parametrize(("choice", "compiled"), [("off", False), ("on", True)])
def test_compiling_exemplar_learning(make, monkeypatch, choice, compiled):
    asked = []

    def create(name, problem, truncated_steps, jit_compile):
        asked.append(jit_compile)
        return bilevel.Sweep(problem)

    monkeypatch.setattr(bilevel, "create", create)
    experiment = make(f"--jit_compile_exemplars={choice}", "--jit_compile=off")
    model = experiment.begin_phase(experiment.protocol.phases[0]).model
    experiment.workshop.objective(model)
    assert asked == [compiled]


# Exports, checkpoints and data


def test_models_are_exported_under_their_name(make):
    experiment = make("--model_name=numbers")
    path = experiment.exports.path(experiment.protocol.phases[1])
    assert path == experiment.directory.export / "numbers" / "2"


def test_models_keep_the_name_that_the_run_began_with(make):
    experiment = make("--model_name=numbers")
    write_text(experiment.directory.flags, experiment.settings.flag_lines())
    assert make().exports.path(experiment.protocol.phases[1]).parent.name == "numbers"


@pytest.fixture
def saved(monkeypatch):
    """The stages and positions of checkpoints."""
    snapshots = []
    monkeypatch.setattr(
        PhaseCheckpoints, "save", lambda _, one: snapshots.append((one.stage, one.position))
    )
    return snapshots


@pytest.mark.parametrize(
    ("flag", "count"),
    [("checkpoint_minutes=100", 0), ("checkpoint_epochs=2", 1), ("checkpoint_minutes=0", 3)],
)
def test_checkpoints_of_training(make, saved, flag, count):
    experiment = make("--base_epochs=3", "--batch_size=500", f"--{flag}")
    experiment.run_stage("train", experiment.begin_phase(experiment.protocol.phases[0]))
    assert len(saved) == count


@pytest.mark.parametrize(("flag", "positions"), [("0", []), ("2", [2])])
def test_checkpoints_of_exemplar_learning(learned, saved, flag, positions):
    learned(f"--checkpoint_outer_steps={flag}")
    assert saved == [("exemplars", position) for position in positions]


def test_a_source_is_told_what_it_reads_by(parse, monkeypatch, digits):
    told = []

    def load(*given):
        told.extend(given)
        return digits

    monkeypatch.setitem(sources.SOURCES, "npz", load)
    flags = ("--image_size=9", "--skip_broken", "--test_share=0.3", "--split_seed=4")
    where = ("--dataset=npz", "--data_dir=there", "--download")
    sources.open_source(settings_from_flags(parse(*where, *flags)))
    assert told[:2] == ["there", True]
    assert dataclasses.astuple(told[2]) == (9, True, 0.3, 4)
