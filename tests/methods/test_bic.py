import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize, special

from mnemonics_tf import experiment as experiment_module
from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.methods.base import cross_entropy, distillation
from mnemonics_tf.methods.bic import BiC, fit_correction
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel, Outputs
from mnemonics_tf.phases.train_model import train_model
from mnemonics_tf.run.files import read_arrays
from mnemonics_tf.settings import (
    ExemplarSettings,
    ModelSettings,
    ProtocolSettings,
    RunSettings,
    Settings,
    TrainingSettings,
)
from mnemonics_tf.training.loop import TrainingLoop
from tests.quick_runs import nothing_to_look_at
from tests.serving.serving_support import ServedModel
from tests.small_network import NAME
from tools.check_against_pytorch import NORMALIZATION, make_case

#: mean parts of the case `bic` of tools/check_against_pytorch.py, by PyTorch 2.13
PYTORCH_PARTS = {"classification": 0.89825868, "distillation": 0.78544537}


# Losses


@pytest.mark.parametrize(("num_old", "num_phases"), [(4, 1), (6, 2)])
def test_parts_are_weighed_by_the_share_of_old_classes(num_old, num_phases):
    phase = ClassIncrementalProtocol(range(10), num_old, num_phases).phases[-1]
    generator = np.random.default_rng(0)
    logits = tf.constant(3 * generator.normal(size=(5, 10)))
    old_logits = tf.constant(3 * generator.normal(size=(5, phase.num_old)))
    labels = tf.constant([0, 3, 9, 8, 1])
    parts = BiC(TrainingSettings()).loss_parts(
        {"label": labels}, Outputs(None, logits), Outputs(None, old_logits)
    )
    rho = {4: 0.4, 6: 0.8}[num_old]
    expected = (1 - rho) * cross_entropy(labels, logits).numpy()
    np.testing.assert_allclose(parts["classification"], expected)
    expected = rho * distillation(logits, old_logits, 2.0).numpy()
    np.testing.assert_allclose(parts["distillation"], expected)


def test_parts_of_a_whole_corrected_network_are_those_of_pytorch():
    case = make_case("bic", transfer=False)
    images = NORMALIZATION.normalize(case.images.images)
    outputs, old_outputs = case.model(images, training=True), case.old_model(images)
    parts = case.loss_parts({"label": tf.constant(case.images.labels)}, outputs, old_outputs)
    means = {name: float(tf.reduce_mean(part)) for name, part in parts.items()}
    assert means == pytest.approx(PYTORCH_PARTS, rel=1e-5)


# Fitting


def best_correction(labels: np.ndarray, logits: np.ndarray, num_old: int) -> np.ndarray:
    """The same minimum by SciPy's search, which uses no derivative of ours.

    Of the images' cross-entropies and a normal prior's around no correction.
    """

    def loss(solution):
        corrected = logits.astype(np.float64)
        corrected[:, num_old:] = solution[0] * corrected[:, num_old:] + solution[1]
        truth = corrected[np.arange(len(labels)), labels]
        prior = ((solution[0] - 1) ** 2 + solution[1] ** 2) / 2
        return np.sum(special.logsumexp(corrected, axis=1) - truth) + prior

    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 10000}
    return optimize.minimize(loss, [1.0, 0.0], method="Nelder-Mead", options=options).x


@pytest.mark.parametrize("bias", [0.0, 4.0, -4.0])
@pytest.mark.parametrize("seed", range(3))
def test_fitted_correction_is_the_minimum(seed, bias):
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(7), 6)
    logits = 2 * generator.normal(size=(len(labels), 7))
    logits[np.arange(len(labels)), labels] += 1.5
    logits[:, 4:] += bias
    fitted = fit_correction(labels, logits.astype(np.float32), 4)
    expected = best_correction(labels, logits.astype(np.float32), 4)
    np.testing.assert_allclose(fitted, expected, rtol=1e-5, atol=1e-5)


def test_a_biased_model_is_put_right():
    """New logits that are 3 z + 5 of right ones get (1 / 3, -5 / 3), the means over many images."""
    generator = np.random.default_rng(0)
    logits = 2 * generator.normal(size=(20000, 6))
    labels = np.array([generator.choice(6, p=row) for row in special.softmax(logits, axis=1)])
    logits[:, 4:] = 3 * logits[:, 4:] + 5
    np.testing.assert_allclose(fit_correction(labels, logits, 4), (1 / 3, -5 / 3), atol=0.05)


def test_images_that_are_told_apart_perfectly_still_give_a_finite_correction():
    labels = np.repeat(np.arange(5), 4)
    logits = 20.0 * np.eye(5)[labels] - 10
    gain, offset = fit_correction(labels, logits, 3)
    corrected = np.concatenate([logits[:, :3], gain * logits[:, 3:] + offset], axis=1)
    assert corrected.argmax(axis=1).tolist() == labels.tolist()
    assert gain == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("of_a_class", [1, 2])
@pytest.mark.parametrize(("num_old", "num_new"), [(4, 1), (4, 2), (8, 2)])
def test_a_few_images_do_not_turn_new_logits_round_nor_blow_them_up(num_old, num_new, of_a_class):
    """Few can often be told apart without a mistake; their likelihood alone has no maximum then."""
    labels = np.repeat(np.arange(num_old + num_new), of_a_class)
    for seed in range(10):
        logits = np.random.default_rng(seed).normal(size=(len(labels), num_old + num_new))
        logits[np.arange(len(labels)), labels] += 4
        logits[:, num_old:] += 4
        gain, offset = fit_correction(labels, logits.astype(np.float32), num_old)
        assert 0 < gain < 2
        assert -3 < offset < 0


# A model's corrections


def test_a_correction_survives_copies_and_states_and_ends_with_its_phase():
    architecture = Architecture("resnet_cifar", 8, (8, 8, 1), "linear", corrects_logits=True)
    model = IncrementalModel(architecture, 0, 2, seed=0)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    for gain, offset in ((0.5, -1.0), (2.0, 0.25)):
        model.grow(2)
        plain = model.classifier(model(images).features).numpy()[:, : model.num_classes]
        np.testing.assert_array_equal(model(images).logits[:, : model.num_classes], plain)
        labels = range(model.num_classes - 2, model.num_classes)
        model.correct_logits(labels, gain, offset)
        expected = np.concatenate([plain[:, :-2], gain * plain[:, -2:] + offset], axis=1)
        np.testing.assert_allclose(
            model(images).logits[:, : model.num_classes], expected, rtol=1e-5
        )

    names = {variable.name for variable in model.trainable_variables}
    assert not names & {"gain", "offset"}
    np.testing.assert_array_equal(model.frozen_copy()(images).logits, model(images).logits)
    other = IncrementalModel(architecture, 4, 2, seed=1)
    other.set_state(model.state())
    np.testing.assert_array_equal(other(images).logits, model(images).logits)


# A whole run


@dataclasses.dataclass
class Fit:
    """One call of `after_training`, with what was trained on before."""

    trained: ImageSet
    held_out: ImageSet
    labels: np.ndarray
    logits: np.ndarray


@dataclasses.dataclass
class Run:
    """A finished run of three phases and its fits."""

    experiment: Experiment
    fits: list[Fit]
    teachers: np.ndarray  # gains and offsets of the last phase's old model

    def correction(self, phase: int) -> tuple[np.ndarray, np.ndarray]:
        arrays = read_arrays(self.experiment.directory.model(phase))
        return arrays["correction/gain"], arrays["correction/offset"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    settings = Settings(
        RunSettings(run_dir=str(tmp_path_factory.mktemp("bic") / "run")),
        ProtocolSettings(base_classes=8, num_phases=2),
        ModelSettings(backbone=NAME),
        training=TrainingSettings(
            method="bic", base_epochs=2, epochs=2, finetune_epochs=0, correction_share=0.2
        ),
        exemplar=ExemplarSettings(exemplars_per_class=10),
    )
    seen: dict[str, Any] = {}
    fits = []
    run_epochs, outputs, after_training = (
        TrainingLoop.run,
        Evaluator.outputs,
        BiC.after_training,
    )

    def watched_epochs(loop, images, *arguments):
        seen["trained"] = images
        return run_epochs(loop, images, *arguments)

    def watched_training(*arguments):
        seen["teacher"] = arguments[6]
        return train_model(*arguments)

    def watched_outputs(evaluator, images, *arguments):
        seen["asked"] = images
        return outputs(evaluator, images, *arguments)

    def watched_fit(method, model, phase, labels, logits):
        fits.append(Fit(seen["trained"], seen["asked"], labels, logits))
        after_training(method, model, phase, labels, logits)

    with nothing_to_look_at(exports=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "train_model", watched_training)
        patch.setattr(TrainingLoop, "run", watched_epochs)
        patch.setattr(Evaluator, "outputs", watched_outputs)
        patch.setattr(BiC, "after_training", watched_fit)
        experiment = Experiment(settings, load_digits(), tf.distribute.get_strategy())
        experiment.run()
    state = seen["teacher"].state()
    teachers = np.stack([state["correction/gain"], state["correction/offset"]])
    return Run(experiment, fits, teachers)


@pytest.mark.slow
def test_held_out_images_are_balanced_and_not_trained_on(run):
    counts = load_digits().training_counts()[list(run.experiment.protocol.order)]
    assert len(run.fits) == 2
    for phase, fit in zip((1, 2), run.fits, strict=True):
        num_seen = 8 + phase
        assert np.bincount(fit.labels).tolist() == [2] * num_seen
        assert np.bincount(fit.trained.labels).tolist() == [
            *[10 - 2] * (num_seen - 1),
            counts[num_seen - 1] - 2,
        ]
        trained = {image.tobytes() for image in fit.trained.images}
        assert not trained & {image.tobytes() for image in fit.held_out.images}


@pytest.mark.slow
def test_each_phase_corrects_its_new_classes_alone(run):
    """As the authors' release does, which distils from the old model's corrected logits."""
    np.testing.assert_array_equal(run.correction(0), [np.ones(8), np.zeros(8)])
    for phase, fit in zip((1, 2), run.fits, strict=True):
        num_old = 7 + phase
        gain, offset = best_correction(fit.labels, fit.logits, num_old)
        assert abs(gain - 1) + abs(offset) > 0.01
        expected = [[*np.ones(num_old), gain], [*np.zeros(num_old), offset]]
        np.testing.assert_allclose(run.correction(phase), expected, rtol=1e-3, atol=1e-3)
    gain, offset = run.correction(1)
    np.testing.assert_array_equal(run.teachers, [gain, offset])


@pytest.mark.slow
def test_corrections_are_in_force_in_logits_predictions_and_export(run):
    experiment = run.experiment
    model = run.experiment.load_model(2)
    test_set = experiment.data.test_set(experiment.protocol.phases[2])
    outputs = model(experiment.workshop.pipeline.normalization.normalize(test_set.images))
    gain, offset = run.correction(2)
    logits = gain * model.classifier(outputs.features).numpy()[:, :10] + offset
    np.testing.assert_allclose(outputs.logits[:, :10], logits, atol=1e-5)
    predictions = read_arrays(experiment.directory.predictions(2))
    assert predictions["classifier"].tolist() == logits.argmax(axis=1).tolist()

    served = ServedModel(experiment.directory.export / "digits" / "3")
    answer = served("serving_default", {"images": test_set.images})
    served.close()
    np.testing.assert_allclose(answer["logits"], logits, rtol=1e-4, atol=1e-4)
