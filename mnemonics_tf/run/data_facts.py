"""classes.json: what a run notes of its data, and whether data found later are the same.

Noted are the classes of every phase by name, the number of training images of each, a digest of the
training and of the test images, and how images are normalised, augmented and brought to one size.
What digests cover, and what they can miss, the sources say: `FileStorage`, `RecordStorage`,
`InMemorySource`, `DataSource`. Versions before noted no digests, or no preprocessing; a run of
theirs that goes on notes digests with the first phase that it learns.
"""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.data.source import PARTS, DataSource
from mnemonics_tf.errors import UserError, few, printable
from mnemonics_tf.run import schema
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json, write_json

DIGESTS = "data_digests"
_SINCE = "digests_since_phase"  # 0 where it is missing
_PREPROCESSING = "preprocessing"

_LOGGER = logging.getLogger("mnemonics_tf")

_SHAPE = schema.fields(
    {"phases": schema.sequence(schema.sequence(schema.text))},
    {
        "training_images": schema.sequence(schema.whole()),
        DIGESTS: schema.fields(dict.fromkeys(PARTS, schema.text)),
        _SINCE: schema.whole(),
        _PREPROCESSING: schema.fields(
            {
                "image_shape": schema.sequence(schema.whole(1), length=3),
                "channel_mean": schema.sequence(schema.number(), at_least=1),
                "channel_std": schema.sequence(schema.number(), at_least=1),
                "augmentation": schema.one_of(*AUGMENTATIONS),
                "fitting": schema.text,
            }
        ),
    },
)


class OtherDataError(UserError):
    """Data are not those of a run."""


def data_facts(
    source: DataSource, protocol: ClassIncrementalProtocol, preprocessing: Preprocessing
) -> dict[str, Any]:
    """Returns what is noted of the data.

    Args:
        source: of the data; no training image of it was released.
        protocol: tells which class comes in which phase.
        preprocessing: of the images.
    """
    return {
        "phases": [
            source.names_of(protocol.original_ids(phase.new_classes)) for phase in protocol.phases
        ],
        "training_images": source.training_counts_of(protocol.order).tolist(),
        DIGESTS: dict(source.digests),
        _PREPROCESSING: dataclasses.asdict(preprocessing),
    }


def preprocessing_of(
    directory: RunDirectory, source: DataSource, protocol: ClassIncrementalProtocol
) -> Preprocessing:
    """Returns what becomes of a run's images: as noted, or as phase 0's images decide.

    Runs of earlier versions keep what these did: they measured the images of all classes.

    Args:
        directory: of the run, which may not have begun.
        source: of its data.
        protocol: tells which classes phase 0 learns.

    Raises:
        UserError: if classes.json is damaged.
    """
    if directory.settings.exists():  # written last: without it classes.json may be another run's
        return noted_preprocessing(directory) or Preprocessing.of_all(source)
    base = protocol.original_ids(protocol.phases[0].new_classes)
    return Preprocessing.beginning_with(source, base)


def noted_preprocessing(directory: RunDirectory) -> Preprocessing | None:
    """Returns what a run has noted of its preprocessing; None if it has not begun or is too old.

    Raises:
        UserError: if classes.json is damaged.
    """
    noted = (noted_facts(directory) or {}).get(_PREPROCESSING)
    if noted is None:
        return None
    return Preprocessing(
        tuple(noted["image_shape"]),
        tuple(noted["channel_mean"]),
        tuple(noted["channel_std"]),
        noted["augmentation"],
        noted["fitting"],
    )


def noted_facts(directory: RunDirectory) -> dict[str, Any] | None:
    """Returns what a run has noted; None if it is so old that it noted nothing.

    Raises:
        UserError: if classes.json is damaged.
    """
    if not directory.classes.exists():
        return None
    facts = read_json(directory.classes)
    wrong = _SHAPE(facts)
    if wrong:
        raise UserError(
            f"{directory.classes} is damaged ({wrong.lstrip('/: ')}): put the right one back, or "
            "pass another --run_dir"
        )
    return facts


def noted_digests(directory: RunDirectory) -> dict[str, str] | None:
    """Returns the digests of the images that all phases of a run were learned from.

    None where not all phases noted them.

    Raises:
        UserError: if classes.json is damaged.
    """
    return _digests_since_phase0(noted_facts(directory) or {})


def _digests_since_phase0(facts: dict[str, Any]) -> dict[str, str] | None:
    return None if facts.get(_SINCE) else facts.get(DIGESTS)


def note_digests(directory: RunDirectory, found: dict[str, Any], phase: int) -> None:
    """Notes digests in a run that has none, once it has learned a phase from these images.

    Not before: who is told that images can't be compared may still stop, and pass others.

    Args:
        directory: of the run.
        found: what `data_facts` says of the data.
        phase: index of the phase that was learned.

    Raises:
        UserError: if classes.json is damaged.
    """
    noted = noted_facts(directory) or {"phases": found["phases"]}
    if DIGESTS not in noted:
        since = {DIGESTS: found[DIGESTS], _SINCE: phase}
        write_json(
            directory.classes, {"training_images": found["training_images"], **noted, **since}
        )


def refuse_other_classes(directory: RunDirectory, names: Sequence[str], remedy: str) -> None:
    """Refuses data whose classes are not those of a run, in whatever order they come.

    Args:
        directory: of the run.
        names: of the classes found.
        remedy: what to do, for the message.

    Raises:
        OtherDataError: tells which classes differ.
    """
    noted = noted_facts(directory)
    if noted is not None:
        then = [name for phase in noted["phases"] for name in phase]
        _refuse(directory, _other_names(then, names), remedy)


def refuse_other_data(
    directory: RunDirectory,
    found: dict[str, Any],
    remedy: str,
    parts: Sequence[str] = PARTS,
    may_differ: Sequence[str] = (),
) -> None:
    """Refuses data that are not those of a run; warns where that can't be told.

    Args:
        directory: of the run.
        found: what `data_facts` says of the data.
        remedy: what to do, for the message.
        parts: whose images must be the same.
        may_differ: parts whose difference is only warned of.

    Raises:
        OtherDataError: tells what was noted and what was found.
    """
    noted = noted_facts(directory)
    if noted is not None:
        wrong = _other_phases(noted["phases"], found["phases"])
        if not wrong and "training" in parts:
            wrong = _other_counts(noted.get("training_images"), found)
        _refuse(directory, wrong, remedy)
    if noted is None or DIGESTS not in noted:
        _warn_of_missing_digest(directory)
        return
    for part in (*parts, *may_differ):
        wrong, unclear = _other_images(part, noted[DIGESTS][part], found[DIGESTS][part])
        if wrong and part not in may_differ:
            _refuse(directory, wrong, remedy)
        elif wrong or unclear:
            _LOGGER.warning("%s: %s", directory.root, wrong or unclear)


def refuse_other_test_images(directory: RunDirectory, source: DataSource, remedy: str) -> None:
    """Refuses data whose test images are not those of a run; warns where that can't be told.

    Args:
        directory: of the run.
        source: of the data found.
        remedy: what to do, for the message.

    Raises:
        OtherDataError: tells what was noted and what was found.
    """
    digests = (noted_facts(directory) or {}).get(DIGESTS)
    if digests is None:
        _warn_of_missing_digest(directory)
        return
    wrong, unclear = _other_images("test", digests["test"], source.digests["test"])
    _refuse(directory, wrong, remedy)
    if unclear:
        _LOGGER.warning("%s: %s", directory.root, unclear)


def refuse_other_phase0(mine: RunDirectory, other: RunDirectory, remedy: str) -> None:
    """Refuses to take from the phase 0 of a run on other data; warns where that can't be told.

    Later phases need not have the same classes; but all training images must be the same, as one
    digest covers them.

    Args:
        mine: the run that takes it, its data noted.
        other: the run whose model or exemplars are taken.
        remedy: what to do, for the message.

    Raises:
        OtherDataError: tells what was noted of both.
    """
    theirs, ours = noted_facts(other), noted_facts(mine)
    if theirs is None or ours is None:
        _warn_of_missing_digest(other if theirs is None else mine)
        return
    _refuse(other, _other_phases(theirs["phases"][:1], ours["phases"][:1]), remedy)
    digests = []
    for directory, facts in ((other, theirs), (mine, ours)):
        noted = _digests_since_phase0(facts)
        if noted is None:
            _warn_of_missing_digest(directory)
            return
        digests.append(noted)
    for part in PARTS:
        wrong, unclear = _other_images(part, digests[0][part], digests[1][part])
        if wrong and part == "training":
            _refuse(other, wrong, remedy)
        elif wrong or unclear:
            _LOGGER.warning("%s: %s", other.root, wrong or unclear)


def _warn_of_missing_digest(directory: RunDirectory) -> None:
    _LOGGER.warning(
        "%s, of an earlier version, notes no digest of the images: whether those found now are the "
        "same, beyond names and numbers, can't be told",
        directory.root,
    )


def _refuse(directory: RunDirectory, wrong: str | None, remedy: str) -> None:
    if wrong:
        raise OtherDataError(f"{directory.root} holds a run on other data: {wrong}: {remedy}")


def _other_names(then: Sequence[str], now: Sequence[str]) -> str | None:
    lost, new = (sorted(set(a) - set(b)) for a, b in ((then, now), (now, then)))
    if not lost and not new:
        return None
    return f"classes that it had and are not found: {few(lost)}; found and new: {few(new)}"


def _other_phases(then: list[list[str]], now: list[list[str]]) -> str | None:
    flat = [[name for phase in phases for name in phase] for phases in (then, now)]
    wrong = _other_names(*flat)
    if wrong or then == now:
        return wrong
    listed = [" / ".join(few(phase) for phase in phases[:5]) for phases in (then, now)]
    return f"its phases were {listed[0]}, now they are {listed[1]}"


def _other_counts(then: list[int] | None, found: dict[str, Any]) -> str | None:
    now = found["training_images"]
    if then == now or then is None:
        return None
    names = [name for phase in found["phases"] for name in phase]
    if len(then) != len(now):
        return f"training images of {len(then)} classes were noted, of {len(now)} are found"
    first = next(i for i in range(len(now)) if then[i] != now[i])
    return (
        f"of the class {printable(names[first])} it had {then[first]} training images, "
        f"{now[first]} are found"
    )


def _other_images(part: str, then: str, now: str) -> tuple[str | None, str | None]:
    """Returns what is wrong, and what can't be told."""
    if then == now:
        return None, None
    kinds = [digest.partition("-")[0] for digest in (then, now)]
    if kinds[0] != kinds[1]:
        return None, (
            f"the {part} images were read as {printable(kinds[0])} and now are as {kinds[1]}: "
            "whether they are the same, beyond names and numbers, can't be told"
        )
    return (
        f"the {part} images are others under the same names (their digest was {printable(then)}, "
        f"is {now})"
    ), None
