"""Theta_0 shared by runs: what has to be the same, and how one run takes it from another."""

import dataclasses
from collections.abc import Callable

import numpy as np

from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.incremental import Architecture, IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.run.data_facts import refuse_other_phase0
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, write_arrays
from mnemonics_tf.run.results import hash_of
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.settings import Settings, by_name


def fingerprint(
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    architecture: Architecture,
    seed: int,
) -> str:
    """Returns a hash of everything that touches the model of phase 0 up to its exemplars.

    On how many devices it was trained is not among that, but for rounding.

    Args:
        settings: of the run.
        protocol: what is learned when.
        architecture: of the model.
        seed: that phase 0 was trained with.
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
            "seed": seed,
            "architecture": described,
            "training": {name: training[name] for name in shared},
            "devices": 1,  # as earlier versions had it in runs on one device
            **mixed,
        }
    )


def refuse_other_preprocessing(donor: str, theirs: Preprocessing, ours: Preprocessing) -> None:
    """Refuses a Theta_0 that learned from images normalised otherwise.

    Args:
        donor: directory of its run.
        theirs: the preprocessing of that run.
        ours: that of this run.

    Raises:
        UserError: tells both.
    """
    if theirs != ours:
        raise UserError(
            f"--phase0_from={donor}: its images had the mean {theirs.channel_mean} and deviation "
            f"{theirs.channel_std}, those here {ours.channel_mean} and {ours.channel_std} (earlier "
            "versions measured the classes of all phases): leave the flag out to train phase 0 here"
        )


def take_over(
    model: IncrementalModel,
    expected: Callable[[int], str],
    own: RunDirectory,
    other: RunDirectory,
    check: Callable[[], None],
) -> int:
    """Gives a model the weights of another run's Theta_0, which may be of another seed.

    Args:
        model: Theta_0 of this run, untrained.
        expected: fingerprint of this run's phase 0, had it a given seed.
        own: this run's directory.
        other: the other run's.
        check: refuses what else does not fit, once the images are known to be the same: other
            images have another mean, too, and are the reason to tell.

    Returns:
        The seed that Theta_0 was trained with.

    Raises:
        UserError: if the other was trained with other settings, data or class order.
    """
    arrays = read_arrays(other.base_model)
    seed = _seed_in(other, arrays.pop("seed", None))
    if str(arrays.pop("fingerprint", "")) != expected(seed):
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
    check()
    # A correction of logits is not part of what runs share: it starts as it is. All else must be
    # in the file, under whatever names its version had.
    start = model.state()
    correction = model.correction.variables if model.correction else []
    kept = {variable.path: start[variable.path] for variable in correction}
    model.set_state({**kept, **arrays}, str(other.base_model))
    LOGGER.info("phase 0 takes the trained model of %s, of seed %d", other.root, seed)
    return seed


def seed_of(other: RunDirectory) -> int:
    """Returns the seed of a run's Theta_0, which it may have taken over itself; -1 if none tells.

    Whether the model is whole is seen where it is taken.
    """
    try:
        noted = read_arrays(other.base_model, ("seed",)).get("seed")
    except UserError:
        noted = None
    return _seed_in(other, noted)


def _seed_in(other: RunDirectory, noted: np.ndarray | None) -> int:
    """Returns what `seed_of` does, from what is noted beside the model.

    Args:
        other: the run.
        noted: None in what earlier versions wrote: the run trained it itself then.
    """
    if noted is None:
        settings = by_name(read_settings(other)) if other.settings.exists() else {}
        noted = settings.get("seed", -1)
    try:
        return int(noted)
    except (TypeError, ValueError):
        return -1


def publish(model: IncrementalModel, fingerprint: str, seed: int, directory: RunDirectory) -> None:
    """Writes Theta_0 as trained, for runs that share it.

    Args:
        model: Theta_0.
        fingerprint: of how it was trained.
        seed: that it was trained with.
        directory: of the run.
    """
    notes = {"fingerprint": np.array(fingerprint), "seed": np.array(seed)}
    write_arrays(directory.base_model, {**model.state(), **notes})
