"""The images of a run that has learned further phases: each phase's where they can be found."""

from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_tf.data.joined import JoinedSource, Part
from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import create, open_source
from mnemonics_tf.errors import UserError, counted, printable
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.registry import is_own_source
from mnemonics_tf.run.data_facts import (
    noted_preprocessing,
    refuse_other_classes,
    refuse_other_test_images,
)
from mnemonics_tf.run.history import History
from mnemonics_tf.run.learned import LearnedPhase, recorded_data_dir


def find_base(history: History, data_dir: str, named: Mapping[str, Any]) -> DataSource | None:
    """Returns the data that a run began with, for their test images; None if they are not found.

    Args:
        history: of the run.
        data_dir: where they are; empty: where they were.
        named: settings whose code may be imported, as they were passed.
    """
    dataset = history.settings.protocol.dataset
    place = data_dir or recorded_data_dir(history.directory)
    wanted = history.settings.changed(data_dir=place, download=False)
    try:
        if is_own_source(dataset) and named.get("dataset") != dataset:
            raise UserError(f"they need code of the run's own, --dataset={dataset}, passed again")
        source = open_source(wanted)
        refuse_other_classes(history.directory, source.class_names, "they are left out")
        refuse_other_test_images(history.directory, source, "they are left out")
    except UserError as error:
        LOGGER.warning(
            "the test images of the run's first %s are not found, so that these are not "
            "tested (%s)",
            *(counted(len(history.base_names), "class"), error),
        )
        return None
    return source


def preprocessing_of_run(history: History, base: DataSource | None) -> Preprocessing:
    """Returns what becomes of a run's images.

    Args:
        history: of the run.
        base: the data it began with, if they were found.

    Raises:
        UserError: if an earlier version noted none and the data were not found.
    """
    noted = noted_preprocessing(history.directory)
    if noted:
        return noted
    if base is None:
        raise UserError(
            f"{history.directory.root} is a run of an earlier version, which did not note how "
            "images are normalised: pass the data that it learned from as --run_data_dir"
        )
    return Preprocessing.of_all(base)


def refuse_another_kind(new: DataSource, run: Preprocessing) -> None:
    """Refuses images that a run's network does not see as it sees its own.

    Args:
        new: where they come from.
        run: the run's preprocessing.

    Raises:
        UserError: tells both kinds.
    """
    kinds = [f"{one.fitting}, {' x '.join(map(str, one.image_shape))}" for one in (new, run)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"the new images are of another kind ({kinds[0]}) than the run's ({kinds[1]}; height, "
            "width, channels): bring them to that form, or pass their --dataset"
        )


def find_learned(history: History, named: Mapping[str, Any]) -> list[DataSource | None]:
    """Returns the images of each phase that was learned afterwards; None where they are not found.

    Args:
        history: of the run.
        named: settings whose code may be imported, as they were passed.
    """
    return [_find(phase, history, named) for phase in history.learned]


def _find(phase: LearnedPhase, history: History, named: Mapping[str, Any]) -> DataSource | None:
    settings = phase.settings_with(history.settings.run)
    try:
        if is_own_source(phase.dataset) and named.get("dataset") != phase.dataset:
            raise UserError(f"they need code of the run's own, --dataset={phase.dataset}")
        source = create(phase.dataset, phase.data_dir, False, settings.data)
        ids = dict(zip(source.class_names, source.original_ids, strict=True))
        missing = [name for name in phase.classes if name not in ids]
        if missing:
            raise UserError(f"{printable(missing[0])} is missing in {printable(phase.place)}")
        source = source.only([ids[name] for name in phase.classes])
        if source.digests["test"] != phase.data_digests["test"]:
            raise UserError(f"{printable(phase.place)} holds other test images of them")
    except UserError as error:
        LOGGER.warning(
            "the test images of %s of phase %d are not found, so that these are not tested (%s)",
            *(counted(len(phase.classes), "class"), phase.index, error),
        )
        return None
    return source


def join(
    history: History,
    base: DataSource | None,
    learned: Sequence[DataSource | None],
    preprocessing: Preprocessing,
    kept: Sequence[int],
    new: tuple[LearnedPhase, DataSource] | None = None,
) -> JoinedSource:
    """Returns the images of all classes of a run.

    Args:
        history: of the run.
        base: the data it began with, if they were found.
        learned: those of each later phase, if they were found.
        preprocessing: of the run.
        kept: how many images of each class there are to train on, by label: its exemplars.
        new: a phase that follows, and its images.
    """
    rows = [(history.base_ids, history.base_names, base)]
    rows += [
        (phase.original_ids, phase.classes, source)
        for phase, source in zip(history.learned, learned, strict=True)
    ]
    parts, first = [], 0
    for ids, names, source in rows:
        counts = tuple(kept[first : first + len(ids)])
        parts.append(Part(tuple(ids), tuple(names), counts, source))
        first += len(ids)
    if new:
        phase, source = new
        parts.append(
            Part(
                tuple(phase.original_ids),
                tuple(phase.classes),
                tuple(phase.training_images),
                source,
            )
        )
    found = [part.source for part in parts if part.source]
    fit_image = found[-1].fit_image if found else None
    return JoinedSource(history.settings.protocol.dataset, parts, preprocessing, fit_image)
