"""A finished run goes on: one phase more, of classes that nobody knew of, from the memory alone.

    extension = Extension(Request({"run_dir": "runs/mine", "data_dir": "new_images"}), strategy)
    contents = extension.run()

The phase begins with Theta_N and E_{0:N} and ends as any other, with its exemplars, predictions,
export and record. What a run directory holds besides is not touched before the record is written,
which makes the phase the run's.
"""

import dataclasses
import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.devices import is_chief, spans_workers
from mnemonics_tf.errors import UserError, counted, few
from mnemonics_tf.exemplars.budget import Budget, check_last_share, make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.experiment import Experiment
from mnemonics_tf.extension.images import (
    find_base,
    find_learned,
    join,
    preprocessing_of_run,
    refuse_another_kind,
)
from mnemonics_tf.extension.wanted import Request, find_wanted
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.phases.backbone import check_second_order
from mnemonics_tf.phases.beginning import check_memory
from mnemonics_tf.phases.checks import (
    check_further_phase,
    check_outer_step,
    warn_of_small_classes,
)
from mnemonics_tf.phases.coded_share import check_coded_share
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.history import History, read_history
from mnemonics_tf.run.learned import read_learned
from mnemonics_tf.run.resume import load_memory
from mnemonics_tf.run.workers import any_worker, chiefs_number, share_state


class Extension:
    """One phase more for a finished run; made without writing anything.

    Args:
        request: what is to be learned.
        strategy: the distribution strategy that everything runs in.

    Attributes:
        experiment: the run, with the new phase as its last one.

    Raises:
        UserError: if there is no finished run, or the new classes do not fit it.
    """

    def __init__(self, request: Request, strategy: tf.distribute.Strategy):
        self._strategy = strategy
        directory = RunDirectory(request.run.run_dir)
        if is_chief(strategy):
            read_history(directory, request.run)
        share_state(strategy, directory)
        self._run = request.run
        self._history = read_history(directory, request.run)
        self._wanted = find_wanted(self._history, request)
        self.experiment = self._experiment(request)

    def _experiment(self, request: Request) -> Experiment:
        wanted, before = self._wanted, self._wanted.before
        base = find_base(before, request.run_data_dir, request.passed)
        preprocessing = preprocessing_of_run(before, base)
        refuse_another_kind(wanted.source, preprocessing)
        if base:
            base.release(base.original_ids)
        memory = _memory(before, preprocessing.image_shape)
        kept = np.bincount(memory.labels, minlength=before.protocol().phases[-1].num_seen).tolist()
        learned = find_learned(before, request.passed)
        self._refuse_unlike_finds([base, *learned])
        source = join(before, base, learned, preprocessing, kept, (wanted.phase, wanted.source))
        protocol = before.protocol([wanted.phase])
        experiment = Experiment(wanted.settings, source, self._strategy, protocol)
        if not wanted.is_done:
            check_further_phase(wanted.settings, experiment.method, protocol, source)
            check_outer_step(wanted.settings, protocol.phases[-1:])
            if not before.unfinished:
                check_second_order(wanted.settings, experiment.workshop.architecture)
                check_coded_share(
                    wanted.settings, experiment.method, protocol, source, protocol.phases[-1:]
                )
                counts = source.training_counts_of(protocol.order)
                check_memory(experiment.workshop, protocol.phases[-1:], counts, kept)
            warn_of_small_classes(wanted.settings, protocol, source, protocol.phases[-1:])
            num_classes = protocol.phases[-1].num_seen
            budget = make_budget(wanted.settings.exemplar)
            check_last_share(memory, budget, num_classes, begun=False)
            _tell_of_budget(make_budget(before.last_settings.exemplar), budget, num_classes, kept)
        return experiment

    def _refuse_unlike_finds(self, found: Sequence[DataSource | None]) -> None:
        """Refuses to test what some workers find and others do not: they evaluate together."""
        mine = sum(2**i for i, source in enumerate(found) if source)
        if any_worker(self._strategy, chiefs_number(self._strategy, mine) != mine):
            raise UserError(
                "images of earlier phases are found by some workers and not by others: make the "
                "run's data (--run_data_dir) and those of learned phases readable on all of them"
            )

    def run(self) -> dict[str, Any]:
        """Learns the phase, or goes on with it; returns what results.json holds.

        Raises:
            RunInterruptedError: if the experiment's `stop` asked for it; the same goes on later.
            UserError: if the run has learned something else since this was made.
        """
        wanted, experiment = self._wanted, self.experiment
        history = read_history(experiment.directory, self._run)
        if history.unfinished == wanted.phase:  # begun by an earlier call
            history = dataclasses.replace(history, unfinished=self._history.unfinished)
        if history != self._history:
            raise UserError(
                f"{experiment.directory.root} has changed while the new images were read: start "
                "the command again"
            )
        phases = experiment.protocol.phases
        if is_chief(self._strategy):
            done = phases if wanted.is_done else phases[:-1]
            for phase in done:  # a kill may have left checkpoints beside a record
                experiment.checkpoints(phase).clear()
            for phase in phases[:-1]:
                self._look_after_export(phase)
        if not wanted.is_done:
            LOGGER.info("phase %d learns %s", wanted.phase.index, few(wanted.phase.classes))
            wanted.phase.write(experiment.directory)
            try:
                experiment.run_phase(phases[-1])
            finally:
                gc.unfreeze()
        else:
            LOGGER.info("phase %d, of these classes, is learned already", wanted.phase.index)
            self._export_what_was_held_back()
        return experiment.write_results(phases, wanted.before.settings)

    def _look_after_export(self, phase: Phase) -> None:
        noted = read_learned(self.experiment.directory, phase.index)
        if noted is None or noted.export:
            self.experiment.look_after_export(phase)

    def _export_what_was_held_back(self) -> None:
        phase, experiment = self._wanted.phase, self.experiment
        noted = read_learned(experiment.directory, phase.index)
        held_back = noted is not None and not noted.export
        if held_back and phase.export and not spans_workers(self._strategy):
            experiment.export(experiment.protocol.phases[-1])
            phase.write(experiment.directory)


def _memory(history: History, image_shape: tuple[int, int, int]) -> ExemplarMemory:
    """Returns the exemplars that a run has kept."""
    last = history.protocol().phases[-1]
    return load_memory(history.directory, last, image_shape, history.settings.exemplar)


def _tell_of_budget(before: Budget, now: Budget, num_seen: int, kept: list[int]) -> None:
    """Says what another budget than the last one means for old classes."""
    if now.counts_bytes:
        if now != before:
            LOGGER.info(
                "the budget is %s, and was %s: of old classes what fits is kept, and what was "
                "trimmed or never kept stays lost",
                *(now.in_words, before.in_words),
            )
        return
    quota, fewest, most = now.quota(num_seen), min(kept), max(kept)
    if most < quota:
        LOGGER.info(
            "the budget of %s a class serves new classes: of old ones %s are kept, and "
            "what was trimmed or never kept stays lost",
            *(counted(quota, "exemplar"), fewest if fewest == most else f"{fewest} to {most}"),
        )
    elif most > quota:
        LOGGER.info(
            "the budget of %s a class leaves fewer of old classes, which have up to %d: "
            "the others are lost",
            *(counted(quota, "exemplar"), most),
        )
