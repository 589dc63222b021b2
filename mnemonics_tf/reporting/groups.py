"""Runs that differ in their seeds alone, as one."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.evaluation.intervals import Estimate, as_number
from mnemonics_tf.methods import METHODS
from mnemonics_tf.reporting.names import group_names
from mnemonics_tf.reporting.published import Choices
from mnemonics_tf.reporting.runs import Run
from mnemonics_tf.run import results


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that did the same on the same data, with other seeds.

    Attributes:
        index: place in the report; decides colour and marker.
        name: shown everywhere.
        runs: at least one, by seed.
    """

    index: int
    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """The run with the lowest seed, which stands for the group where only one can."""
        return self.runs[0]

    @property
    def head(self) -> str:
        """The head that the method's own paper predicts with."""
        run = self.first
        if "prediction_head" in run.contents:
            return run.contents["prediction_head"]
        # Older runs do not record it.
        method = METHODS.get(run.settings["method"])  # code of the run's own is not imported
        return method.prediction_head if method else HEADS[0]

    @property
    def num_classes(self) -> list[int]:
        """Classes seen after each phase."""
        return [record["num_seen"] for record in self.first.phases]

    @property
    def choices(self) -> Choices:
        """What tells rows of the paper's tables apart."""
        run = self.first
        return Choices(
            method=run.settings["method"],
            exemplars=run.settings["exemplars"],
            transfer=bool(run.settings["weight_transfer"]),
            adjust=bool(run.settings["adjust_old_exemplars"]),
            finetune=bool(run.settings["finetune_epochs"]),
        )

    def pairs(self, other: "Group") -> list[tuple[Run, Run]]:
        """Returns its runs with those of another group that have their seeds.

        Empty where the groups do not learn the same classes in the same phases from the same data;
        what the memory may hold can differ, for that is what some comparisons are about.
        """
        mine, theirs = self.first, other.first
        if (mine.course, mine.data, len(mine.phases)) != (
            *(theirs.course, theirs.data),
            len(theirs.phases),
        ):
            return []
        others = {run.seeds: run for run in other.runs}
        return [(run, others[run.seeds]) for run in self.runs if run.seeds in others]

    def accuracies(self, head: str) -> list[Estimate]:
        """Returns the accuracy on all seen classes after each phase."""
        return self._by_phase(head, lambda record: record["accuracy"])

    def base_accuracies(self, head: str) -> list[Estimate]:
        """Returns the same of the accuracy on the classes of phase 0."""
        return self._by_phase(head, lambda record: record["group_accuracies"][0])

    def _by_phase(
        self, head: str, figure: Callable[[dict[str, Any]], float | None]
    ) -> list[Estimate]:
        values = [
            [as_number(figure(record["heads"][head])) for record in run.phases] for run in self.runs
        ]
        return [Estimate(column) for column in zip(*values, strict=True)]

    def metric(self, head: str, name: str) -> Estimate:
        """Returns a number in `results.summarize`."""
        summaries = [results.summarize(run.phases)[head] for run in self.runs]
        return Estimate(tuple(as_number(summary[name]) for summary in summaries))


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Returns runs grouped by everything but their seeds, in the order in which they came.

    Everything: the name they were passed with, settings that have an effect, protocol, phases done,
    names of the classes, and digests of the images and of a backbone from files.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.name, run.identity, run.protocol, len(run.phases)], sort_keys=True)
        members.setdefault(key, []).append(run)
    ordered = [tuple(sorted(group, key=_by_seed)) for group in members.values()]
    # One run a seed: a second one is no further sample, and the report tells of it.
    ordered = [tuple({run.seeds: run for run in reversed(group)}.values()) for group in ordered]
    ordered = [tuple(reversed(group)) for group in ordered]
    names = group_names([group[0] for group in ordered])
    return [Group(i, names[i], group) for i, group in enumerate(ordered)]


def _by_seed(run: Run) -> tuple[tuple[bool, int], ...]:
    """Returns a key that sorts runs by their seeds as numbers; older runs may lack one."""
    seeds = (seed if isinstance(seed, int) else None for seed in run.seeds)
    return tuple((seed is not None, seed or 0) for seed in seeds)
