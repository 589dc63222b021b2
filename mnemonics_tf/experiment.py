"""Algorithm 1 of the paper: the one module that knows the order of things."""

import contextlib
import dataclasses
import functools
import gc
import itertools
from collections.abc import Iterator
from typing import Any

from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.sources import described
from mnemonics_tf.devices import is_chief
from mnemonics_tf.errors import UserError, counted
from mnemonics_tf.exemplars.budget import check_last_share, kept_within
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.monitoring.outlook import Outlook
from mnemonics_tf.monitoring.phase import show_phase
from mnemonics_tf.monitoring.progress import (
    LOGGER,
    is_logging,
    log_before_run,
    log_to,
    stop_logging,
    waiting_for,
)
from mnemonics_tf.opened_run import OpenedRun
from mnemonics_tf.phases import evaluate, phase0
from mnemonics_tf.phases.adjust_exemplars import adjust_exemplars
from mnemonics_tf.phases.asked_for import phases_to_run
from mnemonics_tf.phases.backbone import claim_backbone
from mnemonics_tf.phases.beginning import check_run, refuse_unlike_backbones
from mnemonics_tf.phases.checks import check_exemplars, check_snapshot
from mnemonics_tf.phases.finetune import finetune_model, finetunes
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.phases.opening import outlook_of, tell_plan
from mnemonics_tf.phases.state import PhaseState
from mnemonics_tf.phases.train_model import train_model
from mnemonics_tf.phases.write_results import write_results_of
from mnemonics_tf.run import results
from mnemonics_tf.run.checkpoints import PhaseCheckpoints
from mnemonics_tf.run.data_facts import note_digests, preprocessing_of
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_json
from mnemonics_tf.run.history import read_history
from mnemonics_tf.run.interruption import RunInterruptedError, StopRequest
from mnemonics_tf.run.learned import learned_phases, read_learned
from mnemonics_tf.run.resume import claim_directory, read_record
from mnemonics_tf.run.workers import any_worker, share_state

#: the lines of Algorithm 1 between a phase's beginning and its test; each is resumable as a unit
STAGES = ("train", "exemplars", "adjust", "trim", "finetune")

#: where a phase stands whose stages are all done
_TEST = "test"


class Experiment(OpenedRun):
    """One class-incremental run, from the first phase to results.json.

    Arguments and attributes are those of `OpenedRun`. What else a run should not begin with is
    refused by `session` and `run`, before any work starts.
    """

    _told = False  # whether the plan was
    _may_begin = False  # whether it was asked
    _transfer_told = ""  # what was said last of weight transfer

    @functools.cached_property
    def stop(self) -> StopRequest:
        """What asks the run to save and stop."""
        return StopRequest(functools.partial(any_worker, self.strategy))

    @functools.cached_property
    def _outlook(self) -> Outlook:
        """How much training there is; who only scores a run need not count it."""
        return outlook_of(self.settings, self.method, self.protocol, self.source)

    @contextlib.contextmanager
    def session(self, console: bool = True) -> Iterator[None]:
        """Within it `run` does what the command does beside it.

        The run directory is locked, messages go to log.txt and to standard output, progress among
        them, and SIGTERM and SIGINT (a notebook's "interrupt") ask the run to save and stop.

        Args:
            console: whether messages go to standard output too.

        Raises:
            UserError: if a run can't begin as it is asked for, another process works on it, or its
                directory can't be written.
        """
        if not is_logging():  # a command opens its log before it reads the data
            log_before_run(console)
            LOGGER.info("%s", described(self.source))
        try:
            self.check_begin()
            with self.directory.locked():
                log_to(self.directory.log, console)
                with self.stop.listening():
                    yield
        finally:
            stop_logging()

    def run(self) -> dict[str, Any]:
        """Runs, or goes on with, the phases; returns what results.json holds.

        A run that has learned further phases stays as it is, but for a results.json that is lost,
        damaged or not that of all of them.

        Raises:
            RunInterruptedError: if `stop` asked for it; the same call goes on later.
            UserError: if the run was begun with other settings or data, if what is asked for does
                not go together, or if files or the disk fail; names the way out.
            FloatingPointError: if a loss is not finite.
        """
        phases = phases_to_run(self.settings, self.protocol)
        directory, facts = self.directory, self.class_facts()
        self.check_begin()
        chief = is_chief(self.strategy)
        left = claim_directory(directory, self.settings, facts, phases) if chief else []
        share_state(self.strategy, directory)
        if not chief:  # with what the chief has noted
            left = claim_directory(directory, self.settings, facts, phases)
            self._check_preprocessing()
        learned = learned_phases(directory)
        if learned:
            LOGGER.info(
                "%s has learned %s since: it stays as it is, and goes on with "
                "python -m mnemonics_tf.learn",
                *(directory.root, counted(len(learned), "further phase")),
            )
            if chief:
                for phase in phases:
                    self._look_after(phase)
            return self._results_with_learned()
        if chief and (donor := self.settings.run.phase0_from):
            phase0.tell_of_another(directory, RunDirectory(donor))
        own = self.workshop.architecture.own
        if own:
            refuse_unlike_backbones(self.workshop, own)
        if own and chief:
            claim_backbone(
                directory, self.settings, self.preprocessing, self.source, self.protocol, own
            )
        try:
            for phase in phases:
                if phase in left:
                    self.run_phase(phase)
                    if chief:
                        note_digests(directory, facts, phase.index)
                else:
                    LOGGER.info("phase %d is done already", phase.index)
                    if chief:
                        self._look_after(phase)
        finally:
            gc.unfreeze()
        done = itertools.takewhile(
            lambda phase: directory.record(phase.index).exists(),
            self.protocol.phases[len(phases) :],
        )
        return self.write_results([*phases, *done], self.settings)

    def check_begin(self) -> None:
        """Refuses what a run should not begin with; one that was begun goes on as it began.

        Raises:
            UserError: names what can't begin, and the flags to pass instead.
        """
        # Also by workers whose directories are empty yet.
        if self._may_begin or any_worker(self.strategy, self.directory.settings.exists()):
            return
        check_run(self.workshop, self.method, self.protocol, self.source, self._fingerprint)
        self._may_begin = True

    def _look_after(self, phase: Phase) -> None:
        """Finishes what a kill left of a phase that is done, and looks after its export."""
        self.checkpoints(phase).clear()  # a record may have been written as the last thing
        self.look_after_export(phase)

    def _results_with_learned(self) -> dict[str, Any]:
        """Returns what results.json holds of all phases; makes it again where it does not."""
        directory, history = self.directory, read_history(self.directory, self.settings.run)
        records = [read_record(directory, phase) for phase in history.protocol().phases]
        contents = results.contents_written(directory.results)
        if contents.get("phases") == records:
            return contents
        LOGGER.info("%s is made again from the records of all phases", directory.results)
        return write_results_of(history, self.summaries, self.strategy.num_replicas_in_sync)

    def _check_preprocessing(self) -> None:
        """Refuses to be a worker beside a chief that normalises otherwise."""
        if preprocessing_of(self.directory, self.source, self.protocol) != self.preprocessing:
            raise UserError(
                f"{self.settings.run.run_dir} was begun by an earlier version, which normalised by "
                "the images of all classes: finish it on one machine"
            )

    def run_phase(self, phase: Phase) -> None:
        """Runs, or goes on with, one phase, all earlier ones being done.

        Raises:
            RunInterruptedError: if `stop` asked for it; the same call goes on later.
        """
        with self.data.naming_broken_files():
            self._run_phase(phase)

    def _run_phase(self, phase: Phase) -> None:
        """Lines 2-20 of Algorithm 1 for one phase."""
        state = self.begin_phase(phase)  # lines 2, 6, 7
        if not self._told:
            tell_plan(self.settings, self.protocol, state.model, self.strategy, self.directory)
            self._told = True
        following = [*STAGES, _TEST]
        first = following.index(state.resume.stage) if state.resume else 0
        for number, name in list(enumerate(STAGES))[first:]:
            if name == "finetune" and self._measures_before(state):
                state.metrics["before_finetune"] = self._accuracies(state)
            with state.timed(name):
                self.run_stage(name, state)  # lines 4, 8, 10-18
            state.resume = None
            state.save_snapshot(following[number + 1], 0)
            if self.stop.agreed():
                raise RunInterruptedError
        self._close_phase(state)  # lines 19, 20

    def run_stage(self, name: str, state: PhaseState) -> None:
        """Runs one of `STAGES`, and keeps what it changed.

        Args:
            name: of the stage.
            state: of the phase, which changes.
        """
        phase, model, stage, workshop = state.phase, state.model, state.stage(name), self.workshop
        metrics: dict[str, Any] | None = None
        if name == "train":  # lines 4, 8
            metrics = self._train(state)
        elif name == "exemplars":  # lines 10, 11
            made = make_exemplars(workshop, phase, state.training_set, state.memory, model, stage)
            state.memory, metrics = made.memory, made.metrics
            if made.starts is not None:  # before the memory forgets them
                made.starts.save(self.directory.exemplar_starts(phase.index))
        elif name == "adjust":  # lines 12-16
            state.memory, metrics = adjust_exemplars(workshop, phase, state.memory, model, stage)
        elif name == "trim":  # line 17
            state.memory = kept_within(state.memory, workshop.budget, phase.num_seen)
            check_last_share(state.memory, workshop.budget, workshop.num_classes)
            self._check_what_is_left(state)
        elif finetunes(self.settings.training, self.method, phase):  # line 18
            exemplars = state.memory.as_image_set()
            metrics = finetune_model(workshop, phase, exemplars, model, stage)
        if metrics:
            state.metrics[name] = metrics

    def _check_what_is_left(self, state: PhaseState) -> None:
        """Asks again what was asked of a budget before the run, of what bytes came to hold."""
        later = state.phase.index + 1
        if later < len(self.protocol.phases):
            phase = self.protocol.phases[later]
            check_exemplars(self.settings, self.method, self.protocol, phase, state.memory)

    def _train(self, state: PhaseState) -> dict[str, float]:
        """Trains Theta_i; in phase 0 another run's is taken over instead where that is wanted."""
        phase, donor = state.phase, self.settings.run.phase0_from
        if phase.index > 0:
            return self._train_model(state)
        metrics: dict[str, float] = {}
        origin = phase0.Origin(self.workshop.seed, self.settings.training.mixed_precision)
        if donor:
            theirs = preprocessing_of(RunDirectory(donor), self.source, self.protocol)
            origin = phase0.take_over(
                state.model,
                self._fingerprint,
                self.settings,
                self.directory,
                RunDirectory(donor),
                lambda: phase0.refuse_other_preprocessing(donor, theirs, self.preprocessing),
            )
        else:
            metrics = self._train_model(state)
        state.metrics["phase0"] = dataclasses.asdict(origin)
        phase0.publish(state.model, self._fingerprint(origin), origin, self.directory)
        return metrics

    def _fingerprint(self, origin: phase0.Origin) -> str:
        """Returns the one that this run's phase 0 has with a model of such an origin."""
        architecture = self.workshop.architecture
        return phase0.fingerprint(self.settings, self.protocol, architecture, origin)

    def _train_model(self, state: PhaseState) -> dict[str, float]:
        return train_model(
            self.workshop,
            self.method,
            state.phase,
            state.training_set,
            state.memory,
            state.model,
            state.old_model,
            state.stage("train"),
        )

    def begin_phase(self, phase: Phase) -> PhaseState:
        """Gets D_i and E_{0:i-1} from memory, and initialises Theta_i with Theta_{i-1}."""
        training_set = self.data.training_set(phase)
        with self.strategy.scope():
            if phase.index == 0:
                old_model, model = None, self.models.new(phase)
                memory = ExemplarMemory.empty(
                    self.source.image_shape,
                    self.directory.phase(0),
                    self.settings.exemplar.codec,
                    self.settings.exemplar.jpeg_quality,
                )
            else:
                before = self.protocol.phases[phase.index - 1]
                model = self.load_model(before.index)
                old_model = self.models.frozen(model)
                model.grow(phase.num_new)
                model.set_transfer(self.settings.model.weight_transfer)
                memory = self.load_memory(before)
                if model.transfer and (words := model.transfer_in_words()) != self._transfer_told:
                    LOGGER.info("from phase %d on %s", phase.index, words)
                    self._transfer_told = words
        checkpoints = self.checkpoints(phase)
        state = PhaseState(
            phase,
            training_set,
            old_model,
            model,
            memory,
            checkpoints,
            self.stop,
            self.settings.run,
            self.protocol.num_phases,
            self.summaries,
            self._outlook,
        )
        snapshot = checkpoints.latest()
        if snapshot:
            check_snapshot(snapshot, (*STAGES, _TEST), self.directory.phase(phase.index))
            LOGGER.info(
                "phase %d goes on from its checkpoint, in stage %s%s",
                phase.index,
                snapshot.stage,
                f" after {counted(snapshot.position, 'step')}" if snapshot.position else "",
            )
            state.restore(snapshot)
        return state

    def checkpoints(self, phase: Phase) -> PhaseCheckpoints:
        """Returns the snapshots of one phase of this very run."""
        # By what differs from the defaults, so that a version with more settings goes on too.
        chosen = self.settings.chosen_in_any_version()
        owner = results.hash_of({"settings": chosen, "phase": phase.index})
        place = self.directory.phase(phase.index)
        return PhaseCheckpoints(place, owner, writes=is_chief(self.strategy))

    def _measures_before(self, state: PhaseState) -> bool:
        """Whether the fine-tune is about to begin, rather than to go on from a checkpoint."""
        wanted = finetunes(self.settings.training, self.method, state.phase)
        return wanted and "before_finetune" not in state.metrics

    def _accuracies(self, state: PhaseState) -> dict[str, float | None]:
        predictions = self.predict(state.phase, state.model, state.memory)[0]
        return evaluate.accuracies(predictions.summary(self.groups(state.phase)))

    def _close_phase(self, state: PhaseState) -> None:
        """Tests both heads, exports, and writes the record that says 'done', in this order."""
        phase = state.phase
        where = f"phase {phase.index}/{self.protocol.num_phases}"
        waiting_for(f"{where} is tested")
        with state.timed("evaluate"):
            predictions, means = self.predict(phase, state.model, state.memory)
        heads = predictions.summary(self.groups(phase))
        evaluate.write_outcome(self.directory, state, predictions)
        learned = read_learned(self.directory, phase.index)
        accuracies = evaluate.accuracies(heads)
        waiting_for(f"{where} is exported, and drawn for TensorBoard")
        with state.timed("export"):
            if not learned or learned.export:
                self.exports.write(phase, state.model, state.memory, means, accuracies)
        new_ids = self.protocol.original_ids(phase.new_classes)
        record = evaluate.record_of(
            state, new_ids, heads, evaluate.best_constant(phase, predictions)
        )
        if learned:
            record["learned"] = learned.facts()
        show_phase(
            self.summaries,
            self.directory,
            phase,
            state.model,
            self.workshop.evaluator(state.model),
            state.memory,
            self.data.test_set(phase),
            heads,
            self.source.names_of(self.protocol.order),
        )
        write_json(self.directory.record(phase.index), record)
        state.checkpoints.clear()
        # Graphs of an export hang in cycles, and Python's collector knows nothing of their size.
        # What is left will stay: the next phase need not look through millions of objects again.
        gc.collect()
        gc.freeze()
        LOGGER.info(
            "phase %d/%d done: %s, %s; %s in %s bytes",
            phase.index,
            self.protocol.num_phases,
            counted(phase.num_seen, "class"),
            ", ".join(
                f"{head} {'not tested on all' if v is None else f'{v:.2%}'}"
                for head, v in accuracies.items()
            ),
            counted(len(state.memory), "exemplar"),
            f"{state.memory.bytes_used:,}",
        )
