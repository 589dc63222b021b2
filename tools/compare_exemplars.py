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

import dataclasses
import pathlib
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
from mnemonics_tf.phases.make_exemplars import make_new_exemplars
from mnemonics_tf.phases.state import PhaseState, RunContext
from mnemonics_tf.phases.temporary_model import fresh_weights
from mnemonics_tf.phases.train_model import finetune_model, train_model
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run.files import RunDirectory, write_arrays, write_json
from mnemonics_tf.run.resume import load_memory, same_base_classes
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
    directory = pathlib.Path(wanted.run.run_dir)
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
    write_json(donor.context.directory.classes, donor.class_facts())
    theta_0 = donor.begin_phase(donor.context.protocol.phases[0])
    train_model(donor.context, theta_0)

    trial = _trial_settings(wanted)
    experiment = Experiment(trial, source, strategy)
    context = experiment.context
    state = experiment.begin_phase(context.protocol.phases[0])
    state.model.set_state(theta_0.model.state())
    started = time.monotonic()
    unrounded = _make_exemplars(context, state)
    figures = {"seconds": round(time.monotonic() - started, 1), "stages": state.figures}
    exemplars = context.directory.exemplars(0)
    exemplars.parent.mkdir(parents=True, exist_ok=True)
    state.memory.save(exemplars)
    trained = state.model.state()
    figures |= _measure(context, state, unrounded)
    write_json(pathlib.Path(_OUTPUT.value), figures)
    for variant in _NEXT_PHASE.value:
        figures[f"next_phase_{variant}"] = _next_phase(
            trial, source, trained, state.memory, variant == "transfer"
        )
        write_json(pathlib.Path(_OUTPUT.value), figures)
    figures["settings"] = wanted.results_settings()
    write_json(pathlib.Path(_OUTPUT.value), figures)
    LOGGER.info("%s", {name: v for name, v in figures.items() if isinstance(v, float)})


def _trial_settings(wanted: Settings) -> Settings:
    """Returns the settings of what is measured: all its noise follows the exemplars' seed."""
    seed = wanted.exemplar.exemplar_seed
    return dataclasses.replace(
        wanted,
        training=dataclasses.replace(wanted.training, finetune_base_phase=True),
        protocol=dataclasses.replace(
            wanted.protocol, seed=wanted.protocol.seed if seed < 0 else seed
        ),
        run=dataclasses.replace(wanted.run, phase0_from=""),
    )


def _make_exemplars(context: RunContext, state: PhaseState) -> Exemplars | None:
    """Puts exemplars of phase 0 into the memory; returns them before rounding if they learned."""
    if not _EXEMPLARS_FROM.value:
        return make_new_exemplars(context, state)
    other = RunDirectory(_EXEMPLARS_FROM.value)
    if not same_base_classes(context.directory, other):
        raise UserError(
            f"--exemplars_from={other.root}: its phase 0 has other classes or another class order; "
            "pass a run with the same data and class order, or leave the flag out to make exemplars"
        )
    state.memory = load_memory(other, state.phase, context.architecture.image_shape)
    return None


def _measure(
    context: RunContext, state: PhaseState, unrounded: Exemplars | None
) -> dict[str, float]:
    test_set = context.data.test_set(state.phase)
    means = state.evaluator.class_means(state.memory, state.phase.num_seen)
    heads = state.evaluator.predict(test_set, means).heads
    exemplars = state.memory.as_image_set()
    figures = {
        "theta_0": accuracy(test_set.labels, heads["classifier"]),
        "nme": accuracy(test_set.labels, heads["nme"]),
        "probe": probe_accuracy(
            state.evaluator.outputs(exemplars).features,
            exemplars.labels,
            state.evaluator.outputs(test_set).features,
            test_set.labels,
        ),
    }
    if not _FINETUNE.value:
        return figures
    trained = state.model.state()

    def after_finetune(images: ImageSet) -> float:
        finetune_model(context, state, images)
        logits = state.evaluator.outputs(test_set).logits
        state.model.set_state(trained)
        return accuracy(test_set.labels, logits.argmax(axis=1))

    figures["finetuned"] = after_finetune(exemplars)
    if unrounded is not None:
        pixels = context.pipeline.normalization.denormalize(tf.constant(unrounded.images))
        pixels = np.clip(pixels.numpy(), 0, 255)
        figures["finetuned_float"] = after_finetune(ArrayImageSet(pixels, unrounded.labels))
    classifier = state.model.classifier
    generator = numpy_generator(context.exemplar_seed, "fresh head")
    for variable in classifier.variables:
        variable.assign(fresh_weights(variable, generator, classifier))
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
        dataclasses.replace(
            trial,
            model=dataclasses.replace(trial.model, weight_transfer=transfer),
            run=dataclasses.replace(trial.run, run_dir=f"{trial.run.run_dir}/{name}"),
        ),
        source,
        tf.distribute.get_strategy(),
    )
    context = experiment.context
    for path in (context.directory.model(0), context.directory.exemplars(0)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(context.directory.model(0), theta_0)
    memory.save(context.directory.exemplars(0))
    state = experiment.begin_phase(context.protocol.phases[1])
    figures = {}
    for stage_name, stage in STAGES:
        if stage_name == "finetune":
            figures["before_finetune"] = _old_new_all(experiment, state)
        with state.timed(stage_name):
            stage(context, state)
    figures["after_finetune"] = _old_new_all(experiment, state)
    return figures | {"seconds": state.seconds, "stages": state.figures}


def _old_new_all(experiment: Experiment, state: PhaseState) -> dict[str, dict[str, float]]:
    predictions, _ = experiment.predict(state.phase, state.evaluator, state.memory)
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
