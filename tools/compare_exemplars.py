"""Measures what one way of making exemplars is worth for one trained phase-0 model.

    python -m tools.compare_exemplars --flagfile=configs/cifar100_cpu.flags --phase0_from=RUN \
        --run_dir=runs/compare --exemplars=mnemonics --exemplar_seed=1 --output=figures.json

Takes the flags of mnemonics_tf.train. After the exemplars of phase 0 are made it measures, on the
test images of phase 0's classes:

- probe: softmax regression on the features of the exemplars;
- finetuned: Theta_0 fine-tuned on the exemplars only;
- fresh_head: the same with a new random classifier;
- both heads' accuracy of Theta_0 itself, the nearest-mean head using the exemplars.
"""

import dataclasses
import pathlib
import time

import tensorflow as tf
from absl import app, flags

from mnemonics_tf import settings, train
from mnemonics_tf.data.sources import open_source
from mnemonics_tf.evaluation.metrics import accuracy
from mnemonics_tf.exemplars.exemplar_level import make_new_exemplars
from mnemonics_tf.exemplars.probe import probe_accuracy
from mnemonics_tf.exemplars.temporary_model import fresh_weights
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.progress import LOGGER, log_to
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run_directory import write_json
from mnemonics_tf.training.model_level import finetune_model, train_model

flags.adopt_module_key_flags(train)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the figures.", required=True)
_FINETUNE = flags.DEFINE_boolean(
    "finetune", True, "Measure the two fine-tunes, which take longest."
)


def main(_: list[str]) -> None:
    """Makes the exemplars of phase 0, measures them and writes the figures."""
    wanted = settings.settings_from_flags(flags.FLAGS)
    training = dataclasses.replace(wanted.training, finetune_base_phase=True)
    wanted = dataclasses.replace(wanted, training=training)
    directory = pathlib.Path(wanted.run.run_dir)
    directory.mkdir(parents=True, exist_ok=True)
    log_to(directory / "log.txt")
    source = open_source(wanted)
    experiment = Experiment(wanted, source, tf.distribute.get_strategy())
    context = experiment.context
    state = experiment.begin_phase(context.protocol.phases[0])
    train_model(context, state, 0)
    started = time.monotonic()
    make_new_exemplars(context, state, 1)
    figures = {"seconds": round(time.monotonic() - started, 1), "stages": state.figures}
    figures |= _measure(context, state)
    figures["settings"] = wanted.results_settings()
    write_json(pathlib.Path(_OUTPUT.value), figures)
    LOGGER.info("%s", {name: v for name, v in figures.items() if isinstance(v, float)})


def _measure(context, state) -> dict[str, float]:
    test_set = context.data.test_set(state.phase)

    def classifier_accuracy() -> float:
        logits = state.evaluator.outputs(test_set).logits
        return accuracy(test_set.labels, logits.argmax(axis=1))

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
    finetune_model(context, state, 4)
    figures["finetuned"] = classifier_accuracy()
    state.model.set_state(trained)
    classifier = state.model.classifier
    generator = numpy_generator(context.exemplar_seed, "fresh head")
    for variable in classifier.variables:
        variable.assign(fresh_weights(variable, generator, classifier))
    finetune_model(context, state, 4)
    return figures | {"fresh_head": classifier_accuracy()}


if __name__ == "__main__":
    app.run(main)
