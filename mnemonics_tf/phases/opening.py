"""What a run says of itself before it trains: data, model, device, memory, place."""

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.devices import available_bytes
from mnemonics_tf.exemplars.budget import make_budget
from mnemonics_tf.methods.base import Method
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.outlook import Outlook, phases_in_words
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.asked_for import phases_to_run
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.settings import Settings


def tell_plan(
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    model: IncrementalModel,
    strategy: tf.distribute.Strategy,
    directory: RunDirectory,
) -> None:
    """Logs what is about to be run, and on what.

    Args:
        settings: of the run.
        protocol: which class comes when.
        model: of the phase that is about to begin.
        strategy: over which devices.
        directory: of the run.
    """
    parameters = sum(int(np.prod(variable.shape)) for variable in model.backbone.variables)
    chosen = settings.exemplar
    LOGGER.info(
        "plan: %s; %s, %s exemplars, %s%s, %s with %s parameters",
        phases_in_words([len(phase.new_classes) for phase in protocol.phases]),
        settings.training.method,
        chosen.exemplars,
        make_budget(chosen).in_words,
        "" if chosen.codec == "pixels" else f" as {chosen.codec}",
        settings.model.backbone,
        f"{parameters:,}",
    )
    kinds = [device.device_type for device in tf.config.list_logical_devices()]
    on_gpu = "GPU" in kinds
    memory = available_bytes()
    LOGGER.info(
        "on %d x %s%s, in %s",
        strategy.num_replicas_in_sync,
        "GPU" if on_gpu else "CPU",
        f" with {memory / 2**30:.1f} GiB{'' if on_gpu else ' free'}" if memory else "",
        directory.root,
    )


def outlook_of(
    settings: Settings, method: Method, protocol: ClassIncrementalProtocol, source: DataSource
) -> Outlook:
    """Returns how many images will pass in training, stage by stage, to the last phase asked for.

    A method that keeps past data sees all of it. Exemplars count where their number is a setting;
    with a budget in bytes it turns out later.
    """
    training = settings.training
    budget = make_budget(settings.exemplar)
    images: dict[tuple[str, int], int] = {}
    for phase in phases_to_run(settings, protocol):
        classes = phase.seen_classes if method.keeps_past_data else phase.new_classes
        images_of = int(source.training_counts_of(protocol.original_ids(classes)).sum())
        of_a_class = 0
        if phase.num_old and not budget.counts_bytes and not method.keeps_past_data:
            of_a_class = budget.quota(phase.num_old)
        if training.replay_per_class and of_a_class:
            of_a_class = min(of_a_class, training.replay_per_class)
        old = of_a_class * phase.num_old
        epochs = training.epochs if phase.index else training.base_epochs
        images["train", phase.index] = epochs * (images_of + old)
    return Outlook(images)
