"""What phases work with: built and traced once, it serves all phases of a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.bilevel.objectives import OBJECTIVES
from mnemonics_tf.bilevel.objectives.base import Objective
from mnemonics_tf.data.pipeline import Pipeline
from mnemonics_tf.evaluation.evaluator import Evaluator
from mnemonics_tf.exemplars.budget import Budget, make_budget
from mnemonics_tf.exemplars.codecs import make_codec
from mnemonics_tf.exemplars.codecs.base import RelaxedCodec
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.incremental import IncrementalModel
from mnemonics_tf.phases.replicated import Replicated
from mnemonics_tf.phases.temporary_model import TemporaryModel
from mnemonics_tf.phases.through_codec import ThroughCodec
from mnemonics_tf.registry import find
from mnemonics_tf.run import workers
from mnemonics_tf.settings import Settings
from mnemonics_tf.training.loop import TrainingLoop
from mnemonics_tf.training.optimization import OptimizationSettings
from mnemonics_tf.training.step import LossParts

Kept = TypeVar("Kept")


@dataclasses.dataclass(frozen=True)
class Workshop:
    """Loops, evaluators and objectives around a run's models.

    Attributes:
        settings: of the run.
        architecture: of its models.
        pipeline: makes batches.
        strategy: the distribution strategy that everything runs in.
        num_classes: how many share a budget once the run has taught them all.
        kept: what was built, by what it depends on.
    """

    settings: Settings
    architecture: Architecture
    pipeline: Pipeline
    strategy: tf.distribute.Strategy
    num_classes: int
    kept: dict[tuple, Any] = dataclasses.field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of everything but the class order."""
        return self.settings.protocol.seed

    @property
    def exemplar_seed(self) -> int:
        """The seed of exemplar choice and learning."""
        seed = self.settings.exemplar.exemplar_seed
        return self.seed if seed < 0 else seed

    @property
    def budget(self) -> Budget:
        """How much the memory may hold."""
        return make_budget(self.settings.exemplar)

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles training steps and evaluation."""
        return devices.compiles(self.settings.run.jit_compile)

    @property
    def jit_compile_exemplars(self) -> bool:
        """Whether XLA compiles the graphs of exemplar learning."""
        single = self.strategy.num_replicas_in_sync == 1
        return single and devices.compiles(self.settings.run.jit_compile_exemplars)

    def optimization(
        self, epochs: int, learning_rate: float, milestones: tuple[float, ...]
    ) -> OptimizationSettings:
        """Returns how a stage of model-level training goes.

        Args:
            epochs: how many.
            learning_rate: at the start.
            milestones: shares of the epochs after which it is divided.
        """
        training = self.settings.training
        return OptimizationSettings(
            epochs=epochs,
            learning_rate=learning_rate,
            milestones=tuple(max(1, round(share * epochs)) for share in milestones),
            decay=training.learning_rate_decay,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            decay_normalization=training.decay_normalization,
            batch_size=training.batch_size,
        )

    def training_loop(
        self,
        kind: str,
        model: IncrementalModel,
        old_model: IncrementalModel | None,
        loss_parts: LossParts,
        settings: OptimizationSettings,
        plain: bool = False,
    ) -> TrainingLoop:
        """Returns the run's loop of this kind, at the start of a stage.

        Args:
            kind: `train` and the like; loops of one kind have the same loss.
            model: what is trained.
            old_model: the frozen model of the phase before, or None.
            loss_parts: the loss, by part and example.
            settings: of the optimiser.
            plain: in float32 and not compiled, whatever the run's settings.
        """

        def build():
            return TrainingLoop(
                model,
                old_model,
                loss_parts,
                settings,
                self.pipeline,
                self.strategy,
                "off" if plain else self.settings.training.mixed_precision,
                self.jit_compile and not plain,
                kind,
                functools.partial(workers.chiefs_number, self.strategy),
            )

        # What trains differs with weight transfer; a wider classifier is another variable.
        state = (id(old_model), model.classifier.capacity, model.transfer, settings.fixed)
        loop = self._keep(("loop", kind, id(model), *state), build)
        loop.start_stage(settings)
        return loop

    def evaluator(self, model: IncrementalModel, plain: bool = False) -> Evaluator:
        """Returns what runs a model as it stands.

        Args:
            model: which.
            plain: not compiled, whatever the run's settings.
        """
        jit_compile = self.jit_compile and not plain

        def build():
            batch_size = self.settings.training.evaluation_batch_size
            return Evaluator(model, self.pipeline, batch_size, self.strategy, jit_compile)

        key = ("evaluator", id(model), model.classifier.capacity, jit_compile)
        return self._keep(key, build)

    def changed(self, **values: Any) -> "Workshop":
        """Returns a workshop with other settings, by name, and all that was built so far."""
        return dataclasses.replace(self, settings=self.settings.changed(**values))

    def copy_of(self, model: IncrementalModel, purpose: str) -> IncrementalModel:
        """Returns a model of its own variables, with the values of `model`'s.

        Args:
            model: which.
            purpose: what the copy is for; for each there is one.
        """
        classes = model.classifier

        def build():
            with self.strategy.scope():
                return IncrementalModel(
                    self.architecture,
                    classes.num_old,
                    classes.num_new,
                    self.exemplar_seed,
                    classes.capacity,
                )

        copy = self._keep(("copy", purpose, id(model), classes.capacity), build)
        copy.copy_from(model)
        return copy

    def objective(self, model: IncrementalModel) -> Objective:
        """Returns what exemplars that learn for `model` are measured by.

        Args:
            model: Theta_i, or a copy.
        """
        inner, outer = self.settings.inner, self.settings.outer
        seed, normalization = self.exemplar_seed, self.pipeline.normalization
        name, jit_compile = outer.objective, self.jit_compile_exemplars
        stored = self.settings.exemplar
        codec = make_codec(stored.codec, stored.jpeg_quality)

        def build():
            with self.strategy.scope():
                network = TemporaryModel(
                    model, inner, self.pipeline.augmentation, normalization.black, seed
                )
                objective: Objective = find(OBJECTIVES, name, "objective")(
                    network, inner, outer, seed, jit_compile
                )
            if self.strategy.num_replicas_in_sync > 1:
                objective = Replicated(objective, self.strategy)
            if isinstance(codec, RelaxedCodec):
                objective = ThroughCodec(objective, codec.relaxed, normalization)
            return objective

        state = (id(model), model.classifier.capacity, model.transfer)
        key = (
            "objective",
            *state,
            inner,
            outer,
            stored.codec,
            stored.jpeg_quality,
            seed,
            jit_compile,
        )
        return self._keep(key, build)

    def valid_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns smallest and largest valid value of each channel of normalised pixels, `[c]`."""
        return self.pipeline.normalization.black, self.pipeline.normalization.white

    def _keep(self, key: tuple, build: Callable[[], Kept]) -> Kept:
        if key not in self.kept:
            self.kept[key] = build()
        return self.kept[key]
