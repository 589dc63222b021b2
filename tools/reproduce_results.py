"""The runs behind the rows of a table, and what their results say."""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import UserError, counted
from mnemonics_tf.methods import METHODS
from mnemonics_tf.reporting.published import Published
from mnemonics_tf.run import results
from mnemonics_tf.run.data_facts import DIGESTS
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.effects import has_effect
from mnemonics_tf.run.files import read_json, write_json
from mnemonics_tf.settings import BEFORE, GROUP_OF, Settings, by_name, of_any_version
from tools.reproduce_cells import PER_CLASS, TIMES, Cell
from tools.reproduce_flags import in_type_of, values

#: what tells rows apart, and has its default where neither schedule nor row says otherwise
_DECISIVE = (
    *("codec", "exemplars_per_class", "exemplars_total", "exemplar_bytes_per_class"),
    *("exemplar_bytes_total", "replay_per_class", "objective", "max_shift", "mixed_precision"),
    "finetune_old_classes",
)

#: what results of any version tell
_ALWAYS_TOLD = ("dataset", "num_phases", "seed", "method")


@dataclasses.dataclass(frozen=True)
class Place:
    """What the runs of a grid have in common.

    Attributes:
        dataset: value of --dataset.
        schedule: flags that say how long to train, without --flagfile.
        folder: holds the run directories.
        published: folder of results.json files, each named after its run; or None.
        share_phase0: whether all seeds have one model of phase 0.
    """

    dataset: str
    schedule: tuple[str, ...]
    folder: pathlib.Path
    published: pathlib.Path | None = None
    share_phase0: bool = False


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a run says of a cell, in percent and seconds.

    Attributes:
        average_accuracy: over the phases.
        forgetting: the paper's F.
        phase_accuracies: after each phase.
        other_head: average accuracy by the head that the cell is not read by.
        seconds: of all phases.
        own_seconds: without the training of phase 0, whose model runs share.
        before_finetune: average accuracy before each phase's fine-tune; None if it is not told.
        with_best_constant: average accuracy of the classifier with the constant on new classes'
            logits that is best on the test data of each phase; None if it is not told.
        hardware: in words; empty if it is not told.
        learning: settings of exemplar learning, where exemplars learned.
        phase0: seed and precision of the run that trained the model of phase 0; None where it is
            not told.
    """

    average_accuracy: float
    forgetting: float
    phase_accuracies: tuple[float, ...]
    other_head: float
    seconds: float
    own_seconds: float
    before_finetune: float | None
    with_best_constant: float | None
    hardware: str
    learning: dict[str, Any]
    phase0: tuple[int | None, str | None]

    @property
    def last_accuracy(self) -> float:
        """Accuracy after the last phase."""
        return self.phase_accuracies[-1]


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell with a number of phases and a seed."""

    place: Place
    cell: Cell
    num_phases: int
    seed: int

    @property
    def name(self) -> str:
        """Names the training: cells that train the same share a run."""
        chosen = [*self.cell.flags(), *self._ceiling()]
        flags = "_".join(flag.removeprefix("--").replace("=", "-") for flag in chosen)
        return f"{self.cell.run_name or flags}_N{self.num_phases}_seed{self.seed}"

    @property
    def directory(self) -> RunDirectory:
        """Where the run lies."""
        return RunDirectory(self.place.folder / self.name)

    @property
    def phase0(self) -> tuple[str, str, int | None]:
        """Runs with the same value and schedule have the same model of phase 0."""
        seed = None if self.place.share_phase0 else self.seed
        return self.place.dataset, METHODS[self.cell.trained_as].classifier, seed

    def choices(self) -> list[str]:
        """Returns the flags that tell the run from others of its schedule."""
        chosen = [*self.cell.flags(), *self._ceiling()]
        return [*chosen, f"--num_phases={self.num_phases}", f"--seed={self.seed}"]

    def _ceiling(self) -> list[str]:
        if not self.cell.ceiling:
            return []
        number = values(self.place.schedule).get("exemplars_per_class", PER_CLASS)
        images = self.cell.images or TIMES * int(number)
        return [f"--exemplars_per_class={images}", f"--replay_per_class={number}"]

    @property
    def last_phase(self) -> int:
        """The phase it ends with: N, or what the schedule's --last_phase says."""
        last = int(values(self.place.schedule).get("last_phase", -1))
        return self.num_phases if last < 0 else min(last, self.num_phases)

    def paper(self) -> Published | None:
        """Returns the paper's figures; None where it has none, or of more phases than the run."""
        if self.last_phase < self.num_phases:
            return None
        return self.cell.published(self.place.dataset, self.num_phases)

    def is_done(self) -> bool:
        """Whether its results are written, here to the last phase or in the published folder."""
        path = self._results()
        if path is None or path != self.directory.results:
            return path is not None
        contents = read_json(path)
        phases = contents.get("phases") if isinstance(contents, dict) else None
        return not isinstance(phases, list) or len(phases) > self.last_phase

    def figures(self) -> Figures:
        """Returns its figures, as the head of the cell's method has them.

        Raises:
            UserError: if the results are damaged or were made with other settings.
        """
        path = self._results()
        contents = read_json(path)
        try:
            settings = by_name(contents["settings"])
            self._check_settings(path, settings)
            self._check_last_phase(path, len(contents["phases"]) - 1)
            head = METHODS[self.cell.method].prediction_head
            summary = contents["summary"][head]
            (other,) = (name for name in contents["summary"] if name != head)
            seconds = [sum(phase["seconds"].values()) for phase in contents["phases"]]
            return Figures(
                100 * summary["average_accuracy"],
                100 * summary["forgetting"],
                tuple(100 * accuracy for accuracy in summary["phase_accuracies"]),
                100 * contents["summary"][other]["average_accuracy"],
                sum(seconds),
                sum(seconds) - contents["phases"][0]["seconds"].get("train", 0.0),
                _average(_before_finetune(contents["phases"], head, self.cell)),
                _average(_with_best_constant(contents["phases"], head)),
                _hardware(contents.get("hardware") or {}),
                _learning(settings),
                (contents.get("phase0_seed"), contents.get("phase0_mixed_precision")),
            )
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError(
                f"{path} is not the results.json of a run ({error!r}): "
                "restore it, or remove it to train the run again"
            ) from error

    def data(self) -> tuple[pathlib.Path, str | None, str | None]:
        """Returns its results.json and what stands there for its classes, and for its images too.

        None where it does not tell.

        Raises:
            UserError: if the results are damaged.
        """
        path = self._results()
        contents = read_json(path)
        if not isinstance(contents, dict):
            raise UserError(f"{path} is not the results.json of a run: restore or remove it")
        classes = results.data_id({**contents, DIGESTS: None})
        return path, classes, results.data_id(contents) if contents.get(DIGESTS) else None

    def beside(self) -> tuple[pathlib.Path, dict[str, Any]]:
        """Returns its results.json and the settings there that tell no row from another, by name.

        Raises:
            UserError: if the results are damaged.
        """
        path, named = self._results(), values(self.choices())
        try:
            settings = by_name(read_json(path)["settings"])
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} is not the results.json of a run ({error!r}): restore or remove it"
            ) from error
        return path, {name: one for name, one in _used(settings).items() if name not in named}

    def publish(self) -> None:
        """Copies its results to the folder of published ones, without confusion matrices."""
        target = self._published
        if target is None or target.exists() or not self.directory.results.exists():
            return
        self.figures()  # refuses what is not the run's
        contents = read_json(self.directory.results)
        for phase in contents["phases"]:
            for head in phase["heads"].values():
                head.pop("confusion_matrix", None)
        write_json(target, contents)

    @property
    def _published(self) -> pathlib.Path | None:
        folder = self.place.published
        return folder and folder / f"{self.name}.json"

    def _results(self) -> pathlib.Path | None:
        paths = (self._published, self.directory.results)
        return next((path for path in paths if path and path.exists()), None)

    def _check_settings(self, path: pathlib.Path, told: dict[str, Any]) -> None:
        """Refuses results of another schedule or row, which a file's name does not tell.

        Raises:
            KeyError: if they lack what all results tell.
            UserError: if a setting is another one.
        """
        if missing := [name for name in _ALWAYS_TOLD if name not in told]:
            raise KeyError(*missing)
        found = _used(BEFORE | told)
        passed = [f"--dataset={self.place.dataset}", *self.place.schedule, *self.choices()]
        # Older results lack younger settings; where a run lies is no setting.
        defaults = by_name(Settings().results_settings())
        wanted = {name: defaults[name] for name in _DECISIVE} | values(passed)
        for name, value in wanted.items():
            if name in found and in_type_of(found[name], value) != found[name]:
                raise UserError(
                    f"{path} was made with --{name}={found[name]}, but this grid has "
                    f"--{name}={value}: pass the --schedule (or folder) that belong together"
                )

    def _check_last_phase(self, path: pathlib.Path, last: int) -> None:
        if last != self.last_phase:
            raise UserError(
                f"{path} ends with phase {last}, but this grid's runs end with phase "
                f"{self.last_phase} (--num_phases, --train_flags=--last_phase=): pass another "
                "--published or --output, or remove the file"
            )


def refuse_unlike(runs: Sequence[Run]) -> None:
    """Refuses runs that no table compares: on other data, or by other settings than rows have.

    Args:
        runs: done or not.

    Raises:
        UserError: names two that differ.
    """
    done = [run for run in runs if run.is_done()]
    _refuse_other_data(done)
    if found := _first_difference([run.beside() for run in done]):
        name, (path, value), (other, theirs) = found
        raise UserError(
            f"{path} was made with --{name}={value} and {other} with --{name}={theirs}, which "
            "tells no rows apart: one table can't hold both; remove one of them, or pass the "
            "folders (--output, --published) that belong together"
        )


def _refuse_other_data(runs: Sequence[Run]) -> None:
    """Refuses runs that learned from other data than each other.

    Of results that note no digest of the images the classes alone are compared.

    Args:
        runs: that are done.

    Raises:
        UserError: names two that differ.
    """
    told = []
    for path, classes, images in [run.data() for run in runs]:
        noted = {"classes": classes, "images": images}
        told.append((path, {what: one for what, one in noted.items() if one is not None}))
    if found := _first_difference(told):
        what, (path, _), (other, _) = found
        raise UserError(
            f"{path} and {other} learned from other {what}: one table can't hold both; "
            "remove one of them, or pass the --data_dir and the folders (--output, "
            "--published) that belong together"
        )


def _first_difference(
    told: Sequence[tuple[pathlib.Path, dict[str, Any]]],
) -> tuple[str, tuple[pathlib.Path, Any], tuple[pathlib.Path, Any]] | None:
    """Returns the name of what two files tell otherwise, and each of them with what it tells.

    Args:
        told: files, with what each tells by name; what one of them does not tell does not count.
    """
    first: dict[str, tuple[pathlib.Path, Any]] = {}
    for path, values_by_name in told:
        for name, value in sorted(values_by_name.items()):
            earlier = first.setdefault(name, (path, value))
            if earlier[1] != value:
                return name, (path, value), earlier
    return None


def _before_finetune(phases: Sequence[dict[str, Any]], head: str, cell: Cell) -> list[float | None]:
    """Returns the accuracy before each phase's fine-tune; where there is none, of the phase."""
    first, *later = (phase["heads"][head].get("accuracy") for phase in phases)
    if cell.finetune:
        stages = (phase.get("stages", {}) for phase in phases[1:])
        later = [one.get("before_finetune", {}).get(head) for one in stages]
    return [first, *later]


def _with_best_constant(phases: Sequence[dict[str, Any]], head: str) -> list[float | None]:
    """Returns each phase's accuracy with the best constant; in phase 0 no class is old."""
    if head != "classifier":
        return [None]
    later = ((phase.get("best_constant") or {}).get("accuracy") for phase in phases[1:])
    return [phases[0]["heads"][head].get("accuracy"), *later]


def _hardware(noted: dict[str, Any]) -> str:
    """Returns the GPUs, or where there are none the processor: `2 cores of AMD EPYC`."""
    gpus = noted.get("gpus") or []
    if gpus:
        return f"{len(gpus)} x {gpus[0]}" if len(gpus) > 1 else str(gpus[0])
    processor = noted.get("processor")
    return f"{counted(noted['cores'], 'core')} of {processor}" if processor else ""


def _learning(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings by which exemplars learned, by name; none where they did not."""
    if settings.get("exemplars") != "mnemonics":
        return {}
    groups = ("inner", "outer", "validation", "adjustment")
    return {
        name: value
        for name, value in _used(settings).items()
        if name == "mnemonics_start" or GROUP_OF.get(name) in groups
    }


def _average(accuracies: Sequence[float | None]) -> float | None:
    """Returns the mean in percent, or None where one is not known."""
    return None if None in accuracies else 100 * statistics.fmean(accuracies)


def _used(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings, by name, without those that decide nothing beside the others."""
    complete = of_any_version({"": settings})
    return {name: value for name, value in settings.items() if has_effect(name, complete)}


def departures(learned: dict[str, Any], letter: dict[str, str | bool]) -> list[str]:
    """Returns the settings by which exemplars learned that are not those of a flagfile.

    Args:
        learned: settings of a run by name.
        letter: what the flagfile says by name, which is told in brackets.
    """
    return [
        f"{name}={value} ({letter[name]})"
        for name, value in learned.items()
        if name in letter and in_type_of(value, letter[name]) != value
    ]
