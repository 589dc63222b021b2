"""Whether a run directory is what a run left: diagnosed before any work, never started afresh."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.data.phase_classes import is_settled, settled
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.codecs import WITH_QUALITY
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.run.data_facts import noted_facts, refuse_other_data
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.effects import has_effect
from mnemonics_tf.run.files import read_json, write_json, write_text
from mnemonics_tf.run.records import record_shape, refuse_contradictions
from mnemonics_tf.settings import MOST_CHANNELS, ExemplarSettings, Settings, by_name, of_any_version


def claim_directory(
    directory: RunDirectory,
    settings: Settings,
    class_facts: dict[str, Any],
    phases: Sequence[Phase],
) -> list[Phase]:
    """Makes the run directory this run's own, or finds that it is already; returns what is left.

    Args:
        directory: of the run.
        settings: of the run.
        class_facts: of the data, which must stay the same; as `data_facts` returns them.
        phases: that are asked for.

    Returns:
        The phases that are not done.

    Raises:
        UserError: if it holds a run with other settings or on other data, or one that is damaged;
            nothing is written then.
    """
    wanted = settings.results_settings()
    begun = directory.results.exists() or any(_traces(directory.phase(p.index)) for p in phases)
    if directory.settings.exists():
        differences = _differences(read_settings(directory), wanted)
        if differences:
            raise UserError(
                f"{directory.root} holds a run with other settings ({'; '.join(differences)}): "
                "pass another --run_dir, or the same settings to go on with it"
            )
        refuse_other_data(
            directory,
            class_facts,
            "pass another --run_dir, or as --data_dir the same data to go on with it",
        )
    elif begun:
        raise UserError(
            f"{directory.settings} is missing, although a run was begun there: "
            "put it back or pass another --run_dir"
        )
    else:
        write_json(directory.classes, class_facts)
        write_text(directory.flags, settings.flag_lines())
        write_json(directory.settings, wanted)
    return _phases_left(directory, phases)


def read_settings(directory: RunDirectory) -> dict[str, dict[str, Any]]:
    """Returns what settings.json holds, as groups of named values.

    Raises:
        UserError: if it holds anything else.
    """
    found = read_json(directory.settings)
    if not isinstance(found, dict) or not all(isinstance(group, dict) for group in found.values()):
        raise UserError(f"{directory.settings} is damaged: it holds no groups of settings")
    return {name: _with_settled_phases(directory, group) for name, group in found.items()}


def _with_settled_phases(directory: RunDirectory, group: dict[str, Any]) -> dict[str, Any]:
    """Returns a group of settings, with the phases where a file is named, as older runs noted it.

    The phases themselves are in classes.json. The file is not opened: it may have changed, and who
    wrote the settings may be a stranger.
    """
    value = group.get("phase_classes")
    if not isinstance(value, str) or not value or is_settled(value):
        return group
    facts = noted_facts(directory)
    if facts is None:
        raise UserError(
            f"{directory.classes} is missing, and {directory.settings} names a file of phases: put "
            "it back or pass another --run_dir"
        )
    return {**group, "phase_classes": settled(json.dumps(facts["phases"]))}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Returns in words which settings of a run are not those that are wanted.

    A setting that the run's version did not have counts only where it has an effect now; elsewhere
    the run does the same without it.
    """
    noted, before, now = by_name(found), of_any_version(found), by_name(wanted)
    return [
        f"--{name} was {_shortened(then)}, is {_shortened(value)}"
        for name, value in now.items()
        if (then := before[name]) != value and (name in noted or has_effect(name, now))
    ]


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _phases_left(directory: RunDirectory, phases: Sequence[Phase]) -> list[Phase]:
    left: list[Phase] = []
    records: list[dict[str, Any]] = []
    done = [phase.index for phase in phases if directory.record(phase.index).exists()]
    for phase in phases:
        traces = _traces(directory.phase(phase.index))
        if left and traces:
            raise UserError(
                f"{directory.record(left[0].index)} is missing, although phase {phase.index} was "
                "begun after it: put it back or pass another --run_dir"
            )
        if phase.index in done:
            records.append(read_record(directory, phase))
            # Only the last one's are needed to go on, and workers beside the chief have no others.
            last = phase.index == done[-1] and not directory.record(phase.index + 1).exists()
            lost = {"model.npz", "exemplars.npz"} - traces if last else set()
        else:
            left.append(phase)
            # These are written once the phase's last checkpoint is safe.
            closed = traces & {"model.npz", "exemplars.npz", "predictions.npz"}
            checkpoints = any(name.startswith("checkpoint-") for name in traces)
            lost = {"phase.json"} if closed and not checkpoints else set()
        if lost:
            raise UserError(
                f"{directory.phase(phase.index)} has lost {' and '.join(sorted(lost))}: "
                "put that back or pass another --run_dir"
            )
    refuse_contradictions(directory, records)
    return left


def _traces(path: pathlib.Path) -> set[str]:
    """Returns the names of the whole files in a phase's directory."""
    if not path.is_dir():
        return set()
    return {entry.name for entry in path.iterdir() if not entry.name.startswith(".tmp-")}


def read_record(directory: RunDirectory, phase: Phase) -> dict[str, Any]:
    """Returns the record that closes a phase.

    Raises:
        UserError: if it is missing, damaged or not this phase's.
    """
    path = directory.record(phase.index)
    record = read_json(path)
    wrong = record_shape(phase.index)(record)
    if not wrong and record["num_seen"] != phase.num_seen:
        wrong = f"num_seen: expected {phase.num_seen}, found {record['num_seen']}"
    if wrong:
        raise UserError(
            f"{path} is damaged ({wrong.lstrip('/: ')}): it does not close phase {phase.index} "
            f"with {phase.num_seen} classes; put the right one back or pass another --run_dir"
        )
    return record


def load_memory(
    directory: RunDirectory,
    phase: Phase,
    image_shape: tuple[int, int, int],
    stored_as: ExemplarSettings,
) -> ExemplarMemory:
    """Returns the exemplar memory as it was at the end of a phase.

    Args:
        directory: of the run.
        phase: which.
        image_shape: of its images.
        stored_as: codec and quality of the run.

    Raises:
        UserError: if it is missing, damaged, of another codec, or holds other classes or images
            than the run's.
    """
    path = directory.exemplars(phase.index)
    memory = ExemplarMemory.load(path, stored_as.codec)
    found = codec_in_words(memory.codec, memory.quality)
    if found != codec_in_words(stored_as.codec, stored_as.jpeg_quality):
        raise UserError(
            f"{path} is stored as {found}, and the run has "
            f"{codec_in_words(stored_as.codec, stored_as.jpeg_quality)} (--codec): put the right "
            "file back or pass another --run_dir"
        )
    check_memory(path, memory, phase.num_seen, image_shape)
    return memory


def codec_in_words(codec: str, quality: int) -> str:
    """Returns how a memory is stored, in words."""
    return f"{codec} of quality {quality}" if codec in WITH_QUALITY else codec


def check_memory(
    path: pathlib.Path, memory: ExemplarMemory, num_seen: int, image_shape: Sequence[int]
) -> None:
    """Refuses a memory that a phase can't have left.

    Args:
        path: where it was read from.
        memory: as it was read.
        num_seen: classes seen by the end of the phase.
        image_shape: of the run's images, `(height, width, channels)`.

    Raises:
        UserError: if it holds other classes or images.
    """
    labels = set(memory.labels.tolist())
    shape = memory.image_shape
    is_image = len(shape) == 3 and min(shape) > 0 and shape[-1] <= MOST_CHANNELS
    if labels != set(range(num_seen)) or shape != tuple(image_shape) or not is_image:
        raise UserError(
            f"{path} holds images {list(shape)} of {len(labels)} classes; expected "
            f"{list(image_shape)} (height, width, channels) of the labels 0 to {num_seen - 1}: "
            "put the right file back or pass another --run_dir"
        )
