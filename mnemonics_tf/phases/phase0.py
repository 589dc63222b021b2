"""Theta_0 shared by runs: what has to be the same, and how one run takes it from another."""

import dataclasses

import numpy as np

from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.incremental import Architecture, IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.run.data_facts import refuse_other_phase0
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, write_arrays
from mnemonics_tf.run.results import hash_of
from mnemonics_tf.settings import Settings


def fingerprint(
    settings: Settings, protocol: ClassIncrementalProtocol, architecture: Architecture
) -> str:
    """Returns a hash of everything that touches the model of phase 0 up to its exemplars.

    On how many devices it was trained is not among that, but for rounding.

    Args:
        settings: of the run.
        protocol: what is learned when.
        architecture: of the model.
    """
    training = dataclasses.asdict(settings.training)
    # What corrects logits begins with phase 1.
    described = {
        "backbone": architecture.backbone,
        "depth": architecture.depth,
        "image_shape": architecture.image_shape,
        "classifier": architecture.classifier,
    }
    if architecture.own:  # wherever its file lies
        described |= {"backbone": architecture.own.digests, "input": settings.model.backbone_input}
    shared = (
        *("base_epochs", "batch_size", "learning_rate", "learning_rate_milestones"),
        *("learning_rate_decay", "momentum", "weight_decay", "decay_normalization"),
    )
    mixed = {name: training[name] for name in ("mixed_precision",) if training[name] != "off"}
    return hash_of(
        {
            "dataset": settings.protocol.dataset,
            "classes": protocol.order[: protocol.base_classes],
            "seed": settings.protocol.seed,
            "architecture": described,
            "training": {name: training[name] for name in shared},
            "devices": 1,  # as earlier versions had it in runs on one device
            **mixed,
        }
    )


def take_over(
    model: IncrementalModel, expected: str, own: RunDirectory, other: RunDirectory
) -> None:
    """Gives a model the weights of another run's Theta_0.

    Args:
        model: Theta_0 of this run, untrained.
        expected: fingerprint of this run's phase 0.
        own: this run's directory.
        other: the other run's.

    Raises:
        UserError: if the other was trained with other settings, data or class order.
    """
    arrays = read_arrays(other.base_model)
    if str(arrays.pop("fingerprint", "")) != expected:
        raise UserError(
            f"--phase0_from={other.root}: its phase 0 was trained with other settings, data or "
            "class order; leave the flag out to train phase 0 here"
        )
    refuse_other_phase0(
        own,
        other,
        "its model can't be taken by --phase0_from: pass a run on the data of --data_dir, or leave "
        "the flag out to train phase 0 here",
    )
    # A correction of logits is not part of what runs share: it starts as it is. All else must be
    # in the file, under whatever names its version had.
    start = model.state()
    correction = model.correction.variables if model.correction else []
    own = {variable.path: start[variable.path] for variable in correction}
    model.set_state({**own, **arrays}, str(other.base_model))
    LOGGER.info("phase 0 takes the trained model of %s", other.root)


def publish(model: IncrementalModel, fingerprint: str, directory: RunDirectory) -> None:
    """Writes Theta_0 as trained, for runs that share it."""
    write_arrays(directory.base_model, {**model.state(), "fingerprint": np.array(fingerprint)})
