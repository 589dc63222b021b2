"""Algorithm 1 of the paper: the one module that knows the order of things."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mnemonics_tf import hardware, results
from mnemonics_tf.data.access import PhaseData
from mnemonics_tf.data.augmentation import AUGMENTATIONS
from mnemonics_tf.data.image_set import ImageSet
from mnemonics_tf.data.pipeline import Normalization, Pipeline, concatenate
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase, class_order
from mnemonics_tf.data.sources import DataSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import Evaluator, Predictions
from mnemonics_tf.exemplars.memory import Budget, ExemplarMemory
from mnemonics_tf.exemplars.selection import SELECTIONS
from mnemonics_tf.export import ExportedClasses, export_phase
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import MethodSettings, cross_entropy
from mnemonics_tf.models.incremental import Architecture, IncrementalModel
from mnemonics_tf.progress import LOGGER, StageProgress
from mnemonics_tf.randomness import numpy_generator
from mnemonics_tf.run_directory import (
    RunDirectory,
    read_arrays,
    read_json,
    write_arrays,
    write_json,
    write_text,
)
from mnemonics_tf.settings import Settings
from mnemonics_tf.summaries import Summaries
from mnemonics_tf.training.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.training.loop import LossParts, TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings


@dataclasses.dataclass
class PhaseState:
    """What changes while a phase runs.

    Attributes:
        phase: which.
        training_set: D_i, in reach until the phase ends.
        old_model: Theta_{i-1}, frozen; None in phase 0.
        model: Theta_i.
        evaluator: runs Theta_i as it stands.
        memory: the exemplars, old ones first and new ones once they are made.
        checkpoints: snapshots of this phase.
        resume: the snapshot this process began with, until its stage has gone on from it.
        seconds: time spent, by stage, over all processes that worked on the phase.
        figures: what stages found worth recording, by stage.
    """

    phase: Phase
    training_set: ImageSet
    old_model: IncrementalModel | None
    model: IncrementalModel
    evaluator: Evaluator
    memory: ExemplarMemory
    checkpoints: PhaseCheckpoints
    resume: Snapshot | None = None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


class Experiment:
    """One class-incremental run, from the first phase to results.json.

    Args:
        settings: of the run.
        source: where images come from.
        strategy: the distribution strategy that everything runs in.

    Raises:
        UserError: if settings and data do not fit together, before any work starts.
    """

    def __init__(self, settings: Settings, source: DataSource, strategy: tf.distribute.Strategy):
        self._settings = settings
        self._source = source
        self._strategy = strategy
        self._protocol = make_protocol(settings, len(source.class_names))
        self._method = METHODS[settings.training.method](
            MethodSettings(settings.training.classification_weight, settings.training.temperature)
        )
        self._data = PhaseData(source, self._protocol, self._method.keeps_past_data)
        self._pipeline = Pipeline(
            Normalization(source.channel_mean, source.channel_std),
            AUGMENTATIONS[source.augmentation],
            settings.protocol.seed,
        )
        self._budget = _budget(settings)
        self._check_class_sizes()
        self._architecture = Architecture(
            settings.model.backbone,
            settings.model.depth,
            source.image_shape,
            self._method.classifier,
        )
        self._directory = RunDirectory(settings.run.run_dir)

    def _check_class_sizes(self) -> None:
        counts = self._source.training_counts()[list(self._protocol.order)]
        for phase in self._protocol.phases:
            quota = self._budget.quota(phase.num_seen)
            small = [k for k in phase.new_classes if counts[k] < quota]
            if small:
                names = [self._source.class_names[self._protocol.order[k]] for k in small[:5]]
                raise UserError(
                    f"{len(small)} classes have fewer training images than the {quota} exemplars "
                    f"asked for (first: {', '.join(names)}; smallest: {min(counts[small])} images): "
                    "lower --exemplars_per_class or --exemplars_total"
                )

    def run(self) -> dict[str, Any]:
        """Runs, or goes on with, all phases; returns what results.json holds."""
        self._claim_directory()
        self._summaries = Summaries(self._directory.tensorboard)
        for phase in self._protocol.phases:
            if self._directory.record(phase.index).exists():
                LOGGER.info("phase %d is done already", phase.index)
                continue
            self._run_phase(phase)
        return self._write_results()

    def _claim_directory(self) -> None:
        settings = self._settings.results_settings()
        if self._directory.settings.exists():
            differences = _differences(read_json(self._directory.settings), settings)
            if differences:
                raise UserError(
                    f"{self._directory.root} holds a run with other settings ({'; '.join(differences)}): "
                    "pass another --run_dir, or the same settings to go on with it"
                )
            return
        write_text(self._directory.flags, self._settings.flag_lines())
        write_json(self._directory.settings, settings)

    def _run_phase(self, phase: Phase) -> None:
        """Lines 2-20 of Algorithm 1 for one phase."""
        state = self._begin(phase)  # lines 2, 6, 7
        stages: list[tuple[str, Callable[[PhaseState], None]]] = [
            ("train", self._train_model),  # lines 4, 8
            ("exemplars", self._make_new_exemplars),  # lines 10, 17
            ("finetune", self._finetune_model),  # line 18
        ]
        for index, (name, stage) in enumerate(stages):
            if state.resume and index < state.resume.stage:
                continue
            started = time.monotonic()
            stage(state)
            state.seconds[name] = state.seconds.get(name, 0.0) + time.monotonic() - started
            state.resume = None
            self._save_snapshot(state, index + 1, 0)
        self._evaluate(state)  # lines 19, 20

    # Lines 2, 6, 7

    def _begin(self, phase: Phase) -> PhaseState:
        """Gets D_i and the exemplars from memory, and initialises Theta_i with Theta_{i-1}."""
        checkpoints = PhaseCheckpoints(self._directory.phase(phase.index))
        training_set = self._data.training_set(phase)
        with self._strategy.scope():
            if phase.index == 0:
                old_model = None
                model = self._new_model(phase)
                memory = ExemplarMemory.empty(self._source.image_shape)
            else:
                old_model = self.load_model(phase.index - 1)
                model = self.load_model(phase.index - 1)
                model.grow(phase.num_new)
                if self._settings.model.weight_transfer:
                    model.enable_transfer()
                old_model.backbone.trainable = False
                memory = ExemplarMemory.load(self._directory.exemplars(phase.index - 1))
        evaluator = Evaluator(
            model, self._pipeline, self._settings.training.evaluation_batch_size, self._strategy
        )
        state = PhaseState(phase, training_set, old_model, model, evaluator, memory, checkpoints)
        snapshot = checkpoints.latest()
        if snapshot:
            LOGGER.info("phase %d goes on from its checkpoint", phase.index)
            self._restore(state, snapshot)
        return state

    def _new_model(self, phase: Phase) -> IncrementalModel:
        model = IncrementalModel(
            self._architecture, phase.num_old, phase.num_new, self._settings.protocol.seed
        )
        if self._settings.model.weight_transfer and phase.index > 0:
            model.enable_transfer()
        return model

    def load_model(self, phase_index: int) -> IncrementalModel:
        """Returns Theta_i as it was at the end of phase i, from the run directory."""
        model = self._new_model(self._protocol.phases[phase_index])
        model.set_state(read_arrays(self._directory.model(phase_index)))
        return model

    def _save_snapshot(
        self, state: PhaseState, stage: int, position: int, loop: TrainingLoop | None = None
    ) -> None:
        groups = {
            "model": state.model.state(),
            "memory": {"images": state.memory.images, "labels": state.memory.labels},
            "seconds": {name: np.array(value) for name, value in state.seconds.items()},
        }
        if loop:
            groups["optimizer"] = loop.state()
        state.checkpoints.save(Snapshot(stage, position, groups))

    def _restore(self, state: PhaseState, snapshot: Snapshot) -> None:
        state.resume = snapshot
        state.model.set_state(snapshot.groups["model"])
        memory = snapshot.groups["memory"]
        state.memory = ExemplarMemory(memory["images"], memory["labels"])
        seconds = snapshot.groups.get("seconds", {})
        state.seconds = {name: float(value) for name, value in seconds.items()}

    # Lines 4, 8

    def _train_model(self, state: PhaseState) -> None:
        """Trains Theta_i on D_i and the old exemplars (Eq. 6)."""
        phase = state.phase
        if phase.index == 0 and self._settings.run.phase0_from:
            self._take_over_phase0(state)
        else:
            training = self._settings.training
            epochs = training.base_epochs if phase.index == 0 else training.epochs

            def loss_parts(batch, outputs, old_outputs):
                return self._method.loss_parts(batch, outputs, old_outputs, phase)

            images = state.training_set
            if not self._method.keeps_past_data:
                images = concatenate([images, state.memory.as_image_set()])
            optimization = self._optimization(epochs, training.learning_rate, True)
            self._run_epochs(state, 0, "train", images, loss_parts, optimization)
        if phase.index == 0:
            arrays = {**state.model.state(), "fingerprint": np.array(self._phase0_fingerprint())}
            write_arrays(self._directory.phase(0) / "base_model.npz", arrays)

    def _phase0_fingerprint(self) -> str:
        """Returns a hash of everything that touches the model of phase 0 up to here."""
        training = dataclasses.asdict(self._settings.training)
        shared = [
            *("base_epochs", "batch_size", "learning_rate", "learning_rate_milestones"),
            *("learning_rate_decay", "momentum", "weight_decay", "decay_normalization"),
        ]
        return results.hash_of(
            {
                "dataset": self._settings.protocol.dataset,
                "classes": self._protocol.order[: self._protocol.base_classes],
                "seed": self._settings.protocol.seed,
                "architecture": dataclasses.asdict(self._architecture),
                "training": {name: training[name] for name in shared},
                "devices": self._strategy.num_replicas_in_sync,
            }
        )

    def _take_over_phase0(self, state: PhaseState) -> None:
        other = RunDirectory(self._settings.run.phase0_from)
        arrays = read_arrays(other.phase(0) / "base_model.npz")
        if str(arrays.pop("fingerprint")) != self._phase0_fingerprint():
            raise UserError(
                f"--phase0_from={other.root}: its phase 0 was trained with other settings, data or "
                "class order; leave the flag out to train phase 0 here"
            )
        state.model.set_state(arrays)
        LOGGER.info("phase 0 takes the trained model of %s", other.root)

    def _optimization(
        self, epochs: int, learning_rate: float, scheduled: bool
    ) -> OptimizationSettings:
        training = self._settings.training
        shares = training.learning_rate_milestones if scheduled else ()
        return OptimizationSettings(
            epochs=epochs,
            learning_rate=learning_rate,
            milestones=tuple(round(share * epochs) for share in shares),
            decay=training.learning_rate_decay,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            decay_normalization=training.decay_normalization,
            batch_size=training.batch_size,
        )

    def _run_epochs(
        self,
        state: PhaseState,
        stage: int,
        name: str,
        images: ImageSet,
        loss_parts: LossParts,
        settings: OptimizationSettings,
    ) -> None:
        """Trains for the stage's epochs, from where a snapshot left it, with checkpoints."""
        phase = state.phase.index
        loop = TrainingLoop(
            state.model, state.old_model, loss_parts, settings, self._pipeline, self._strategy
        )
        start = 0
        if state.resume and state.resume.position:
            start = state.resume.position
            loop.set_state(state.resume.groups["optimizer"])
        progress = StageProgress(phase, self._protocol.num_phases, name, settings.epochs, start)
        saved = time.monotonic()
        for epoch in range(start, settings.epochs):
            figures = loop.run_epoch(images, epoch, name, phase)
            progress.update(epoch + 1, figures)
            self._summaries.scalars(f"{name}/phase{phase:02d}", figures, epoch)
            if time.monotonic() - saved > 60 * self._settings.run.checkpoint_minutes:
                self._save_snapshot(state, stage, epoch + 1, loop)
                saved = time.monotonic()
        state.figures[name] = figures

    # Lines 10, 17

    def _make_new_exemplars(self, state: PhaseState) -> None:
        """Chooses E_i from D_i and lets old classes give up what the budget takes from them."""
        quota = self._budget.quota(state.phase.num_seen)
        chosen = self._select(state, quota)
        memory = state.memory.extended(
            *_images_and_labels(state.training_set.subset(chosen), self._pipeline)
        )
        state.memory = memory.trimmed(quota)

    def _select(self, state: PhaseState, quota: int) -> np.ndarray:
        """Returns indices into D_i: `quota` a new class, best first within a class."""
        seed, phase = self._settings.protocol.seed, state.phase
        select = SELECTIONS[self._settings.exemplar.exemplars]
        chosen = []
        for label in phase.new_classes:
            members = state.training_set.indices_of(label)
            features = state.evaluator.outputs(state.training_set.subset(members)).features
            generator = numpy_generator(seed, "exemplars", label)
            chosen.append(members[select(features, quota, generator)])
        return np.concatenate(chosen)

    # Line 18

    def _finetune_model(self, state: PhaseState) -> None:
        """Fine-tunes Theta_i on the exemplars only, as many of each class.

        Departure from Algorithm 1: phase 0 is left out unless `finetune_base_phase` is set. The step
        undoes the bias between many new and few old images (Section 4.3), and phase 0 has no old ones;
        there it only replaces all of D_0 by its exemplars.
        """
        training, phase = self._settings.training, state.phase
        if not training.finetune_epochs or self._method.keeps_past_data:
            return
        if phase.index == 0 and not training.finetune_base_phase:
            return
        state.figures["before_finetune"] = self._accuracies(state)
        self._run_epochs(
            state,
            2,
            "finetune",
            state.memory.as_image_set(),
            lambda batch, outputs, _: {
                "classification": cross_entropy(batch["label"], outputs.logits)
            },
            self._optimization(training.finetune_epochs, training.finetune_learning_rate, False),
        )

    def _accuracies(self, state: PhaseState) -> dict[str, float]:
        heads = self._predict(state)[0].summary(self._groups(state.phase))
        return {head: values["accuracy"] for head, values in heads.items()}

    def _predict(self, state: PhaseState) -> tuple[Predictions, np.ndarray]:
        """Returns both heads' predictions of the test set, and the class means `nme` used."""
        means = state.evaluator.class_means(state.memory, state.phase.num_seen)
        return state.evaluator.predict(self._data.test_set(state.phase), means), means

    def _groups(self, phase: Phase) -> list[range]:
        return [earlier.new_classes for earlier in self._protocol.phases[: phase.index + 1]]

    # Lines 19, 20

    def _evaluate(self, state: PhaseState) -> None:
        """Tests both heads, exports, and closes the phase: memory, model, record, in this order."""
        phase = state.phase
        started = time.monotonic()
        predictions, means = self._predict(state)
        heads = predictions.summary(self._groups(phase))
        state.seconds["evaluate"] = time.monotonic() - started
        state.memory.save(self._directory.exemplars(phase.index))
        write_arrays(self._directory.model(phase.index), state.model.state())
        write_arrays(
            self._directory.predictions(phase.index),
            {"labels": predictions.labels, **predictions.heads},
        )
        self._export(state, means, heads)
        record = {
            "phase": phase.index,
            "num_seen": phase.num_seen,
            "new_classes": self._protocol.original_ids(phase.new_classes),
            "heads": heads,
            "stages": state.figures,
            "memory": {"exemplars": len(state.memory), "bytes": state.memory.bytes_used},
            "seconds": {name: round(value, 1) for name, value in state.seconds.items()},
        }
        write_json(self._directory.record(phase.index), record)
        state.checkpoints.clear()
        accuracies = {head: values["accuracy"] for head, values in heads.items()}
        self._summaries.scalars("accuracy", accuracies, phase.index)
        self._summaries.flush()
        LOGGER.info(
            "phase %d/%d done: %d classes, %s",
            phase.index,
            self._protocol.num_phases,
            phase.num_seen,
            ", ".join(f"{head} {value:.2%}" for head, value in accuracies.items()),
        )

    def _export(self, state: PhaseState, means: np.ndarray, heads: dict[str, Any]) -> None:
        phase = state.phase
        ids = self._protocol.original_ids(phase.seen_classes)
        export_phase(
            directory=self._directory.export / self._settings.protocol.dataset,
            version=phase.index + 1,
            model=state.model,
            predict=state.model,
            classes=ExportedClasses(tuple(ids), tuple(self._source.class_names[i] for i in ids)),
            normalization=self._pipeline.normalization,
            class_means=means,
            metadata={
                "phase": phase.index,
                "protocol": results.protocol_fingerprint(self._settings, self._protocol),
                "accuracy": {head: values["accuracy"] for head, values in heads.items()},
            },
            warmup_images=state.memory.images[:1],
        )

    def _write_results(self) -> dict[str, Any]:
        records = [read_json(self._directory.record(p.index)) for p in self._protocol.phases]
        contents = {
            "summary": results.summarize(records),
            "protocol": results.protocol_fingerprint(self._settings, self._protocol),
            "class_order": list(self._protocol.order),
            "settings": self._settings.results_settings(),
            "phases": records,
            "packages": hardware.describe_packages(),
            "hardware": hardware.describe_hardware(),
        }
        write_json(self._directory.results, contents)
        return contents


def make_protocol(settings: Settings, num_classes: int) -> ClassIncrementalProtocol:
    """Returns the protocol that settings ask for, with an explicit class order or a seeded one."""
    wanted = settings.protocol
    order = wanted.class_order or class_order(num_classes, wanted.class_order_seed)
    if len(order) != num_classes:
        raise UserError(
            f"--class_order names {len(order)} classes, but {wanted.dataset} has {num_classes}"
        )
    return ClassIncrementalProtocol(order, wanted.base_classes, wanted.num_phases)


def _budget(settings: Settings) -> Budget:
    if settings.exemplar.exemplars_total:
        return Budget(total=settings.exemplar.exemplars_total)
    return Budget(per_class=settings.exemplar.exemplars_per_class)


def _images_and_labels(images: ImageSet, pipeline: Pipeline) -> tuple[np.ndarray, np.ndarray]:
    if images.batched:
        return images.load(tf.range(len(images), dtype=tf.int64)).numpy(), images.labels
    loaded = [images.load(tf.constant(i, tf.int64)).numpy() for i in range(len(images))]
    return np.stack(loaded), images.labels


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    return [
        f"--{name} was {found.get(group, {}).get(name)}, is {value}"
        for group, values in wanted.items()
        for name, value in values.items()
        if found.get(group, {}).get(name) != value
    ]
