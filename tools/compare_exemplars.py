"""Measures what one way of making exemplars is worth for one trained phase-0 model.

    python -m tools.compare_exemplars --flagfile=configs/cifar100_cpu.flags --phase0_from=RUN \
        --run_dir=runs/compare --exemplars=mnemonics --exemplar_seed=1 --output=figures.json \
        --next_phase=transfer,plain

Takes the flags of mnemonics_tf.train. --seed is that of Theta_0; everything after it follows
--exemplar_seed, the training of the measurements too, so that several seeds show the noise of all
that is compared. After the exemplars of phase 0 are made it measures, on its classes' test images:

- probe: softmax regression on the features of the exemplars;
- finetuned: Theta_0 fine-tuned on the exemplars only;
- finetuned_float: the same on the learned exemplars before they were rounded to uint8;
- fresh_head: Theta_0 with a new random classifier, fine-tuned on the exemplars only;
- both heads' accuracy of Theta_0 itself, the nearest-mean head using the exemplars;

and, for every variant of --next_phase, the accuracy of both heads on old, new and all classes after
the whole next phase with these exemplars, before and after its fine-tune.

--exemplars_from=RUN measures the exemplars that an earlier comparison or run made in phase 0; the
next phase then makes its own as --exemplars says.
"""

import sys
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from mnemonics_tf import flags as settings_flags
from mnemonics_tf import train
from mnemonics_tf.bilevel.learner import Exemplars
from mnemonics_tf.data.image_set import ArrayImageSet, ImageSet
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.metrics import accuracy
from mnemonics_tf.evaluation.probe import probe_accuracy
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import STAGES, Experiment
from mnemonics_tf.monitoring.progress import LOGGER, log_to
from mnemonics_tf.paths import user_path
from mnemonics_tf.phases.finetune import finetune_model
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.phases.state import PhaseState
from mnemonics_tf.phases.temporary_model import fresh_weights
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run.data_facts import refuse_other_phase0
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays, write_json
from mnemonics_tf.run.resume import load_memory
from mnemonics_tf.settings import Settings

flags.adopt_module_key_flags(train)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.", required=True)
_FINETUNE = flags.DEFINE_boolean("finetune", True, "Measure the fine-tunes of Theta_0.")
_EXEMPLARS_FROM = flags.DEFINE_string(
    "exemplars_from", "", "Run directory whose exemplars of phase 0 to measure; else make them."
)
_NEXT_PHASE = flags.DEFINE_list(
    "next_phase", [], "Train the next phase too: 'transfer', 'plain' (all kernels train), or both."
)


def main(_: list[str]) -> int:
    """Makes the exemplars of phase 0, measures them and writes the figures."""
    try:
        _compare()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _compare() -> None:
    wanted = settings_flags.settings_from_flags(flags.FLAGS)
    directory = user_path(wanted.run.run_dir)
    if directory.exists():
        raise UserError(
            f"--run_dir={directory}: exists already; pass a new one for each comparison"
        )
    directory.mkdir(parents=True)
    log_to(directory / "log.txt")
    source = open_source(wanted)
    strategy = tf.distribute.get_strategy()
    donor = Experiment(wanted, source, strategy)
    # By these --phase0_from recognises the same data.
    write_json(donor.directory.classes, donor.class_facts())
    theta_0 = donor.begin_phase(donor.protocol.phases[0])
    donor.run_stage("train", theta_0)

    trial = _trial_settings(wanted)
    experiment = Experiment(trial, source, strategy)
    state = experiment.begin_phase(experiment.protocol.phases[0])
    state.model.set_state(theta_0.model.state())
    started = time.monotonic()
    unrounded = _make_exemplars(experiment, state)
    figures = {"seconds": round(time.monotonic() - started, 1), "stages": state.metrics}
    exemplars = experiment.directory.exemplars(0)
    exemplars.parent.mkdir(parents=True, exist_ok=True)
    state.memory.save(exemplars)
    trained = state.model.state()
    figures |= _measure(experiment, state, unrounded)
    write_json(user_path(_OUTPUT.value), figures)
    for variant in _NEXT_PHASE.value:
        figures[f"next_phase_{variant}"] = _next_phase(
            trial, source, trained, state.memory, variant == "transfer"
        )
        write_json(user_path(_OUTPUT.value), figures)
    figures["settings"] = wanted.results_settings()
    write_json(user_path(_OUTPUT.value), figures)
    LOGGER.info("%s", {name: v for name, v in figures.items() if isinstance(v, float)})


def _trial_settings(wanted: Settings) -> Settings:
    """Returns the settings of what is measured: all its noise follows the exemplars' seed."""
    seed = wanted.exemplar.exemplar_seed
    seed = wanted.protocol.seed if seed < 0 else seed
    return wanted.changed(finetune_base_phase=True, seed=seed, phase0_from="")


def _make_exemplars(experiment: Experiment, state: PhaseState) -> Exemplars | None:
    """Puts exemplars of phase 0 into the memory; returns them before rounding if they learned."""
    phase, shape = state.phase, experiment.workshop.architecture.image_shape
    if not _EXEMPLARS_FROM.value:
        made = make_exemplars(
            experiment.workshop,
            phase,
            state.training_set,
            state.memory,
            state.model,
            state.stage("exemplars"),
        )
        state.memory = made.memory
        if made.metrics:
            state.metrics["exemplars"] = made.metrics
        return made.unrounded
    other = RunDirectory(_EXEMPLARS_FROM.value)
    refuse_other_phase0(
        experiment.directory,
        other,
        "its exemplars can't be taken by --exemplars_from: pass a run with the same data and class "
        "order, or leave the flag out to make exemplars",
    )
    codec = experiment.settings.exemplar.codec
    state.memory = load_memory(other, phase, shape, codec)
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
            evaluator.outputs(exemplars).features,
            exemplars.labels,
            evaluator.outputs(test_set).features,
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


def _next_phase(
    trial: Settings,
    source: DataSource,
    theta_0: dict[str, np.ndarray],
    memory: ExemplarMemory,
    transfer: bool,
) -> dict[str, dict]:
    """Returns the accuracies of both heads around the fine-tune that ends phase 1."""
    name = "transfer" if transfer else "plain"
    experiment = Experiment(
        trial.changed(weight_transfer=transfer, run_dir=f"{trial.run.run_dir}/{name}"),
        source,
        tf.distribute.get_strategy(),
    )
    directory = experiment.directory
    for path in (directory.model(0), directory.exemplars(0)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(directory.model(0), theta_0)
    memory.save(directory.exemplars(0))
    state = experiment.begin_phase(experiment.protocol.phases[1])
    figures = {}
    for stage in STAGES:
        if stage == "finetune":
            figures["before_finetune"] = _old_new_all(experiment, state)
        with state.timed(stage):
            experiment.run_stage(stage, state)
    figures["after_finetune"] = _old_new_all(experiment, state)
    return figures | {"seconds": state.seconds, "stages": state.metrics}


def _old_new_all(experiment: Experiment, state: PhaseState) -> dict[str, dict[str, float]]:
    predictions, _ = experiment.predict(state.phase, state.model, state.memory)
    labels = predictions.labels
    old = labels < state.phase.num_old
    return {
        head: {
            "old": accuracy(labels[old], predicted[old]),
            "new": accuracy(labels[~old], predicted[~old]),
            "all": accuracy(labels, predicted),
        }
        for head, predicted in predictions.heads.items()
    }


if __name__ == "__main__":
    app.run(main)
