"""Everything a run can be told: frozen settings and their validation.

Each field below is one flag of the same name, which `settings_flags` makes; its metadata holds the
flag's help text.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any

from mnemonics_tf.errors import UserError

_MAX_NUMBER = 2**31 - 1
_MAX_DEPTH = 1202  # the deepest network that the paper of ResNets trains


def _setting(default: Any, description: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": description})


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where and how to run; nothing here changes what a run computes, but for rounding."""

    run_dir: str = _setting("runs/demo", "Directory of the run; an unfinished run goes on.")
    data_dir: str = _setting("", "Directory (or archive) that holds the data.")
    download: bool = _setting(False, "Allow downloading the data where it is not found.")
    phase0_from: str = _setting(
        "",
        "Run directory whose phase-0 model is used instead of training one; refused unless "
        "everything that touches phase 0 is the same.",
    )
    last_phase: int = _setting(
        -1, "Phase after which to stop; the run goes on later without the flag. -1: the last one."
    )
    strategy: str = _setting(
        "auto",
        "Devices: one; all GPUs of this machine; all GPUs of the machines in TF_CONFIG; or the "
        "one of these that uses all there is.",
    )
    jit_compile: str = _setting(
        "auto",
        "Compile training steps (on one device) and evaluation with XLA; auto: where there are "
        "GPUs.",
    )
    jit_compile_exemplars: str = _setting(
        "off",
        "Likewise for the inner loop of exemplar learning, on one device; for wide inner scopes.",
    )
    checkpoint_minutes: float = _setting(
        5.0, "Minutes between checkpoints within a stage; stages also end with one."
    )
    checkpoint_epochs: int = _setting(
        0, "Epochs of model-level training between checkpoints, beside the minutes; 0: time alone."
    )
    checkpoint_outer_steps: int = _setting(
        0, "Outer steps of exemplar learning between checkpoints, likewise; 0: time alone."
    )


@dataclasses.dataclass(frozen=True)
class ProtocolSettings:
    """What is learned when."""

    dataset: str = _setting(
        "digits",
        "Data source: cifar100, digits, folder, imagenet, imagenet_subset, npz, or tfds:NAME.",
    )
    base_classes: int = _setting(5, "Number of classes in phase 0.")
    num_phases: int = _setting(5, "N: number of incremental phases after phase 0.")
    class_order_seed: int = _setting(1993, "Seed of NumPy's shuffle of the class ids.")
    class_order: tuple[int, ...] = _setting(
        (), "Explicit class order: comma-separated original ids; overrides the seed."
    )
    phase_classes: str = _setting(
        "",
        "File that names the classes of every phase: a line a phase, names separated by commas "
        '(one with a comma in double quotes); or the phases themselves, [["cat","dog"],["owl"]]. '
        "Overrides base_classes, num_phases and the class order.",
    )
    seed: int = _setting(
        0, "Seed of initialisation, shuffling, augmentation and exemplar choice (not class order)."
    )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """How sources of images of any size (folder, imagenet, tfds:NAME) read them."""

    image_size: int = _setting(
        0, "Height and width that images are brought to; 0 is the source's own choice, 224."
    )
    skip_broken: bool = _setting(False, "Leave broken images out, instead of stopping.")
    test_share: float = _setting(
        0.2, "Share of each class that becomes the test part of a folder without a split."
    )
    split_seed: int = _setting(1993, "Seed of that split.")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network."""

    backbone: str = _setting("resnet_cifar", "Backbone.")
    depth: int = _setting(
        8,
        "Number of layers: 6n + 2 for resnet_cifar (the paper's CIFAR-100: 32); 10, 18 or 34 for "
        "resnet_imagenet (the paper's ImageNet: 18).",
    )
    weight_transfer: bool = _setting(
        False, "From phase 1 on freeze the kernels and train scales and shifts instead."
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Model-level training (Eq. 5, 6) and the balanced fine-tune (Algorithm 1, line 18)."""

    method: str = _setting("lwf", "How the model learns beside its exemplars.")
    classification_weight: float = _setting(
        0.5, "lambda of Eq. 5: weight of the classification loss; distillation has 1 - lambda."
    )
    temperature: float = _setting(2.0, "tau of Eq. 1b: softmax temperature of distillation.")
    less_forget_weight: float = _setting(
        5.0, "LUCIR's lambda_base: 5 for CIFAR-100, 10 for ImageNet."
    )
    ranking_margin: float = _setting(0.5, "LUCIR's margin m, in cosines.")
    ranking_classes: int = _setting(2, "LUCIR's K: new classes an old image is ranked against.")
    correction_share: float = _setting(
        0.1, "Share of each class's exemplars that BiC holds out to fit its correction."
    )
    base_epochs: int = _setting(15, "Epochs in phase 0.")
    epochs: int = _setting(10, "Epochs in each later phase.")
    batch_size: int = _setting(64, "Images in a training batch, over all devices.")
    learning_rate: float = _setting(0.1, "alpha_1 of Eq. 6 at the start of every phase.")
    learning_rate_milestones: tuple[float, ...] = _setting(
        (0.5, 0.75), "Shares of a phase's epochs after which the learning rate is divided."
    )
    learning_rate_decay: float = _setting(0.1, "Factor on the learning rate at each milestone.")
    momentum: float = _setting(0.9, "Momentum of SGD.")
    weight_decay: float = _setting(5e-4, "L2 factor, added to gradients before momentum.")
    decay_normalization: bool = _setting(
        False, "Whether L2 also acts on batch normalisation's scale and offset."
    )
    finetune_epochs: int = _setting(
        10, "Epochs of the balanced fine-tune on exemplars only; 0 leaves it out."
    )
    finetune_learning_rate: float = _setting(0.01, "Learning rate of the balanced fine-tune.")
    finetune_base_phase: bool = _setting(
        False,
        "Fine-tune in phase 0 too, as Algorithm 1 is printed; its data is balanced as it is.",
    )
    mixed_precision: str = _setting(
        "off", "Type of the activations in model-level training; weights and the rest are float32."
    )
    evaluation_batch_size: int = _setting(500, "Images in an evaluation batch, over all devices.")


@dataclasses.dataclass(frozen=True)
class ExemplarSettings:
    """The exemplar memory."""

    exemplars: str = _setting("herding", "How exemplars are made.")
    exemplar_seed: int = _setting(
        -1, "Seed of exemplar choice and learning alone; -1 takes the run's seed."
    )
    exemplars_per_class: int = _setting(
        20, "Budget (1): exemplars kept for every class; not used when exemplars_total is set."
    )
    exemplars_total: int = _setting(
        0, "Budget (2): exemplars kept in all, shared by the seen classes; 0 means budget (1)."
    )


@dataclasses.dataclass(frozen=True)
class MnemonicsSettings:
    """Exemplar-level learning (Eq. 7-10)."""

    mnemonics_start: str = _setting("herding", "Selection that learned exemplars start from.")
    inner_scope: str = _setting("classifier", "What the inner loop of exemplar learning trains.")
    inner_start: str = _setting(
        "fresh_head",
        "Where the inner loop begins: Theta_i, Theta_i with a new random classifier for every "
        "outer step, or drifted copies of Theta_i in turn, with new classifiers too.",
    )
    pool_size: int = _setting(4, "Models in the pool, Theta_i among them; for inner_start=pool.")
    inner_steps: int = _setting(100, "T: SGD steps of the temporary model (Eq. 8).")
    inner_learning_rate: float = _setting(0.1, "alpha_2 of Eq. 8.")
    inner_momentum: float = _setting(0.9, "Momentum of the inner SGD.")
    inner_batch_size: int = _setting(
        0, "Exemplars in an inner batch, class-balanced; 0 takes all of the outer step's."
    )
    inner_batch_statistics: bool = _setting(
        False, "Normalise by exact batch statistics in the inner loop; otherwise frozen ones."
    )
    inner_augmentation: bool = _setting(True, "Augment exemplars in the inner loop as in training.")
    meta_gradient: str = _setting("sweep", "Estimator of the meta-gradient.")
    truncated_steps: int = _setting(5, "Inner steps that the estimator 'truncated' goes back.")
    exemplars_per_step: int = _setting(
        1000, "Exemplars that train the temporary model of one outer step; 0 takes all."
    )
    outer_batch_size: int = _setting(5000, "Images the temporary model is measured on.")
    outer_steps: int = _setting(40, "Outer steps that train new exemplars in a phase (Eq. 9).")
    outer_optimizer: str = _setting(
        "adam", "Optimiser of the pixels; the paper's SGD at 0.01 moves no pixel visibly."
    )
    outer_learning_rate: float = _setting(
        0.02, "beta_1 of Eq. 9, in units of the normalised pixels."
    )
    outer_momentum: float = _setting(0.9, "Momentum of the outer optimiser 'sgd'.")
    gradient_scale: float = _setting(
        1.0, "Factor on the meta-gradient of the pixels; decides with 'sgd', cancels with 'adam'."
    )
    outer_halvings: int = _setting(4, "How often the outer learning rate is halved, evenly.")
    train_beside_old: bool = _setting(
        False, "Old exemplars stand beside the new ones while these learn (Problem 4b)."
    )
    validation_share: float = _setting(
        0.1, "Share of a new class's training images held out to choose the best exemplars by."
    )
    validation_every: int = _setting(20, "Outer steps between two validations.")
    patience: int = _setting(
        0, "Validations without a better score after which learning stops; 0 means never."
    )
    adjust_old_exemplars: bool = _setting(False, "Adjust old exemplars in every phase (Eq. 10).")
    adjust_subsets: int = _setting(2, "Subsets that old exemplars are split into (A and B: 2).")
    adjust_steps: int = _setting(50, "Outer steps of the adjustment in a phase.")
    adjust_learning_rate: float = _setting(0.005, "beta_2 of Eq. 10.")
    skip_adjustment_if_too_few: bool = _setting(
        False, "Leave adjustment out, instead of stopping, where a class has too few exemplars."
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run, in groups."""

    run: RunSettings = RunSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    exemplar: ExemplarSettings = ExemplarSettings()
    mnemonics: MnemonicsSettings = MnemonicsSettings()
    data: DataSettings = DataSettings()

    def __post_init__(self):
        _validate(self)

    def results_settings(self) -> dict[str, dict[str, Any]]:
        """Returns what decides a run's results, as JSON values: all but the `run` group."""
        groups = dataclasses.asdict(self)
        del groups["run"]
        return {
            group: {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
            for group, values in groups.items()
        }

    def chosen(self) -> dict[str, Any]:
        """Returns those of `results_settings` that are not at their defaults, by name."""
        defaults = Settings().results_settings()
        return {
            name: value
            for group, values in self.results_settings().items()
            for name, value in values.items()
            if value != defaults[group][name]
        }

    @classmethod
    def from_results_settings(
        cls, values: dict[str, dict[str, Any]], run: RunSettings
    ) -> "Settings":
        """Returns the settings that `results_settings` described, with a `run` group of its own.

        Raises:
            UserError: if the values are not those of this version's settings.
        """
        groups = {group.name: group.type for group in dataclasses.fields(cls)}
        try:
            return cls(
                run=run,
                **{
                    group: groups[group](
                        **{
                            name: tuple(v) if isinstance(v, list) else v
                            for name, v in named.items()
                        }
                    )
                    for group, named in values.items()
                },
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"settings.json of {run.run_dir} is not one that this version wrote ({error})"
            ) from error

    def flag_lines(self) -> str:
        """Returns the settings as the lines of a flagfile."""
        lines = []
        for _, field, value in all_fields(self):
            if isinstance(value, bool):
                lines.append(f"--{'' if value else 'no'}{field.name}")
            else:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                lines.append(f"--{field.name}={text}")
        return "\n".join(lines) + "\n"


def all_fields(settings: Settings) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    """Yields group name, field and value of every setting."""
    for group in dataclasses.fields(settings):
        values = getattr(settings, group.name)
        for field in dataclasses.fields(values):
            yield group.name, field, getattr(values, field.name)


def _check_kinds(settings: Settings) -> None:
    """Refuses values of another type than the setting's, and numbers no run can work with."""
    hints = {
        group.name: typing.get_type_hints(group.type) for group in dataclasses.fields(settings)
    }
    for group, field, value in all_fields(settings):
        kind = hints[group][field.name]
        is_list = isinstance(kind, types.GenericAlias)
        item_kind = typing.get_args(kind)[0] if is_list else kind
        items = value if is_list and isinstance(value, tuple) else (value,)
        accepted = (int, float) if item_kind is float else (item_kind,)
        if isinstance(value, tuple) != is_list or not all(type(v) in accepted for v in items):
            expected = f"{item_kind.__name__} values" if is_list else item_kind.__name__
            raise UserError(f"--{field.name}={str(value)[:100]}: expected {expected}")
        numbers = [item for item in items if type(item) in (int, float)]
        limited = field.name != "checkpoint_minutes"  # where infinity means never
        if limited and not all(abs(number) <= _MAX_NUMBER for number in numbers):
            raise UserError(
                f"--{field.name}={str(value)[:100]}: pass finite numbers up to {_MAX_NUMBER}"
            )


def _check_lower_bounds(settings: Settings) -> None:
    """Refuses numbers below the least that makes sense."""
    protocol, training, mnemonics = settings.protocol, settings.training, settings.mnemonics
    at_least = {
        "base_classes": (protocol.base_classes, 1),
        "num_phases": (protocol.num_phases, 0),
        "class_order_seed": (protocol.class_order_seed, 0),
        "seed": (protocol.seed, 0),
        "image_size": (settings.data.image_size, 0),
        "split_seed": (settings.data.split_seed, 0),
        "less_forget_weight": (training.less_forget_weight, 0),
        "ranking_margin": (training.ranking_margin, 0),
        "ranking_classes": (training.ranking_classes, 1),
        "base_epochs": (training.base_epochs, 1),
        "epochs": (training.epochs, 1),
        "batch_size": (training.batch_size, 1),
        "finetune_epochs": (training.finetune_epochs, 0),
        "evaluation_batch_size": (training.evaluation_batch_size, 1),
        "weight_decay": (training.weight_decay, 0),
        "exemplars_per_class": (settings.exemplar.exemplars_per_class, 1),
        "exemplars_total": (settings.exemplar.exemplars_total, 0),
        "pool_size": (mnemonics.pool_size, 2),
        "inner_steps": (mnemonics.inner_steps, 1),
        "inner_batch_size": (mnemonics.inner_batch_size, 0),
        "truncated_steps": (mnemonics.truncated_steps, 1),
        "exemplars_per_step": (mnemonics.exemplars_per_step, 0),
        "outer_batch_size": (mnemonics.outer_batch_size, 1),
        "outer_steps": (mnemonics.outer_steps, 1),
        "outer_halvings": (mnemonics.outer_halvings, 0),
        "validation_every": (mnemonics.validation_every, 1),
        "patience": (mnemonics.patience, 0),
        "adjust_subsets": (mnemonics.adjust_subsets, 2),
        "adjust_steps": (mnemonics.adjust_steps, 1),
        "checkpoint_minutes": (settings.run.checkpoint_minutes, 0),
        "checkpoint_epochs": (settings.run.checkpoint_epochs, 0),
        "checkpoint_outer_steps": (settings.run.checkpoint_outer_steps, 0),
    }
    for name, (value, least) in at_least.items():
        if not value >= least:  # so that NaN fails too
            raise UserError(f"--{name}={value}: pass a number from {least} up")
    above_zero = {
        training: ("learning_rate", "finetune_learning_rate", "temperature", "learning_rate_decay"),
        mnemonics: (
            *("inner_learning_rate", "outer_learning_rate", "gradient_scale"),
            "adjust_learning_rate",
        ),
    }
    for group, names in above_zero.items():
        for name in names:
            if not getattr(group, name) > 0:
                raise UserError(f"--{name}={getattr(group, name)}: pass a number above 0")


def _check_shares(settings: Settings) -> None:
    """Refuses shares and weights outside 0 to 1."""
    training, mnemonics = settings.training, settings.mnemonics
    shares = {
        training: ("classification_weight", "momentum", "correction_share"),
        mnemonics: ("inner_momentum", "outer_momentum", "validation_share"),
    }
    for group, names in shares.items():
        for name in names:
            if not 0 <= getattr(group, name) <= 1:
                raise UserError(f"--{name}={getattr(group, name)}: pass a number from 0 to 1")
    if not 0 < settings.data.test_share < 1:
        raise UserError(
            f"--test_share={settings.data.test_share}: pass a number between 0 and 1, e.g. 0.2"
        )
    milestones = training.learning_rate_milestones
    if list(milestones) != sorted(milestones) or not all(0 < share < 1 for share in milestones):
        raise UserError(
            f"--learning_rate_milestones={','.join(map(str, milestones))}: pass ascending shares "
            "of the epochs between 0 and 1, e.g. 0.5,0.75"
        )


def _validate(settings: Settings) -> None:
    _check_kinds(settings)
    _check_lower_bounds(settings)
    if settings.model.depth > _MAX_DEPTH:
        raise UserError(f"--depth={settings.model.depth}: pass a number up to {_MAX_DEPTH}")
    _check_shares(settings)
