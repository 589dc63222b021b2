"""The rows of the paper's tables, the runs behind them, and their figures beside the paper's."""

import dataclasses
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.intervals import mean_and_interval
from mnemonics_tf.methods import METHODS
from mnemonics_tf.reporting.published import Choices, published_values
from mnemonics_tf.run import results
from mnemonics_tf.run.data_facts import DIGESTS
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json, write_json, write_text
from mnemonics_tf.settings import (
    AdjustmentSettings,
    ExemplarSettings,
    InnerSettings,
    OuterSettings,
    ValidationSettings,
    by_name,
)

#: Methods that train exactly as another one does, bit for bit: iCaRL changes the head that LwF is
#: read by and nothing else, and results.json holds both heads.
TRAINED_AS = {"icarl": "lwf"}

#: exemplars of a ceiling's row for each one of the others
_TIMES = 4

_METHODS_OF_TABLE_1 = ("lwf", "icarl", "bic", "lucir")


@dataclasses.dataclass(frozen=True)
class Cell(Choices):
    """A row of a table: a method, whose head is read, with its exemplars.

    Attributes:
        name: shown in the table.
        ceiling: whether there are four times as many exemplars, of which an epoch replays as many
            as the other rows have: what there is to gain by better ones.
    """

    name: str
    ceiling: bool = False

    @property
    def trained_as(self) -> str:
        """The value of --method."""
        return TRAINED_AS.get(self.method, self.method)

    def flags(self) -> list[str]:
        """Returns the flags of a run of this cell."""
        chosen = [
            f"--method={self.trained_as}",
            f"--exemplars={self.exemplars}",
            f"--{'' if self.transfer else 'no'}weight_transfer",
            f"--{'' if self.adjust else 'no'}adjust_old_exemplars",
        ]
        return chosen if self.finetune else [*chosen, "--finetune_epochs=0"]

    def published(self, dataset: str, num_phases: int) -> tuple[float | None, float | None]:
        """Returns the paper's average accuracy and forgetting; None twice where it has none."""
        if self.ceiling:
            return None, None
        row = published_values(dataset, num_phases, self)
        return (row.accuracy, row.forgetting) if row and not row.departures else (None, None)


def cells(table: str, methods: Sequence[str] = (), ceiling: bool = False) -> list[Cell]:
    """Returns the rows of a table.

    Args:
        table: `1`, `2` or `ablation`.
        methods: those whose rows are wanted; empty: all.
        ceiling: with a row for each method that has exemplars of what they could be worth.

    Raises:
        UserError: if a method has no row in the table.
    """
    rows = {"1": _table_1, "2": _table_2, "ablation": _ablation}[table]()
    known = dict.fromkeys(cell.method for cell in rows)
    for method in methods:
        if method not in known:
            raise UserError(
                f"--methods={','.join(methods)}: table {table} has no row of {method!r}; "
                f"it has {', '.join(known)}"
            )
    rows = [cell for cell in rows if not methods or cell.method in methods]
    if ceiling:
        with_exemplars = dict.fromkeys(
            c.method for c in rows if not METHODS[c.method].keeps_past_data
        )
        for method in with_exemplars:
            name = f"{method} ceiling, {_TIMES} x herding"
            rows.append(Cell(method, "herding", True, False, True, name, True))
    return rows


def _table_1() -> list[Cell]:
    rows = []
    for method in _METHODS_OF_TABLE_1:
        rows.append(Cell(method, "herding", False, False, False, method))
        # What is left of the plug-in without learned exemplars: the gain of these stands apart.
        rows.append(Cell(method, "herding", True, False, True, f"{method} w/ herding"))
        rows.append(Cell(method, "mnemonics", True, True, True, f"{method} w/ ours"))
    return [*rows, Cell("joint", "herding", False, False, False, "joint")]


def _table_2() -> list[Cell]:
    return [
        Cell("lucir", kind, True, adjust, True, f"{kind}{'' if adjust else ' w/o adj.'}")
        for kind in ("random", "herding", "mnemonics")
        for adjust in (False, True)
    ]


def _ablation() -> list[Cell]:
    """One thing at a time, on LUCIR: what the published gain mixes."""
    steps = (
        ("herding", "herding", False, False, False),
        ("+ fine-tune", "herding", False, False, True),
        ("+ weight transfer", "herding", True, False, False),
        ("+ both", "herding", True, False, True),
        ("+ both, adjusted", "herding", True, True, True),
        ("mnemonics, nothing else", "mnemonics", False, False, False),
        ("mnemonics + both", "mnemonics", True, False, True),
        ("mnemonics + both, adjusted", "mnemonics", True, True, True),
    )
    return [Cell("lucir", *choices, name) for name, *choices in steps]


# Runs


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

    The last two are average accuracies, None where the results do not tell them: before each
    phase's fine-tune, and of the classifier with the constant on new classes' logits that is best
    on the test data of each phase.
    """

    average_accuracy: float
    forgetting: float
    last_accuracy: float
    seconds: float
    later_seconds: float
    before_finetune: float | None
    with_best_constant: float | None


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell with a number of phases and a seed."""

    place: Place
    cell: Cell
    num_phases: int
    seed: int

    @property
    def name(self) -> str:
        """Names the training, not the cell: cells that train the same share a run."""
        chosen = [*self.cell.flags(), *self._ceiling()]
        flags = "_".join(flag.removeprefix("--").replace("=", "-") for flag in chosen)
        return f"{flags}_N{self.num_phases}_seed{self.seed}"

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
        name, number = "--exemplars_per_class=", ExemplarSettings().exemplars_per_class
        for flag in self.place.schedule:
            if flag.startswith(name):
                number = int(flag.removeprefix(name))
        return [f"{name}{_TIMES * number}", f"--replay_per_class={number}"]

    def is_done(self) -> bool:
        """Whether its results are written, here or in the folder of published ones."""
        return self._results() is not None

    def figures(self) -> Figures:
        """Returns its figures, as the head of the cell's method has them.

        Raises:
            UserError: if the results are damaged or were made with other settings.
        """
        path = self._results()
        contents = read_json(path)
        try:
            self._check_settings(path, contents["settings"])
            head = METHODS[self.cell.method].prediction_head
            summary = contents["summary"][head]
            seconds = [sum(phase["seconds"].values()) for phase in contents["phases"]]
            return Figures(
                100 * summary["average_accuracy"],
                100 * summary["forgetting"],
                100 * summary["phase_accuracies"][-1],
                sum(seconds),
                sum(seconds[1:]),
                _average(_before_finetune(contents["phases"], head, self.cell)),
                _average(_with_best_constant(contents["phases"], head)),
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

    def _check_settings(self, path: pathlib.Path, groups: dict[str, dict[str, Any]]) -> None:
        """Refuses results of another schedule, which a file's name does not tell."""
        found = _used(by_name(groups))
        wanted = {}
        for flag in (f"--dataset={self.place.dataset}", *self.place.schedule, *self.choices()):
            name, equals, value = flag.removeprefix("--").partition("=")
            if not equals:
                name, value = name.removeprefix("no"), not name.startswith("no")
            wanted[name] = value  # the last one holds
        for name, value in wanted.items():
            # Older results lack younger settings; where a run lies is no setting.
            if name in found and _as(found[name], value) != found[name]:
                raise UserError(
                    f"{path} was made with --{name}={found[name]}, but this grid has "
                    f"--{name}={value}: pass the --schedule (or folder) that belong together"
                )


def refuse_other_data(runs: Sequence[Run]) -> None:
    """Refuses runs that learned from other data than each other: no table compares these.

    Of results that note no digest of the images the classes alone are compared.

    Args:
        runs: done or not.

    Raises:
        UserError: names two that differ.
    """
    first: dict[str, tuple[pathlib.Path, str]] = {}
    for path, *found in dict.fromkeys(run.data() for run in runs if run.is_done()):
        for what, one in zip(("classes", "images"), found, strict=True):
            if one is None:
                continue
            other, theirs = first.setdefault(what, (path, one))
            if theirs != one:
                raise UserError(
                    f"{path} and {other} learned from other {what}: one table can't hold both; "
                    "remove one of them, or pass the --data_dir and the folders (--output, "
                    "--published) that belong together"
                )


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


def _average(accuracies: Sequence[float | None]) -> float | None:
    """Returns the mean in percent, or None where one is not known."""
    return None if None in accuracies else 100 * statistics.fmean(accuracies)


def _used(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings without those of exemplar learning where they decide nothing."""
    if settings.get("adjust_old_exemplars"):
        return settings
    groups = (InnerSettings, OuterSettings, ValidationSettings, AdjustmentSettings)
    unused = {field.name for group in groups for field in dataclasses.fields(group)}
    unused.add("mnemonics_start")
    if settings.get("exemplars") == "mnemonics":
        unused = {field.name for field in dataclasses.fields(AdjustmentSettings)}
    unused.discard("adjust_old_exemplars")  # that it is off must be so in the grid too
    return {name: value for name, value in settings.items() if name not in unused}


def _as(example: Any, text: str | bool) -> Any:
    """Returns the value of a flag in the type that results.json has for it."""
    if isinstance(text, bool):
        return text
    if isinstance(example, list):
        return [float(item) for item in text.split(",")]
    return type(example)(text)


# Tables


@dataclasses.dataclass(frozen=True)
class Value:
    """A figure over the seeds, with the paper's."""

    mean: float | None
    half_width: float | None = None
    published: float | None = None

    @property
    def ours(self) -> str:
        """The mean, and from two seeds on the half width of its 95% interval."""
        if self.mean is None:
            return "-"
        interval = "" if self.half_width is None else f" ± {self.half_width:.2f}"
        return f"{self.mean:.2f}{interval}"

    @property
    def paper(self) -> str:
        """The paper's figure."""
        return "-" if self.published is None else f"{self.published:.2f}"

    @property
    def difference(self) -> str:
        """Ours less the paper's."""
        known = self.mean is not None and self.published is not None
        return f"{self.mean - self.published:+.2f}" if known else ""


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of a table; its values are None where no run is done."""

    name: str
    num_phases: int
    seeds: tuple[int, ...]
    accuracy: Value
    forgetting: Value
    last: Value
    minutes: Value
    before: Value
    constant: Value


def rows(runs: Sequence[Run]) -> list[Row]:
    """Returns the table of the runs that are done, a row for each cell and number of phases.

    Raises:
        UserError: if they learned from other data than each other.
    """
    refuse_other_data(runs)
    groups: dict[tuple[Cell, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.cell, run.num_phases), []).append(run)
    table = []
    for (cell, num_phases), members in groups.items():
        done = [run for run in members if run.is_done()]
        figures = [run.figures() for run in done]
        accuracy, forgetting = cell.published(members[0].place.dataset, num_phases)
        table.append(
            Row(
                cell.name,
                num_phases,
                tuple(run.seed for run in done),
                _value([one.average_accuracy for one in figures], accuracy),
                _value([one.forgetting for one in figures], forgetting),
                _value([one.last_accuracy for one in figures]),
                Value(
                    statistics.fmean(one.later_seconds for one in figures) / 60 if done else None
                ),
                _value([one.before_finetune for one in figures]),
                _value([one.with_best_constant for one in figures]),
            )
        )
    return table


def _value(values: Sequence[float | None], published: float | None = None) -> Value:
    known = values and None not in values
    return Value(*(mean_and_interval(values) if known else (None, None)), published)


def notes(runs: Sequence[Run]) -> list[str]:
    """Returns what a reader of the table must know."""
    lines = [
        "ours: mean over the seeds, with its 95% interval from two seeds on",
        "before: average accuracy before the fine-tune of each phase",
        "constant: average accuracy of the classifier with the best constant on the logits of new "
        "classes, which is chosen on the test data: no result, but what a bias costs",
    ]
    if any(run.cell.ceiling for run in runs):
        lines.append(
            f"ceiling: {_TIMES} times the exemplars, of which an epoch replays as many as the "
            "other rows have: what better exemplars could gain"
        )
    for method in sorted({run.cell.method for run in runs} & set(TRAINED_AS)):
        lines.append(
            f"{method} trains exactly as {TRAINED_AS[method]} does: its rows are the runs of "
            f"{TRAINED_AS[method]}, read by the {METHODS[method].prediction_head} head"
        )
    return lines


def text_table(runs: Sequence[Run]) -> str:
    """Returns the table for a terminal."""
    heads = f"{'ours':>15}{'paper':>8}{'diff.':>8}"
    lines = [
        f"{'':<28}{'N':>3}  {'average accuracy (%)':^31}  {'forgetting (%)':^31}",
        f"{'':<28}{'':>3}  {heads}  {heads}{'before':>16}{'constant':>16}",
    ]
    for row in rows(runs):
        columns = "  ".join(
            f"{value.ours:>15}{value.paper:>8}{value.difference:>8}"
            for value in (row.accuracy, row.forgetting)
        )
        more = f"{row.before.ours:>16}{row.constant.ours:>16}"
        lines.append(f"{row.name:<28}{row.num_phases:>3}  {columns}{more}")
    return "\n".join([*lines, *notes(runs)])


def write_markdown(path: pathlib.Path, runs: Sequence[Run]) -> None:
    """Writes the table as Markdown."""
    three = ("ours", "paper", "difference")
    heads = [
        *("row", "N", "seeds"),
        *(f"{metric} {part}" for metric in ("average accuracy", "forgetting") for part in three),
        *("last accuracy", "before", "constant", "minutes"),
    ]
    lines = [heads, ["---"] * len(heads)]
    for row in rows(runs):
        compared = [
            text
            for value in (row.accuracy, row.forgetting)
            for text in (value.ours, value.paper, value.difference)
        ]
        minutes = "-" if row.minutes.mean is None else f"{row.minutes.mean:.0f}"
        seeds = ", ".join(map(str, row.seeds)) or "-"
        more = (row.last.ours, row.before.ours, row.constant.ours)
        lines.append([row.name, str(row.num_phases), seeds, *compared, *more, minutes])
    below = [*notes(runs), "minutes: of the later phases, for runs share the model of phase 0"]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(path, text + "\n\n" + "".join(f"- {note}\n" for note in below))
