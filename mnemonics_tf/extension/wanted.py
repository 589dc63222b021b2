"""Which classes a finished run is to learn, from where and with which settings."""

import dataclasses
import os
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from mnemonics_tf.data.source import DataSource, check_class_names
from mnemonics_tf.data.sources import create
from mnemonics_tf.errors import UserError, counted, few, printable
from mnemonics_tf.methods import METHODS
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path
from mnemonics_tf.registry import find, flags_of, is_own, is_own_source, refuse_unnamed_code
from mnemonics_tf.run.files import read_arrays
from mnemonics_tf.run.history import History
from mnemonics_tf.run.learned import LARGEST_ID, LearnedPhase
from mnemonics_tf.settings import (
    GROUP_OF,
    ExemplarSettings,
    RunSettings,
    Settings,
    by_name,
    of_any_version,
)

#: settings that a run is begun with and that later phases can't change
_OF_THE_RUN = (
    *("base_classes", "num_phases", "class_order_seed", "class_order", "phase_classes"),
    *("image_size", "backbone", "backbone_input", "depth", "codec", "jpeg_quality"),
)

#: settings of `train` that have no sense for one phase more
_OF_TRAINING = ("phase0_from", "backbone_weights", "last_phase")

#: budgets, of which one holds: another one takes the place of the phase's before
_BUDGETS = (
    *("exemplars_per_class", "exemplars_total"),
    *("exemplar_bytes_per_class", "exemplar_bytes_total"),
)

#: where further classes of a data set come from that has no more itself
_FURTHER = {"imagenet": "folder", "imagenet_subset": "folder", "cifar100": "npz", "digits": "npz"}


#: arrays that only models with a linear classifier have, and with a correction of logits
_BIAS, _CORRECTION = "classifier/bias", "correction/gain"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be learned.

    Attributes:
        passed: settings by name: `run_dir`, `data_dir` of the new classes, perhaps `dataset`, the
            kind of these data, and those that are to be others than the last phase's.
        skip_known: leave classes out that the run knows, instead of refusing them.
        export: whether the phase is exported; otherwise it is held back from servers.
        run_data_dir: where the data are that the run began with; empty: where they were then.
    """

    passed: Mapping[str, Any]
    skip_known: bool = False
    export: bool = True
    run_data_dir: str = ""

    @property
    def run(self) -> RunSettings:
        """Where and how to run."""
        values = {name: value for name, value in self.passed.items() if GROUP_OF[name] == "run"}
        return RunSettings(**values)

    @property
    def place(self) -> str:
        """Where the images are; what reads them, where that needs no directory."""
        return self.run.data_dir or self.passed.get("dataset", "")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A phase that a run is to learn, or has learned by the same request before.

    Attributes:
        before: what the run has learned before it.
        phase: what is noted of it.
        settings: of it.
        source: of its classes alone.
        is_done: whether it is learned already.
    """

    before: History
    phase: LearnedPhase
    settings: Settings
    source: DataSource
    is_done: bool


def find_wanted(history: History, request: Request) -> Wanted:
    """Returns what a request asks of a run; opens its images and writes nothing.

    Raises:
        UserError: if it can't be done; tells the way out.
    """
    for name in _OF_TRAINING:
        value = getattr(request.run, name)
        if value != getattr(RunSettings(), name):
            raise UserError(f"--{name}={value} is for training a run, not for one more phase")
    unfinished = history.unfinished
    if _means_what_was_begun(history, request):
        request = _as_begun(history, request)
    dataset = request.passed.get("dataset") or further_dataset(history.settings.protocol.dataset)
    settings = _settings_after(history, request)
    _refuse_another_classifier(history, settings)
    source = create(dataset, request.run.data_dir, request.run.download, settings.data)
    if not unfinished:
        unknown = [name for name in source.class_names if name not in history.known]
        check_class_names(unknown, f"--dataset={dataset}", "mend the source's `class_names`")
    if history.learned and not unfinished:
        before = history.without_last()
        again = _described(before, request, source, _settings_after(before, request), dataset)
        if again and again[0].is_the_same_as(history.learned[-1]):
            return Wanted(before, *again, is_done=True)
    found = _described(history, request, source, settings, dataset)
    if not found:
        raise UserError(_known_classes(history, request, source))
    if unfinished and not found[0].is_the_same_as(unfinished):
        differs, remedy = _difference(unfinished, found[0])
        raise UserError(
            f"{history.directory.root} has begun to learn {few(unfinished.classes)} from "
            f"{printable(unfinished.place)}, {differs}: {remedy}, or give it up with --undo"
        )
    _warn_of_case(found[0].classes, history.known)
    return Wanted(history, *found, is_done=False)


def further_dataset(dataset: str) -> str:
    """Returns the kind of data that brings further classes to a run on a data set.

    Raises:
        UserError: if it is read by code of one's own, which is to be named again.
    """
    if is_own_source(dataset):
        raise UserError(
            f"the run began with data of its own code: pass --dataset (folder, npz or "
            f"{flags_of({'dataset': dataset})})"
        )
    return _FURTHER.get(dataset, dataset)


def _means_what_was_begun(history: History, request: Request) -> bool:
    """Whether a request names no images: those of a phase that was begun or is held back are meant.

    A source of a user's own may need no directory; what it reads is learned.
    """
    dataset = request.passed.get("dataset", "")
    if request.run.data_dir:
        return False
    if history.unfinished or not is_own_source(dataset):
        return True
    last = history.learned[-1] if history.learned else None
    return last is not None and not last.export and last.dataset == dataset


def _as_begun(history: History, request: Request) -> Request:
    """Returns the request that an unfinished phase was begun by, or one that is held back.

    What was begun as held back from servers stays so until it is asked for once it is done.
    """
    last = history.learned[-1] if history.learned else None
    unfinished = history.unfinished or (last if last and not last.export else None)
    if not unfinished:
        raise UserError("--data_dir is missing: pass what holds the new classes")
    if is_own_source(unfinished.dataset) and "dataset" not in request.passed:
        raise UserError(
            f"phase {unfinished.index} was begun with data of code of its own: if you trust it, "
            f"pass {flags_of({'dataset': unfinished.dataset})} too"
        )
    unfinished.settings_with(history.settings.run)  # refuses what this version does not know
    settings = of_any_version(unfinished.settings)
    groups = ("protocol", "data", "run")
    noted = {name: value for name, value in settings.items() if GROUP_OF.get(name) not in groups}
    noted |= {name: settings[name] for name in ("seed", "test_share", "split_seed", "skip_broken")}
    noted = {n: tuple(v) if isinstance(v, list) else v for n, v in noted.items()}
    source = {"dataset": unfinished.dataset, "data_dir": unfinished.data_dir}
    other = {
        name: value
        for name, value in request.passed.items()
        if (noted | source).get(name, value) != value
    }
    if other:
        raise UserError(
            f"phase {unfinished.index} was begun with other settings than "
            f"{_flags(other)}: leave these out to "
            "go on, or give the phase up with --undo"
        )
    own = {name for name, value in noted.items() if isinstance(value, str) and is_own(value)}
    named = {name: value for name, value in noted.items() if name not in own}
    return dataclasses.replace(
        request,
        passed={**named, **source, **request.passed},
        skip_known=True,
        export=request.export and (unfinished.export or not history.unfinished),
    )


def _settings_after(history: History, request: Request) -> Settings:
    """Returns the settings of the phase that follows: the last one's, but for those passed."""
    run = by_name(history.settings.results_settings())
    values = {
        name: value
        for name, value in request.passed.items()
        if GROUP_OF[name] != "run" and name != "dataset"
    }
    fixed = {
        name: value
        for name, value in values.items()
        if name in _OF_THE_RUN and value != (tuple(v) if isinstance(v := run[name], list) else v)
    }
    if fixed:
        raise UserError(
            f"{_flags(fixed)}: the run was begun with {_flags({n: run[n] for n in fixed})}, which "
            "further phases can't change: leave it out"
        )
    before = history.last_settings
    if any(values.get(name) for name in _BUDGETS):
        before = before.changed(**{name: getattr(ExemplarSettings(), name) for name in _BUDGETS})
    settings = dataclasses.replace(before.changed(**values), run=request.run)
    _check_method(history, request, settings)
    return settings


def _check_method(history: History, request: Request, settings: Settings) -> None:
    """Refuses methods that need past data, or another classifier than the run's."""
    imported = settings.changed(dataset="folder")  # the run's own source is asked for elsewhere
    refuse_unnamed_code(imported, request.passed, "learning more")
    name, before = settings.training.method, history.last_settings.training.method
    method = find(METHODS, name, "method")
    fitting = [
        other
        for other, known in METHODS.items()
        if known.classifier == method.classifier and not known.keeps_past_data
    ]
    if method.keeps_past_data:
        raise UserError(
            f"--method={name} learns from all data so far, which a finished run has no more: pass "
            f"another one that goes on with its classifier, --method={fitting[0]}"
        )
    if name == before or before not in METHODS:
        return
    old = METHODS[before]
    if (method.classifier, method.corrects_logits) != (old.classifier, old.corrects_logits):
        raise UserError(
            f"--method={name} has another classifier than --method={before}, which the run has: "
            "leave the flag out"
        )


def _refuse_another_classifier(history: History, settings: Settings) -> None:
    """Refuses a method that the last model does not fit, where only that tells what it is of.

    The method before may be a user's own, which is not imported to be left.
    """
    name, before = settings.training.method, history.last_settings.training.method
    if name == before or before in METHODS:
        return
    path = history.directory.model(history.num_phases - 1)
    arrays = read_arrays(path, (_BIAS, _CORRECTION))
    found = ("linear" if _BIAS in arrays else "cosine", _CORRECTION in arrays)
    method = find(METHODS, name, "method")
    if found != (method.classifier, method.corrects_logits):
        raise UserError(
            f"--method={name} has another classifier than {path}, a model of --method={before}: "
            f"pass {flags_of({'method': before})}, or another method with its classifier"
        )


def _described(
    history: History, request: Request, source: DataSource, settings: Settings, dataset: str
) -> tuple[LearnedPhase, Settings, DataSource] | None:
    """Returns the phase that learns what is new in a source, if that may be learned."""
    known = set(map(_as_compared, history.known))
    names = [name for name in source.class_names if _as_compared(name) not in known]
    _refuse_alike(names, request)
    left_out = len(names) < len(source.class_names)
    if not names or (left_out and not request.skip_known):
        return None
    if left_out:
        ids = dict(zip(source.class_names, source.original_ids, strict=True))
        source = source.only([ids[name] for name in names])
    place, first = request.run.data_dir, max(history.known_ids) + 1
    if first + len(names) - 1 > LARGEST_ID:
        raise UserError(
            f"{counted(len(names), 'new class')} would be numbered from {first} up, after the "
            f"run's largest label, {first - 1}; expected numbers of 32 bits, {LARGEST_ID} at most: "
            "train a run whose data have smaller labels, and go on with that"
        )
    phase = LearnedPhase(
        index=history.num_phases,
        dataset=dataset,
        data_dir=os.path.abspath(user_path(place)) if place else "",
        classes=names,
        original_ids=list(range(first, first + len(names))),
        training_images=source.training_counts().tolist(),
        data_digests=dict(source.digests),
        settings=settings.results_settings(),
        export=request.export,
    )
    return phase, settings, source


def _known_classes(history: History, request: Request, source: DataSource) -> str:
    place, known = printable(request.place), set(map(_as_compared, history.known))
    old = [name for name in source.class_names if _as_compared(name) in known]
    if len(old) < len(source.class_names):
        return (
            f"{place} holds {counted(len(old), 'class')} that the run knows already: {few(old)}: "
            "pass --skip_known to leave them out, or rename what is another class of the same name"
        )
    message = f"{place} holds no class that the run does not know already: {few(old)}"
    last = history.learned[-1] if history.learned else None
    if last and not last.export and set(last.classes) <= set(old):
        message += (
            f"; phase {last.index}, which learned them with other images or settings, is held "
            "back: leave --data_dir and settings out to have it exported"
        )
    return message


def _as_compared(name: str) -> str:
    """Returns a class name in the form that tells whether two are the same.

    File systems and programs write one name in several ways: accents as marks of their own or not,
    spaces around it.
    """
    return unicodedata.normalize("NFC", name).strip()


def _refuse_alike(names: Sequence[str], request: Request) -> None:
    """Refuses new classes that nobody could tell from each other by name."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_as_compared(name), name)
        if other != name:
            raise UserError(
                f"{printable(request.place)} holds two classes whose names, {ascii(other)} "
                f"and {ascii(name)}, differ by spaces or by the way of writing accents alone: "
                "rename one, or put their images together"
            )


def _warn_of_case(names: Sequence[str], known: Sequence[str]) -> None:
    """Warns of new classes that may be known ones, written in other letters."""
    folded = {_as_compared(name).casefold(): name for name in known}
    for name in names:
        other = folded.get(_as_compared(name).casefold())
        if other:
            LOGGER.warning(
                "the new class %s differs from the known class %s in upper and lower case alone, "
                "and is learned as another one: if it is the same, stop, and rename it",
                *(printable(name), printable(other)),
            )


def _difference(begun: LearnedPhase, now: LearnedPhase) -> tuple[str, str]:
    """Returns how a phase that was begun differs from what is asked for now, and what to do."""
    go_on = "go on with that first (leave --data_dir out)"
    if begun.classes != now.classes:
        return "other classes than these", go_on
    then, today = (of_any_version(phase.settings) for phase in (begun, now))
    differ = [name for name in then if then[name] != today.get(name)]
    if differ:
        wanted = [_flags({name: values.get(name) for name in differ}) for values in (then, today)]
        return f"with {wanted[0]} instead of {wanted[1]}", go_on
    return "whose images were others than those found now", "put them back"


def _flags(values: Mapping[str, Any]) -> str:
    """Returns settings of any kind as they are passed on a command line."""
    listed = {
        n: ",".join(map(str, v)) if isinstance(v, list | tuple) else str(v)
        for n, v in values.items()
    }
    return flags_of(listed)
