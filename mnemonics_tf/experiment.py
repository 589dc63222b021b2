"""Algorithm 1 of the paper: the one module that knows the order of things."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.pipeline import Normalization, Pipeline
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.devices import is_chief
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Evaluator, Predictions
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import MethodSettings
from mnemonics_tf.models.classifiers import capacity_for
from mnemonics_tf.models.incremental import Architecture, IncrementalModel
from mnemonics_tf.monitoring.phase import show_phase
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.monitoring.summaries import Summaries, final_metrics
from mnemonics_tf.phases.checks import (
    check_method,
    make_protocol,
    settle,
    warn_of_small_classes,
)
from mnemonics_tf.phases.make_exemplars import (
    adjust_old_exemplars,
    make_new_exemplars,
    trim_memory,
)
from mnemonics_tf.phases.state import PhaseState, RunContext
from mnemonics_tf.phases.train_model import finetune_model, finetunes, train_model
from mnemonics_tf.run import hardware, results
from mnemonics_tf.run.checkpoints import PhaseCheckpoints
from mnemonics_tf.run.data_facts import DIGESTS, data_facts, noted_facts
from mnemonics_tf.run.files import (
    RunDirectory,
    read_arrays,
    write_arrays,
    write_json,
)
from mnemonics_tf.run.interruption import RunInterruptedError, StopRequest
from mnemonics_tf.run.resume import claim_directory, load_memory, read_record
from mnemonics_tf.run.workers import any_worker, share_state
from mnemonics_tf.serving.export import ExportedClasses, export_name, export_phase
from mnemonics_tf.settings import Settings

#: the lines of Algorithm 1 between a phase's beginning and its test; a stage is resumable as a unit
STAGES: tuple[tuple[str, Callable[[RunContext, PhaseState], Any]], ...] = (
    ("train", train_model),  # lines 4, 8
    ("exemplars", make_new_exemplars),  # lines 10, 11
    ("adjust", adjust_old_exemplars),  # lines 12-16
    ("trim", trim_memory),  # line 17
    ("finetune", finetune_model),  # line 18
)

#: where a phase stands whose stages are all done
_TEST = "test"


class Experiment:
    """One class-incremental run, from the first phase to results.json.

    Args:
        settings: of the run.
        source: where images come from.
        strategy: the distribution strategy that everything runs in.

    Attributes:
        context: what stays the same from the first phase to the last.
        stop: what asks the run to save and stop.

    Raises:
        UserError: if settings and data do not fit together, before any work starts.
    """

    def __init__(self, settings: Settings, source: DataSource, strategy: tf.distribute.Strategy):
        self.stop = StopRequest(functools.partial(any_worker, strategy))
        settings = settle(settings)
        self._settings = settings
        self._source = source
        protocol = make_protocol(
            settings, len(source.class_names), source.class_names, source.original_ids
        )
        if settings.training.method not in METHODS:  # a flag can't say so, settings.json can
            raise UserError(f"--method={settings.training.method}: known are {', '.join(METHODS)}")
        method = METHODS[settings.training.method](_method_settings(settings))
        warn_of_small_classes(settings, protocol, source)
        check_method(settings, method, protocol, source)
        directory = RunDirectory(settings.run.run_dir)
        self.context = RunContext(
            settings=settings,
            protocol=protocol,
            data=PhaseData(source, protocol, method.keeps_past_data),
            method=method,
            architecture=Architecture(
                settings.model.backbone,
                settings.model.depth,
                source.image_shape,
                method.classifier,
                method.corrects_logits,
            ),
            pipeline=Pipeline(
                Normalization(source.channel_mean, source.channel_std),
                AUGMENTATIONS[source.augmentation],
                settings.protocol.seed,
            ),
            strategy=strategy,
            directory=directory,
            summaries=Summaries(directory.tensorboard),
        )
        #: go through all phases, so that what was traced with them stays good
        self._model: IncrementalModel | None = None
        self._old_model: IncrementalModel | None = None
        self._evaluator: Evaluator | None = None
        self._exported_model: IncrementalModel | None = None

    def run(self) -> dict[str, Any]:
        """Runs, or goes on with, the phases; returns what results.json holds.

        Raises:
            RunInterruptedError: if `stop` asked for it; the same call goes on later.
        """
        last = self._settings.run.last_phase
        phases = self.context.protocol.phases[: last + 1 if last >= 0 else None]
        directory, facts = self.context.directory, self.class_facts()
        chief = is_chief(self.context.strategy)
        left = claim_directory(directory, self._settings, facts, phases) if chief else []
        share_state(self.context.strategy, directory)
        if not chief:  # with what the chief has noted
            left = claim_directory(directory, self._settings, facts, phases)
        for phase in phases:
            if phase in left:
                with self.context.data.naming_broken_files():
                    self._run_phase(phase)
            else:
                LOGGER.info("phase %d is done already", phase.index)
        return self._write_results(phases)

    def _run_phase(self, phase: Phase) -> None:
        """Lines 2-20 of Algorithm 1 for one phase."""
        state = self.begin_phase(phase)  # lines 2, 6, 7
        names = [name for name, _ in STAGES]
        following = [*names[1:], _TEST]
        first = [*names, _TEST].index(state.resume.stage) if state.resume else 0
        for (name, stage), next_name in list(zip(STAGES, following, strict=True))[first:]:
            if name == "finetune" and self._measures_before(state):
                state.figures["before_finetune"] = self._accuracies(state)
            with state.timed(name):
                stage(self.context, state)
            state.resume = None
            state.save_snapshot(next_name, 0)
            if self.stop.agreed():
                raise RunInterruptedError
        self._evaluate(state)  # lines 19, 20

    def begin_phase(self, phase: Phase) -> PhaseState:
        """Gets D_i and E_{0:i-1} from memory, and initialises Theta_i with Theta_{i-1}."""
        context = self.context
        training_set = context.data.training_set(phase)
        with context.strategy.scope():
            if phase.index == 0:
                self._model = self._new_model(phase)
                old_model, model = None, self._model
                memory = ExemplarMemory.empty(self._source.image_shape, context.directory.phase(0))
            else:
                before = context.protocol.phases[phase.index - 1]
                model = self.load_model(before.index)
                old_model = self._frozen(model)
                model.grow(phase.num_new)
                model.set_transfer(self._settings.model.weight_transfer)
                memory = load_memory(context.directory, before, self._source.image_shape)
        evaluator = self._evaluator_of(model)
        checkpoints = self.checkpoints(phase)
        state = PhaseState(
            phase, training_set, old_model, model, evaluator, memory, checkpoints, self.stop
        )
        snapshot = checkpoints.latest()
        if snapshot and snapshot.stage not in (*(name for name, _ in STAGES), _TEST):
            raise UserError(
                f"the checkpoint of phase {phase.index} is of a stage {snapshot.stage!r}, which "
                "this version does not have: go on with the version that wrote it, or remove "
                f"{context.directory.phase(phase.index)} to begin the phase again"
            )
        if snapshot:
            LOGGER.info("phase %d goes on from its checkpoint", phase.index)
            state.restore(snapshot)
        return state

    def checkpoints(self, phase: Phase) -> PhaseCheckpoints:
        """Returns the snapshots of one phase of this very run."""
        # By what differs from the defaults, so that a version with more settings goes on too.
        chosen = self._settings.chosen()
        owner = results.hash_of({"settings": chosen, "phase": phase.index})
        return PhaseCheckpoints(self.context.directory.phase(phase.index), owner)

    def _evaluator_of(self, model: IncrementalModel) -> Evaluator:
        if self._evaluator is None or self._evaluator.predict_batch is not model:
            batch_size = self._settings.training.evaluation_batch_size
            context = self.context
            self._evaluator = Evaluator(
                model, context.pipeline, batch_size, context.strategy, context.jit_compile
            )
        return self._evaluator

    def _new_model(self, phase: Phase) -> IncrementalModel:
        capacity = capacity_for(len(self.context.protocol.order))
        model = IncrementalModel(
            self.context.architecture, phase.num_old, phase.num_new, self.context.seed, capacity
        )
        if self.context.method.freezes_old_classes:
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
        phase = self.context.protocol.phases[phase_index]
        if self._model is None:
            with self.context.strategy.scope():
                self._model = self._new_model(phase)
        path = self.context.directory.model(phase_index)
        self._model.set_classes(phase.num_old, phase.num_new)
        self._model.set_transfer(self._settings.model.weight_transfer and phase_index > 0)
        self._model.set_state(read_arrays(path), str(path))
        return self._model

    def _measures_before(self, state: PhaseState) -> bool:
        """Whether the fine-tune is about to begin, rather than to go on from a checkpoint."""
        return finetunes(self.context, state) and "before_finetune" not in state.figures

    def _accuracies(self, state: PhaseState) -> dict[str, float]:
        predictions, _ = self.predict(state.phase, state.evaluator, state.memory)
        heads = predictions.summary(self.groups(state.phase))
        return {head: values["accuracy"] for head, values in heads.items()}

    def predict_again(self, phase: Phase) -> Predictions:
        """Returns both heads' predictions of Theta_i and E_{0:i}, from the run directory."""
        memory = load_memory(self.context.directory, phase, self._source.image_shape)
        evaluator = self._evaluator_of(self.load_model(phase.index))
        with self.context.data.naming_broken_files():
            return self.predict(phase, evaluator, memory)[0]

    def predict(
        self, phase: Phase, evaluator: Evaluator, memory: ExemplarMemory
    ) -> tuple[Predictions, np.ndarray]:
        """Returns both heads' predictions of a phase's test set, and the class means `nme` used.

        Args:
            phase: whose seen classes are tested.
            evaluator: of the model.
            memory: gives the class means.
        """
        means = evaluator.class_means(memory, phase.num_seen)
        return evaluator.predict(self.context.data.test_set(phase), means), means

    def groups(self, phase: Phase) -> Sequence[range]:
        """Returns the class groups of the phases up to this one."""
        return [earlier.new_classes for earlier in self.context.protocol.phases[: phase.index + 1]]

    def _evaluate(self, state: PhaseState) -> None:
        """Tests both heads, exports, and closes the phase: memory, model, record, in this order."""
        phase, directory = state.phase, self.context.directory
        with state.timed("evaluate"):
            predictions, means = self.predict(phase, state.evaluator, state.memory)
        heads = predictions.summary(self.groups(phase))
        state.memory.save(directory.exemplars(phase.index))
        write_arrays(directory.model(phase.index), state.model.state())
        write_arrays(
            directory.predictions(phase.index), {"labels": predictions.labels, **predictions.heads}
        )
        accuracies = {head: values["accuracy"] for head, values in heads.items()}
        with state.timed("export"):
            self._export(state, means, accuracies)
        record = {
            "phase": phase.index,
            "num_seen": phase.num_seen,
            "new_classes": self.context.protocol.original_ids(phase.new_classes),
            "heads": heads,
            "stages": state.figures,
            "memory": {"exemplars": len(state.memory), "bytes": state.memory.bytes_used},
            "seconds": {name: round(value, 1) for name, value in state.seconds.items()},
        }
        names = self._source.names_of(self.context.protocol.order)
        show_phase(self.context, state, heads, names)
        write_json(directory.record(phase.index), record)
        state.checkpoints.clear()
        LOGGER.info(
            "phase %d/%d done: %d classes, %s",
            phase.index,
            self.context.protocol.num_phases,
            phase.num_seen,
            ", ".join(f"{head} {value:.2%}" for head, value in accuracies.items()),
        )

    def class_facts(self) -> dict[str, Any]:
        """Returns what the run directory notes of the data: a run goes on with the same only.

        To be asked for before the first phase ends, which makes training images go out of reach.
        """
        return data_facts(self._source, self.context.protocol)

    def _names(self, original_ids: Sequence[int]) -> list[str]:
        return self._source.names_of(original_ids)

    def _export(self, state: PhaseState, means: np.ndarray, accuracies: dict[str, float]) -> None:
        phase, model = state.phase, state.model
        if self.context.strategy is not tf.distribute.get_strategy():
            # On one device, as whoever loads an export expects it.
            if self._exported_model is None:
                self._exported_model = model.frozen_copy()
            self._exported_model.copy_from(model)
            model = self._exported_model
        ids = self.context.protocol.original_ids(phase.seen_classes)
        export_phase(
            directory=self.context.directory.export / export_name(self._settings.protocol.dataset),
            version=phase.index + 1,
            model=model,
            predict=model,
            classes=ExportedClasses(tuple(ids), tuple(self._names(ids))),
            normalization=self.context.pipeline.normalization,
            class_means=means,
            metadata={
                "phase": phase.index,
                "protocol": results.protocol_fingerprint(self._settings, self.context.protocol),
                "accuracy": accuracies,
            },
            warmup_images=np.array(state.memory.images[:1]),
            fit_image=self._source.fit_image,
        )

    def _write_results(self, phases: Sequence[Phase]) -> dict[str, Any]:
        records = [read_record(self.context.directory, phase) for phase in phases]
        contents = {
            "summary": results.summarize(records),
            "prediction_head": self.context.method.prediction_head,
            "protocol": results.protocol_fingerprint(self._settings, self.context.protocol),
            "class_order": list(self.context.protocol.order),
            "class_names": self._names(self.context.protocol.order),
            # Those that all phases were learned from: of a run that noted none nobody can tell.
            DIGESTS: (noted_facts(self.context.directory) or {}).get(DIGESTS),
            "settings": self._settings.results_settings(),
            "phases": records,
            "packages": hardware.describe_packages(),
            "hardware": {
                **hardware.describe_hardware(),
                "replicas": self.context.strategy.num_replicas_in_sync,
            },
        }
        file = self.context.directory.results
        if results.phases_written(file) != records:
            told = contents["settings"]
            data = {**told["data"], "id": results.data_id(contents)}
            self.context.summaries.hyperparameters(
                {**told, "data": data}, final_metrics(contents["summary"])
            )
        write_json(file, contents)
        return contents


def _method_settings(settings: Settings) -> MethodSettings:
    values = dataclasses.asdict(settings.training)
    names = [field.name for field in dataclasses.fields(MethodSettings)]
    return MethodSettings(**{name: values[name] for name in names})
