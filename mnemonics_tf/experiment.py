"""Algorithm 1 of the paper: the one module that knows the order of things."""

import contextlib
import functools
import gc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.data.sources import described
from mnemonics_tf.devices import create_strategy, is_chief, spans_workers
from mnemonics_tf.evaluation.evaluator import Predictions
from mnemonics_tf.exemplars.budget import kept_within, make_budget
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods import METHODS
from mnemonics_tf.models.classifiers import capacity_for
from mnemonics_tf.models.incremental import Architecture, IncrementalModel
from mnemonics_tf.monitoring.phase import show_phase
from mnemonics_tf.monitoring.progress import LOGGER, log_to, stop_logging
from mnemonics_tf.monitoring.summaries import Summaries, final_metrics
from mnemonics_tf.phases import evaluate, phase0
from mnemonics_tf.phases.adjust_exemplars import adjust_exemplars
from mnemonics_tf.phases.checks import (
    check_exemplars,
    check_method,
    check_snapshot,
    make_protocol,
    settle,
    warn_of_small_classes,
)
from mnemonics_tf.phases.exports import PhaseExports
from mnemonics_tf.phases.finetune import finetune_model, finetunes
from mnemonics_tf.phases.make_exemplars import make_exemplars
from mnemonics_tf.phases.state import PhaseState
from mnemonics_tf.phases.train_model import train_model
from mnemonics_tf.phases.workshop import Workshop
from mnemonics_tf.registry import find
from mnemonics_tf.run import hardware, results
from mnemonics_tf.run.checkpoints import PhaseCheckpoints
from mnemonics_tf.run.data_facts import DIGESTS, data_facts, noted_facts
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, write_json
from mnemonics_tf.run.interruption import RunInterruptedError, StopRequest
from mnemonics_tf.run.resume import claim_directory, load_memory, read_record
from mnemonics_tf.run.workers import any_worker, share_state
from mnemonics_tf.settings import Settings

#: the lines of Algorithm 1 between a phase's beginning and its test; each is resumable as a unit
STAGES = ("train", "exemplars", "adjust", "trim", "finetune")

#: where a phase stands whose stages are all done
_TEST = "test"


class Experiment:
    """One class-incremental run, from the first phase to results.json.

    Args:
        settings: of the run.
        source: where images come from.
        strategy: the distribution strategy that everything runs in; None: the one that the settings
            name.

    Attributes:
        settings: of the run.
        source: where images come from.
        protocol: which class comes when.
        data: the gate to the phases' images.
        method: how the model learns.
        workshop: loops, evaluators and objectives, which serve all phases.
        directory: where everything is written.
        exports: the SavedModels of the phases.
        stop: what asks the run to save and stop.

    Raises:
        UserError: if settings and data do not fit together, before any work starts.
    """

    def __init__(
        self,
        settings: Settings,
        source: DataSource,
        strategy: tf.distribute.Strategy | None = None,
    ):
        strategy = strategy or create_strategy(settings.run.strategy)
        self.stop = StopRequest(functools.partial(any_worker, strategy))
        self.settings = settings = settle(settings)
        self.source = source
        self.protocol = make_protocol(
            settings, len(source.class_names), source.class_names, source.original_ids
        )
        self.method = find(METHODS, settings.training.method, "method")(settings.training)
        check_method(settings, self.method, self.protocol, source)
        warn_of_small_classes(settings, self.protocol, source)
        self.data = PhaseData(source, self.protocol, self.method.keeps_past_data)
        self.directory = RunDirectory(settings.run.run_dir)
        self.workshop = Workshop(
            settings=settings,
            architecture=Architecture(
                settings.model.backbone,
                settings.model.depth,
                source.image_shape,
                self.method.classifier,
                self.method.corrects_logits,
            ),
            pipeline=Pipeline(
                Normalization(source.channel_mean, source.channel_std),
                AUGMENTATIONS[source.augmentation],
                settings.protocol.seed,
            ),
            strategy=strategy,
        )
        self.exports = PhaseExports(self.workshop, self.directory, source, self.protocol)
        self._strategy = strategy
        self._summaries = Summaries(self.directory.tensorboard)
        #: go through all phases, so that what was traced with them stays good
        self._model: IncrementalModel | None = None
        self._old_model: IncrementalModel | None = None

    @contextlib.contextmanager
    def session(self, console: bool = True) -> Iterator[None]:
        """Within it `run` does what the command does beside it.

        The run directory is locked, messages go to log.txt and to standard output, progress among
        them, and SIGTERM and SIGINT (a notebook's "interrupt") ask the run to save and stop.

        Args:
            console: whether messages go to standard output too.

        Raises:
            UserError: if another process works on the run, or its directory can't be written.
        """
        with self.directory.locked():
            told = bool(LOGGER.handlers)  # a command opens its log before it reads the data
            log_to(self.directory.log, console)
            if not told:
                LOGGER.info("%s", described(self.source))
            try:
                with self.stop.listening():
                    yield
            finally:
                stop_logging()

    def run(self) -> dict[str, Any]:
        """Runs, or goes on with, the phases; returns what results.json holds.

        Raises:
            RunInterruptedError: if `stop` asked for it; the same call goes on later.
        """
        last = self.settings.run.last_phase
        phases = self.protocol.phases[: last + 1 if last >= 0 else None]
        directory, facts = self.directory, self.class_facts()
        chief = is_chief(self._strategy)
        left = claim_directory(directory, self.settings, facts, phases) if chief else []
        share_state(self._strategy, directory)
        if not chief:  # with what the chief has noted
            left = claim_directory(directory, self.settings, facts, phases)
        try:
            for phase in phases:
                if phase in left:
                    with self.data.naming_broken_files():
                        self._run_phase(phase)
                else:
                    LOGGER.info("phase %d is done already", phase.index)
                    if is_chief(self._strategy):
                        self._look_after_export(phase)
        finally:
            gc.unfreeze()
        return self._write_results(phases)

    def _run_phase(self, phase: Phase) -> None:
        """Lines 2-20 of Algorithm 1 for one phase."""
        state = self.begin_phase(phase)  # lines 2, 6, 7
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
            budget = make_budget(self.settings.exemplar)
            state.memory = kept_within(state.memory, budget, phase.num_seen)
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
            fewest = int(np.bincount(state.memory.labels).min())
            check_exemplars(self.settings, self.method, self.protocol.phases[later], fewest)

    def _train(self, state: PhaseState) -> dict[str, float]:
        """Trains Theta_i; in phase 0 another run's is taken over instead where that is wanted."""
        phase, donor = state.phase, self.settings.run.phase0_from
        if phase.index > 0:
            return self._train_model(state)
        fingerprint = functools.partial(
            phase0.fingerprint, self.settings, self.protocol, self.workshop.architecture
        )
        metrics: dict[str, float] = {}
        seed = self.workshop.seed
        if donor:
            seed = phase0.take_over(state.model, fingerprint, self.directory, RunDirectory(donor))
        else:
            metrics = self._train_model(state)
        state.metrics["phase0"] = {"seed": seed}
        phase0.publish(state.model, fingerprint(seed), seed, self.directory)
        return metrics

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
        with self._strategy.scope():
            if phase.index == 0:
                self._model = self._new_model(phase)
                old_model, model = None, self._model
                memory = ExemplarMemory.empty(
                    self.source.image_shape,
                    self.directory.phase(0),
                    self.settings.exemplar.codec,
                    self.settings.exemplar.jpeg_quality,
                )
            else:
                before = self.protocol.phases[phase.index - 1]
                model = self.load_model(before.index)
                old_model = self._frozen(model)
                model.grow(phase.num_new)
                model.set_transfer(self.settings.model.weight_transfer)
                memory = self._memory_after(before)
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
            self._summaries,
        )
        snapshot = checkpoints.latest()
        if snapshot:
            check_snapshot(snapshot, (*STAGES, _TEST), self.directory.phase(phase.index))
            LOGGER.info("phase %d goes on from its checkpoint", phase.index)
            state.restore(snapshot)
        return state

    def checkpoints(self, phase: Phase) -> PhaseCheckpoints:
        """Returns the snapshots of one phase of this very run."""
        # By what differs from the defaults, so that a version with more settings goes on too.
        chosen = self.settings.chosen()
        owner = results.hash_of({"settings": chosen, "phase": phase.index})
        return PhaseCheckpoints(self.directory.phase(phase.index), owner)

    def _new_model(self, phase: Phase) -> IncrementalModel:
        capacity = capacity_for(len(self.protocol.order))
        model = IncrementalModel(
            self.workshop.architecture, phase.num_old, phase.num_new, self.workshop.seed, capacity
        )
        if self.method.freezes_old_classes:
            model.classifier.freeze_old()
        return model

    def _frozen(self, model: IncrementalModel) -> IncrementalModel:
        """Returns the run's old model, with the weights of `model`."""
        if self._old_model is None:
            self._old_model = model.frozen_copy()
        else:
            self._old_model.copy_from(model)
        return self._old_model

    def load_model(self, phase_index: int) -> IncrementalModel:
        """Returns Theta_i as it was at the end of phase i, from the run directory.

        It is the run's one model, which is at no other phase any more.
        """
        phase = self.protocol.phases[phase_index]
        if self._model is None:
            with self._strategy.scope():
                self._model = self._new_model(phase)
        path = self.directory.model(phase_index)
        self._model.set_classes(phase.num_old, phase.num_new)
        self._model.set_transfer(self.settings.model.weight_transfer and phase_index > 0)
        self._model.set_state(read_arrays(path), str(path))
        return self._model

    def _memory_after(self, phase: Phase) -> ExemplarMemory:
        codec = self.settings.exemplar.codec
        return load_memory(self.directory, phase, self.source.image_shape, codec)

    def _measures_before(self, state: PhaseState) -> bool:
        """Whether the fine-tune is about to begin, rather than to go on from a checkpoint."""
        wanted = finetunes(self.settings.training, self.method, state.phase)
        return wanted and "before_finetune" not in state.metrics

    def _accuracies(self, state: PhaseState) -> dict[str, float]:
        predictions = self.predict(state.phase, state.model, state.memory)[0]
        return evaluate.accuracies(predictions.summary(self.groups(state.phase)))

    def predict(
        self, phase: Phase, model: IncrementalModel, memory: ExemplarMemory
    ) -> tuple[Predictions, np.ndarray]:
        """Returns both heads' predictions of a phase's test set, and the class means `nme` used.

        Args:
            phase: whose seen classes are tested.
            model: Theta_i.
            memory: gives the class means.
        """
        evaluator = self.workshop.evaluator(model)
        return evaluate.predict(evaluator, phase, memory, self.data.test_set(phase))

    def predict_again(self, phase: Phase) -> Predictions:
        """Returns both heads' predictions of Theta_i and E_{0:i}, from the run directory."""
        memory = self._memory_after(phase)
        model = self.load_model(phase.index)
        with self.data.naming_broken_files():
            return self.predict(phase, model, memory)[0]

    def groups(self, phase: Phase) -> Sequence[range]:
        """Returns the class groups of the phases up to this one."""
        return [earlier.new_classes for earlier in self.protocol.phases[: phase.index + 1]]

    def _close_phase(self, state: PhaseState) -> None:
        """Tests both heads, exports, and writes the record that says 'done', in this order."""
        phase = state.phase
        with state.timed("evaluate"):
            predictions, means = self.predict(phase, state.model, state.memory)
        heads = predictions.summary(self.groups(phase))
        evaluate.write_outcome(self.directory, state, predictions)
        with state.timed("export"):
            self.exports.write(phase, state.model, state.memory, means, evaluate.accuracies(heads))
        new_ids = self.protocol.original_ids(phase.new_classes)
        record = evaluate.record_of(state, new_ids, heads)
        show_phase(
            self._summaries,
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
            "phase %d/%d done: %d classes, %s",
            phase.index,
            self.protocol.num_phases,
            phase.num_seen,
            ", ".join(f"{head} {v:.2%}" for head, v in evaluate.accuracies(heads).items()),
        )

    def _look_after_export(self, phase: Phase) -> None:
        """Makes the damaged export of a phase that is done again; of a missing one it tells."""
        trouble, path = self.exports.trouble(phase), self.exports.path(phase)
        if not trouble:
            return
        LOGGER.warning("phase %d is done, but its export %s %s", phase.index, path, trouble)
        # One that is not there may have been moved away, so that servers go back to an earlier one.
        if not path.exists() or not self.directory.model(phase.index).exists():
            return
        if not spans_workers(self._strategy):
            memory = self._memory_after(phase)
            model = self.load_model(phase.index)
            means = self.workshop.evaluator(model).class_means(memory, phase.num_seen)
            heads = read_record(self.directory, phase)["heads"]
            self.exports.write(phase, model, memory, means, evaluate.accuracies(heads))

    def class_facts(self) -> dict[str, Any]:
        """Returns what the run directory notes of the data: a run goes on with the same only.

        To be asked for before the first phase ends, which makes training images go out of reach.
        """
        return data_facts(self.source, self.protocol)

    def _write_results(self, phases: Sequence[Phase]) -> dict[str, Any]:
        records = [read_record(self.directory, phase) for phase in phases]
        own_seed = self.settings.protocol.seed
        contents: dict[str, Any] = {
            "summary": results.summarize(records),
            "prediction_head": self.method.prediction_head,
            "protocol": results.protocol_fingerprint(self.settings, self.protocol),
            # Of a run of an earlier version: its own.
            "phase0_seed": records[0].get("stages", {}).get("phase0", {}).get("seed", own_seed),
            "class_order": list(self.protocol.order),
            "class_names": self.source.names_of(self.protocol.order),
            # Those that all phases were learned from: of a run that noted none nobody can tell.
            DIGESTS: (noted_facts(self.directory) or {}).get(DIGESTS),
            "settings": self.settings.results_settings(),
            "phases": records,
            "packages": hardware.describe_packages(),
            "hardware": {
                **hardware.describe_hardware(),
                "replicas": self._strategy.num_replicas_in_sync,
            },
        }
        file = self.directory.results
        if results.phases_written(file) != records:
            told = contents["settings"]
            data = {**told["data"], "id": results.data_id(contents)}
            self._summaries.hyperparameters(
                {**told, "data": data},
                final_metrics(contents["summary"], self.method.prediction_head),
                trial=results.hash_of(str(self.directory.root.resolve())),
            )
        write_json(file, contents)
        return contents
