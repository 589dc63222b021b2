"""Everything a run can be told: frozen settings, the flags made from them, their validation.

Each field below is one flag of the same name; its metadata holds the flag's help text. Entry points define
the flags, parse them once and pass `Settings` on; nothing else reads a flag.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from mnemonics_tf.errors import UserError


def _setting(default: Any, description: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": description})


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where and how to run; nothing here changes what a run computes."""

    run_dir: str = _setting("runs/demo", "Directory of the run; an unfinished run goes on.")
    data_dir: str = _setting("", "Directory (or archive) that holds the data.")
    download: bool = _setting(False, "Allow downloading the data where it is not found.")
    phase0_from: str = _setting(
        "",
        "Run directory whose phase-0 model is used instead of training one; refused unless everything "
        "that touches phase 0 is the same.",
    )
    checkpoint_minutes: float = _setting(
        5.0, "Minutes between checkpoints within a stage; stages also end with one."
    )


@dataclasses.dataclass(frozen=True)
class ProtocolSettings:
    """What is learned when."""

    dataset: str = _setting("digits", "Data source.")
    base_classes: int = _setting(5, "Number of classes in phase 0.")
    num_phases: int = _setting(5, "N: number of incremental phases after phase 0.")
    class_order_seed: int = _setting(1993, "Seed of NumPy's shuffle of the class ids.")
    class_order: tuple[int, ...] = _setting(
        (), "Explicit class order: comma-separated original ids; overrides the seed."
    )
    seed: int = _setting(
        0, "Seed of initialisation, shuffling, augmentation and exemplar choice (not class order)."
    )


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network."""

    backbone: str = _setting("resnet_cifar", "Backbone.")
    depth: int = _setting(
        8, "Number of layers: 6n + 2 for resnet_cifar; the paper's CIFAR-100 has 32."
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
    evaluation_batch_size: int = _setting(500, "Images in an evaluation batch, over all devices.")


@dataclasses.dataclass(frozen=True)
class ExemplarSettings:
    """The exemplar memory."""

    exemplars: str = _setting("herding", "How exemplars are made.")
    exemplars_per_class: int = _setting(
        20, "Budget (1): exemplars kept for every class; not used when exemplars_total is set."
    )
    exemplars_total: int = _setting(
        0, "Budget (2): exemplars kept in all, shared by the seen classes; 0 means budget (1)."
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run, in groups."""

    run: RunSettings = RunSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    exemplar: ExemplarSettings = ExemplarSettings()

    def __post_init__(self):
        _validate(self)

    def results_settings(self) -> dict[str, dict[str, Any]]:
        """Returns what decides a run's results: everything but the `run` group, as plain JSON values."""
        groups = dataclasses.asdict(self)
        del groups["run"]
        return {
            group: {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
            for group, values in groups.items()
        }

    def flag_lines(self) -> str:
        """Returns the settings as the lines of a flagfile."""
        lines = []
        for _, field, value in _fields(self):
            if isinstance(value, bool):
                lines.append(f"--{'' if value else 'no'}{field.name}")
            else:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                lines.append(f"--{field.name}={text}")
        return "\n".join(lines) + "\n"


def _fields(settings: Settings) -> Iterator[tuple[str, dataclasses.Field, Any]]:
    for group in dataclasses.fields(settings):
        values = getattr(settings, group.name)
        for field in dataclasses.fields(values):
            yield group.name, field, getattr(values, field.name)


def define_flags(choices: Mapping[str, Sequence[str]]) -> None:
    """Defines one absl flag for every setting.

    Args:
        choices: for settings that name something from a registry: the names there are.
    """
    for _, field, default in _fields(Settings()):
        description = field.metadata["help"]
        if field.name in choices:
            flags.DEFINE_enum(field.name, default, list(choices[field.name]), description)
        elif isinstance(default, tuple):
            flags.DEFINE_list(field.name, [str(item) for item in default], description)
        elif isinstance(default, bool):
            flags.DEFINE_boolean(field.name, default, description)
        elif isinstance(default, int):
            flags.DEFINE_integer(field.name, default, description)
        elif isinstance(default, float):
            flags.DEFINE_float(field.name, default, description)
        else:
            flags.DEFINE_string(field.name, default, description)


def settings_from_flags(values: flags.FlagValues) -> Settings:
    """Returns the settings that parsed flags stand for.

    Raises:
        UserError: if a value is out of its range or a list has an item of the wrong kind.
    """
    groups = {}
    for group in dataclasses.fields(Settings):
        kinds = typing.get_type_hints(group.type)
        groups[group.name] = group.type(
            **{name: _converted(name, kind, values[name].value) for name, kind in kinds.items()}
        )
    return Settings(**groups)


def _converted(name: str, kind: Any, value: Any) -> Any:
    if not isinstance(kind, types.GenericAlias):
        return value
    item_kind = typing.get_args(kind)[0]
    try:
        return tuple(item_kind(item) for item in value)
    except ValueError as error:
        raise UserError(
            f"--{name}={','.join(value)}: expected {item_kind.__name__} values separated by commas"
        ) from error


def _validate(settings: Settings) -> None:
    protocol, training = settings.protocol, settings.training
    at_least = {
        "base_classes": (protocol.base_classes, 1),
        "num_phases": (protocol.num_phases, 0),
        "class_order_seed": (protocol.class_order_seed, 0),
        "seed": (protocol.seed, 0),
        "base_epochs": (training.base_epochs, 1),
        "epochs": (training.epochs, 1),
        "batch_size": (training.batch_size, 1),
        "finetune_epochs": (training.finetune_epochs, 0),
        "evaluation_batch_size": (training.evaluation_batch_size, 1),
        "weight_decay": (training.weight_decay, 0),
        "exemplars_per_class": (settings.exemplar.exemplars_per_class, 1),
        "exemplars_total": (settings.exemplar.exemplars_total, 0),
        "checkpoint_minutes": (settings.run.checkpoint_minutes, 0),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"--{name}={value}: pass a number from {least} up")
    for name in ("learning_rate", "finetune_learning_rate", "temperature", "learning_rate_decay"):
        if getattr(training, name) <= 0:
            raise UserError(f"--{name}={getattr(training, name)}: pass a number above 0")
    for name in ("classification_weight", "momentum"):
        if not 0 <= getattr(training, name) <= 1:
            raise UserError(f"--{name}={getattr(training, name)}: pass a number from 0 to 1")
    milestones = training.learning_rate_milestones
    if list(milestones) != sorted(milestones) or not all(0 < share < 1 for share in milestones):
        raise UserError(
            f"--learning_rate_milestones={','.join(map(str, milestones))}: pass ascending shares of the "
            "epochs between 0 and 1, e.g. 0.5,0.75"
        )
