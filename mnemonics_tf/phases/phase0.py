"""Theta_0 shared by runs: what has to be the same, and how one run takes it from another."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.methods import BUILT_IN, METHODS
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.run.data_facts import refuse_other_phase0
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, write_arrays
from mnemonics_tf.run.results import hash_of
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.settings import Settings, TrainingSettings, by_name

#: what a user may have set otherwise where Theta_0 is refused
_SHAPING = (
    *("dataset", "base_classes", "class_order_seed", "class_order", "phase_classes", "image_size"),
    *("backbone", "backbone_input", "depth"),
)
_TRAINING = (
    *("base_epochs", "batch_size", "learning_rate", "learning_rate_milestones"),
    *("learning_rate_decay", "momentum", "weight_decay", "decay_normalization"),
)
#: in which its activations may have been computed
_PRECISIONS = next(
    field.metadata["facts"].choices
    for field in dataclasses.fields(TrainingSettings)
    if field.name == "mixed_precision"
)
#: what a file of Theta_0 says beside its weights
_NOTES = ("fingerprint", "seed")
#: characters of a setting's value in a message
_LONGEST = 60


@dataclasses.dataclass(frozen=True)
class Origin:
    """How a Theta_0 was trained, as far as a run that takes it over may be of another kind.

    Attributes:
        seed: of the run that trained it; -1 where none is told.
        mixed_precision: in which its activations were computed; weights are float32 always.
    """

    seed: int
    mixed_precision: str


def fingerprint(
    settings: Settings,
    protocol: ClassIncrementalProtocol,
    architecture: Architecture,
    origin: Origin,
) -> str:
    """Returns a hash of everything that touches the model of phase 0 up to its exemplars.

    On how many devices it was trained is not among that, but for rounding.

    Args:
        settings: of the run.
        protocol: what is learned when.
        architecture: of the model.
        origin: of the model.
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
    precision = origin.mixed_precision
    mixed = {} if precision == "off" else {"mixed_precision": precision}
    method = settings.training.method
    own = {} if method in BUILT_IN else {"method": method}  # which may have another loss
    return hash_of(
        {
            "dataset": settings.protocol.dataset,
            "classes": protocol.order[: protocol.base_classes],
            "seed": origin.seed,
            "architecture": described,
            "training": {name: training[name] for name in _TRAINING},
            "devices": 1,  # as earlier versions had it in runs on one device
            **mixed,
            **own,
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


def origin_of(other: RunDirectory, expected: Callable[[Origin], str], settings: Settings) -> Origin:
    """Returns how another run's Theta_0 was trained, if this run can take it.

    Whether the model is whole is seen where it is taken.

    Args:
        other: the other run's directory.
        expected: fingerprint of this run's phase 0, had its model a given origin.
        settings: of this run.

    Raises:
        UserError: if there is none, or if it was trained with other settings, data or class order.
    """
    if not other.base_model.exists():
        raise UserError(
            f"--phase0_from={other.root} holds no trained model of phase 0 ({other.base_model} is "
            "missing): pass the --run_dir of a run that has trained it, or leave the flag out to "
            "train phase 0 here"
        )
    notes = read_arrays(other.base_model, _NOTES)
    seed = _seed_in(other, notes.get("seed"))
    noted = str(notes.get("fingerprint", ""))
    origins = (Origin(seed, precision) for precision in _PRECISIONS)
    origin = next((origin for origin in origins if expected(origin) == noted), None)
    if origin is None:
        raise UserError(
            f"--phase0_from={other.root}: its phase 0 was trained with other settings, data or "
            f"class order{_difference(settings, other)}; leave the flag out to train phase 0 here"
        )
    return origin


def take_over(
    model: IncrementalModel,
    expected: Callable[[Origin], str],
    settings: Settings,
    own: RunDirectory,
    other: RunDirectory,
    check: Callable[[], None],
) -> Origin:
    """Gives a model the weights of another run's Theta_0.

    That one may be of another seed, and trained in another precision.

    Args:
        model: Theta_0 of this run, untrained.
        expected: fingerprint of this run's phase 0, had its model a given origin.
        settings: of this run.
        own: this run's directory.
        other: the other run's.
        check: refuses what else does not fit, once the images are known to be the same: other
            images have another mean, too, and are the reason to tell.

    Returns:
        How Theta_0 was trained.

    Raises:
        UserError: if the other was trained with other settings, data or class order.
    """
    origin = origin_of(other, expected, settings)
    refuse_other_phase0(
        own,
        other,
        "its model can't be taken by --phase0_from: pass a run on the data of --data_dir, or leave "
        "the flag out to train phase 0 here",
    )
    check()
    # A correction of logits is not part of what runs share: it starts as it is. All else must be
    # in the file, under whatever names its version had.
    arrays = read_arrays(other.base_model)
    weights = {name: array for name, array in arrays.items() if name not in _NOTES}
    start = model.state()
    correction = model.correction.variables if model.correction else []
    kept = {variable.path: start[variable.path] for variable in correction}
    model.set_state({**kept, **weights}, str(other.base_model))
    precision = "float32" if origin.mixed_precision == "off" else origin.mixed_precision
    LOGGER.info(
        "phase 0 takes the trained model of %s, of seed %d, trained in %s",
        *(other.root, origin.seed, precision),
    )
    return origin


def tell_of_another(own: RunDirectory, other: RunDirectory) -> None:
    """Warns where the model of a phase 0 that is done is not the one that is asked for.

    Args:
        own: this run's directory.
        other: of the run that --phase0_from names; its model may be gone or damaged by now, which
            costs this run nothing.
    """
    try:
        ours, theirs = (read_arrays(run.base_model) for run in (own, other))
    except UserError:
        return
    shared = (ours.keys() & theirs.keys()) - set(_NOTES)
    if not all(np.array_equal(ours[name], theirs[name]) for name in shared):
        LOGGER.warning(
            "--phase0_from=%s is not used: %s has its phase 0 already, with another model; pass "
            "another --run_dir to begin with that one",
            *(other.root, own.root),
        )


def _difference(settings: Settings, other: RunDirectory) -> str:
    """Returns in words which settings of another run's phase 0 are unlike those of this one."""
    theirs = by_name(read_settings(other)) if other.settings.exists() else {}
    ours = by_name(dataclasses.asdict(settings))
    unlike = [
        f"--{name} was {_shown(theirs[name])} there and is {_shown(ours[name])} here"
        for name in (*_SHAPING, *_TRAINING)
        if name in theirs and json.dumps(theirs[name]) != json.dumps(ours[name])
    ]
    methods = [str(run.get("method")) for run in (theirs, ours)]
    classifiers = {name: METHODS[name].classifier for name in methods if name in METHODS}
    if len(set(classifiers.values())) > 1:
        told = [f"--method={name} has a {kind} classifier" for name, kind in classifiers.items()]
        unlike.append(" and ".join(told))
    elif "method" in theirs and methods[0] != methods[1] and not BUILT_IN.issuperset(methods):
        unlike.append(
            f"--method was {_shown(theirs['method'])} there and is {_shown(ours['method'])} here, "
            "and one of a user's own may train phase 0 by another loss"
        )
    return f" ({'; '.join(unlike)})" if unlike else ""


def _shown(value: Any) -> str:
    text = printable(json.dumps(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def seed_of(other: RunDirectory) -> int:
    """Returns the seed of a run's Theta_0, which it may have taken over itself; -1 if none tells.

    Whether the model is whole is seen where it is taken.
    """
    try:
        noted = read_arrays(other.base_model, _NOTES).get("seed")
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


def publish(
    model: IncrementalModel, fingerprint: str, origin: Origin, directory: RunDirectory
) -> None:
    """Writes Theta_0 as trained, for runs that share it.

    Args:
        model: Theta_0.
        fingerprint: of how it was trained.
        origin: of the model.
        directory: of the run.
    """
    notes = {"fingerprint": np.array(fingerprint), "seed": np.array(origin.seed)}
    write_arrays(directory.base_model, {**model.state(), **notes})
