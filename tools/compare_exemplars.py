"""Measures what one way of making exemplars is worth for one trained phase-0 model.

    python -m tools.compare_exemplars --flagfile=configs/cifar100_cpu.flags --data_dir=DIR \
        --phase0_from=RUN --run_dir=runs/compare --exemplars=mnemonics --exemplar_seed=1 \
        --output=figures.json --next_phase=transfer,plain

Takes the flags of mnemonics_tf.train, and one device. --seed is that of Theta_0; everything after
it follows --exemplar_seed, the training of the measurements too, so that several seeds show the
noise of all that is compared. After the exemplars of phase 0 are made it measures, on its classes'
test images:

- probe: softmax regression on the features of the exemplars;
- finetuned: Theta_0 fine-tuned on the exemplars only;
- finetuned_float: the same on the learned exemplars before they were rounded to uint8; with
  --codec=pixels alone, for other codecs change more than that, and in bytes how many are kept;
- fresh_head: Theta_0 with a new random classifier, fine-tuned on the exemplars only;
- both heads' accuracy of Theta_0 itself, the nearest-mean head using the exemplars;

and, for every variant of --next_phase, the accuracy of both heads on old, new and all classes after
the whole next phase with these exemplars, before and after its fine-tune, and what the classifier's
would be with the best constant on the logits of new classes, which is chosen on the test images.

Beside all that stand the figures of a ceiling, unless --noceiling leaves it out: as many
uncompressed real images, chosen by herding, as the fullest class of these exemplars has where a
codec makes room for more than plain pixels would, else four times as many. What lies between is
what there is to gain. --replay_per_class gives both the same time.

--exemplars_from=RUN measures the exemplars that an earlier comparison or run made in phase 0; the
next phase then makes its own as --exemplars says.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import dataclasses
import time
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app, flags

from mnemonics_tf import flags as settings_flags
from mnemonics_tf import train
from mnemonics_tf.bilevel.learner import Exemplars
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.evaluation.metrics import accuracy
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.exemplars.budget import kept_within
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import STAGES, Experiment
from mnemonics_tf.monitoring.progress import LOGGER, log_before_run, log_to
from mnemonics_tf.paths import user_path
from mnemonics_tf.phases.backbone import check_second_order
from mnemonics_tf.phases.checks import check_enough, check_outer_step, warn_of_small_classes
from mnemonics_tf.phases.evaluate import best_constant
from mnemonics_tf.phases.finetune import finetune_model
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.phases.state import PhaseState
from mnemonics_tf.phases.temporary_model import fresh_weights
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run.data_facts import refuse_other_phase0
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import user_error_on_disk_trouble, write_arrays, write_json
from mnemonics_tf.run.resume import check_memory
from mnemonics_tf.settings import Settings
from tools.comparison import check_comparison, check_next_phase

flags.adopt_module_key_flags(train)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.", required=True)
_FINETUNE = flags.DEFINE_boolean("finetune", True, "Measure the fine-tunes of Theta_0.")
_EXEMPLARS_FROM = flags.DEFINE_string(
    "exemplars_from", "", "Run directory whose exemplars of phase 0 to measure; else make them."
)
_CEILING = flags.DEFINE_boolean("ceiling", True, "Measure the ceiling too.")
_NEXT_PHASE = flags.DEFINE_list(
    "next_phase", [], "Train the next phase too: 'transfer', 'plain' (all kernels train), or both."
)

#: what chooses the images of the ceiling, and how many times as many they are
_CHOSEN_BY = "herding"
_TIMES = 4


@program(diverged=", and pass another --run_dir with it")
def main(arguments: list[str]) -> int:
    """Makes the exemplars of phase 0, measures them and writes the figures."""
    refuse_arguments(arguments)
    _compare()
    return 0


def _compare() -> None:
    wanted = settings_flags.settings_from_flags(flags.FLAGS)
    next_phases = _NEXT_PHASE.value
    check_comparison(wanted, _OUTPUT.value, next_phases, _EXEMPLARS_FROM.value)
    log_before_run()
    source = open_source(wanted)
    donor = Experiment(wanted, source, tf.distribute.get_strategy())
    check_next_phase(next_phases, len(donor.protocol.phases))
    check_second_order(wanted, donor.workshop.architecture)
    check_outer_step(wanted, donor.protocol.phases[: 2 if next_phases else 1])
    check_enough(wanted, donor.method, donor.protocol, source)
    warn_of_small_classes(wanted, donor.protocol, source, donor.protocol.phases)
    directory = donor.directory
    with user_error_on_disk_trouble(directory.root):
        directory.root.mkdir(parents=True)
    log_to(directory.log)
    # By these --phase0_from recognises the same data.
    write_json(directory.classes, donor.class_facts())
    theta_0 = donor.begin_phase(donor.protocol.phases[0])
    donor.run_stage("train", theta_0)

    figures: dict[str, Any] = {}

    def write() -> None:
        write_json(user_path(_OUTPUT.value), figures)

    # All of phase 0 first: its training images are out of reach once a next phase has begun.
    trial = _trial_settings(wanted)
    taken = bool(_EXEMPLARS_FROM.value)
    trials = [_Trial(trial, figures, *_phase0(trial, source, theta_0, figures, taken))]
    write()
    if _CEILING.value:
        ceiling, found = _ceiling_settings(trial, trials[0].memory), {}
        figures["ceiling"] = found
        trials.append(_Trial(ceiling, found, *_phase0(ceiling, source, theta_0, found)))
        write()
    # All of them first: some sources measure training images that the first one lets go.
    following = [
        (v, one, _following(one.settings, source, v)) for v in next_phases for one in trials
    ]
    for variant, one, experiment in following:
        one.figures[f"next_phase_{variant}"] = _next_phase(one, experiment)
        write()
    figures["settings"] = wanted.results_settings()
    write()
    LOGGER.info("%s", {name: v for name, v in figures.items() if isinstance(v, float)})


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Exemplars of phase 0, by which the next phase is measured.

    Attributes:
        settings: of what is measured.
        figures: that are added to.
        trained: Theta_0.
        memory: the exemplars.
    """

    settings: Settings
    figures: dict[str, Any]
    trained: dict[str, np.ndarray]
    memory: ExemplarMemory


def _phase0(
    trial: Settings,
    source: DataSource,
    theta_0: PhaseState,
    figures: dict[str, Any],
    taken: bool = False,
) -> tuple[dict[str, np.ndarray], ExemplarMemory]:
    """Makes and measures exemplars of phase 0; returns Theta_0's weights and them."""
    experiment = Experiment(trial, source, tf.distribute.get_strategy())
    state = experiment.begin_phase(experiment.protocol.phases[0])
    state.model.set_state(theta_0.model.state())
    started = time.monotonic()
    unrounded = _make_exemplars(experiment, state, taken)
    figures |= {"seconds": round(time.monotonic() - started, 1), "stages": state.metrics}
    exemplars = experiment.directory.exemplars(0)
    exemplars.parent.mkdir(parents=True, exist_ok=True)
    state.memory.save(exemplars)
    counts, sizes = np.bincount(state.memory.labels), state.memory.bytes_by_class()
    figures["memory"] = {"exemplars_by_class": counts.tolist(), "bytes_by_class": sizes.tolist()}
    trained = state.model.state()
    figures |= _measure(experiment, state, unrounded)
    return trained, state.memory


def _ceiling_settings(trial: Settings, memory: ExemplarMemory) -> Settings:
    """Returns the settings of as many uncompressed real images as show what there is to gain."""
    counts = np.bincount(memory.labels)
    fullest, wanted = int(counts.max()), trial.exemplar
    plain = int(memory.bytes_by_class().max()) // int(np.prod(memory.image_shape))
    per_class = fullest if fullest > plain else _TIMES * fullest
    shared = wanted.exemplars_total or wanted.exemplar_bytes_total
    return trial.changed(
        exemplars=_CHOSEN_BY,
        codec="pixels",
        coded_share=-1.0,
        exemplars_per_class=per_class,
        exemplars_total=per_class * len(counts) if shared else 0,
        exemplar_bytes_per_class=0,
        exemplar_bytes_total=0,
        adjust_old_exemplars=False,
        run_dir=f"{trial.run.run_dir}/ceiling",
    )


def _trial_settings(wanted: Settings) -> Settings:
    """Returns the settings of what is measured: all its noise follows the exemplars' seed."""
    seed = wanted.exemplar.exemplar_seed
    seed = wanted.protocol.seed if seed < 0 else seed
    return wanted.changed(finetune_base_phase=True, seed=seed, phase0_from="")


def _make_exemplars(experiment: Experiment, state: PhaseState, taken: bool) -> Exemplars | None:
    """Puts exemplars of phase 0 into the memory; returns them before rounding, if that is all.

    None are returned where they did not learn, or where a codec may change or drop some.

    Args:
        experiment: with the settings of the exemplars.
        state: of phase 0, which changes.
        taken: whether they are those of --exemplars_from.
    """
    phase, shape = state.phase, experiment.workshop.architecture.image_shape
    if not taken:
        made = make_exemplars(
            experiment.workshop,
            phase,
            state.training_set,
            state.memory,
            state.model,
            state.stage("exemplars"),
        )
        budget = experiment.workshop.budget
        state.memory = kept_within(made.memory, budget, phase.num_seen)
        if made.metrics:
            state.metrics["exemplars"] = made.metrics
        return made.unrounded if experiment.settings.exemplar.codec == "pixels" else None
    other = RunDirectory(_EXEMPLARS_FROM.value)
    refuse_other_phase0(
        experiment.directory,
        other,
        "its exemplars can't be taken by --exemplars_from: pass a run with the same data and class "
        "order, or leave the flag out to make exemplars",
    )
    path = other.exemplars(phase.index)
    state.memory = ExemplarMemory.load(path, experiment.settings.exemplar.codec)
    check_memory(path, state.memory, phase.num_seen, shape)
    return None


def _measure(
    experiment: Experiment, state: PhaseState, unrounded: Exemplars | None
) -> dict[str, float]:
    workshop, model = experiment.workshop, state.model
    evaluator, test_set = workshop.evaluator(model), experiment.data.test_set(state.phase)
    heads = experiment.predict(state.phase, model, state.memory)[0].heads
    exemplars = state.memory.as_image_set()
    figures = {
        "theta_0": accuracy(test_set.labels, heads["classifier"]),
        "nme": accuracy(test_set.labels, heads["nme"]),
        "probe": probe_accuracy(
            evaluator.features(exemplars),
            exemplars.labels,
            evaluator.features(test_set),
            test_set.labels,
        ),
    }
    if not _FINETUNE.value:
        return figures
    trained = model.state()

    def after_finetune(images: ImageSet) -> float:
        finetune_model(workshop, state.phase, images, model, state.stage("finetune"))
        logits = evaluator.outputs(test_set).logits
        model.set_state(trained)
        return accuracy(test_set.labels, logits.argmax(axis=1))

    figures["finetuned"] = after_finetune(exemplars)
    if unrounded is not None:
        pixels = workshop.pipeline.normalization.denormalize(tf.constant(unrounded.images))
        pixels = np.clip(pixels.numpy(), 0, 255)
        figures["finetuned_float"] = after_finetune(ArrayImageSet(pixels, unrounded.labels))
    generator = numpy_generator(workshop.exemplar_seed, "fresh head")
    for variable in model.classifier.variables:
        variable.assign(fresh_weights(variable, generator, model.classifier))
    return figures | {"fresh_head": after_finetune(exemplars)}


def _following(trial: Settings, source: DataSource, variant: str) -> Experiment:
    """Returns the run whose phase 1 follows a trial: `plain`, or with weight `transfer`."""
    run_dir = f"{trial.run.run_dir}/{variant}"
    settings = trial.changed(weight_transfer=variant == "transfer", run_dir=run_dir)
    return Experiment(settings, source, tf.distribute.get_strategy())


def _next_phase(one: _Trial, experiment: Experiment) -> dict[str, dict]:
    """Returns the accuracies of both heads around the fine-tune that ends phase 1."""
    directory = experiment.directory
    for path in (directory.model(0), directory.exemplars(0)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(directory.model(0), one.trained)
    one.memory.save(directory.exemplars(0))
    state = experiment.begin_phase(experiment.protocol.phases[1])
    figures = {}
    for stage in STAGES:
        if stage == "finetune":
            figures["before_finetune"] = _old_new_all(experiment, state)
        with state.timed(stage):
            experiment.run_stage(stage, state)
    figures["after_finetune"] = _old_new_all(experiment, state)
    return figures | {"seconds": state.seconds, "stages": state.metrics}


def _old_new_all(experiment: Experiment, state: PhaseState) -> dict[str, dict[str, Any]]:
    predictions, _ = experiment.predict(state.phase, state.model, state.memory)
    labels = predictions.labels
    old = labels < state.phase.num_old
    figures = {
        head: {
            "old": accuracy(labels[old], predicted[old]),
            "new": accuracy(labels[~old], predicted[~old]),
            "all": accuracy(labels, predicted),
        }
        for head, predicted in predictions.heads.items()
    }
    return figures | {"best_constant": best_constant(state.phase, predictions)}


if __name__ == "__main__":
    app.run(main)
