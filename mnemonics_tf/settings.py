"""Everything a run can be told: frozen settings and their validation.

Each field below is one flag of the same name, which `flags` makes. What a value may be stands
beside it (`fields.Facts`), and nowhere else.
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mnemonics_tf.errors import UserError
from mnemonics_tf.fields import check, setting

#: before the name of a data set that TensorFlow Datasets knows, in --dataset
TFDS_PREFIX = "tfds:"

#: before the name of a model that comes with Keras, and behind that of a file, in --backbone
KERAS_APPLICATIONS = "keras.applications:"
KERAS_FILE = ".keras"

#: of an image: what PNG files and TensorFlow's pictures hold
MOST_CHANNELS = 4

_MAX_DEPTH = 1202  # the deepest network that the paper of ResNets trains


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Where and how to run.

    Nothing here changes what a run computes, but for rounding, the weights that it begins with
    (`phase0_from`, `backbone_weights`) and where it ends (`last_phase`).
    """

    run_dir: str = setting(
        "",
        "Directory of the run; an unfinished run goes on. Empty: one under runs/ that is named by "
        "what is run, so that the same flags go on and others begin anew.",
    )
    data_dir: str = setting("", "Directory (or archive) that holds the data.")
    download: bool = setting(False, "Allow downloading the data where it is not found.")
    phase0_from: str = setting(
        "",
        "Run directory whose phase-0 model is used instead of training one, whatever its seed; "
        "refused unless everything else that touches phase 0 is the same.",
    )
    model_name: str = setting(
        "",
        "Name under which the run's models are exported and served: letters, digits, _, - and .; "
        "empty: the one that it has, at first the data set's.",
    )
    backbone_weights: str = setting(
        "",
        "File of weights (.weights.h5, .h5, .keras) that a backbone of your own begins with; the "
        "run keeps them.",
    )
    last_phase: int = setting(
        -1,
        "Phase after which to stop; the run goes on later without the flag. -1: the last one.",
        at_least=-1,
    )
    strategy: str = setting(
        "auto",
        "Devices: one; all GPUs of this machine; all GPUs of the machines in TF_CONFIG; or "
        "the one of these that uses all there is.",
        choices=("auto", "single", "mirrored", "multi_worker"),
    )
    jit_compile: str = setting(
        "auto",
        "Compile training steps (on one device) and evaluation with XLA; auto: where there "
        "are GPUs.",
        choices=("auto", "on", "off"),
    )
    jit_compile_exemplars: str = setting(
        "off",
        "Likewise for the inner loop of exemplar learning, on one device; for wide inner scopes.",
        choices=("auto", "on", "off"),
    )
    checkpoint_minutes: float = setting(
        5.0,
        "Minutes between checkpoints within a stage; stages also end with one.",
        at_least=0,
        finite=False,
    )
    checkpoint_epochs: int = setting(
        0,
        "Epochs of model-level training between checkpoints, beside the minutes; 0: time alone.",
        at_least=0,
    )
    checkpoint_outer_steps: int = setting(
        0,
        "Outer steps of exemplar learning between checkpoints, likewise; 0: time alone.",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class ProtocolSettings:
    """What is learned when."""

    dataset: str = setting(
        "digits",
        "Data source; tfds:NAME is a set of TensorFlow Datasets.",
        registry="mnemonics_tf.data.sources:SOURCES",
        prefix=TFDS_PREFIX,
    )
    base_classes: int = setting(5, "Number of classes in phase 0.", at_least=1)
    num_phases: int = setting(5, "N: number of incremental phases after phase 0.", at_least=0)
    class_order_seed: int = setting(1993, "Seed of NumPy's shuffle of the class ids.", at_least=0)
    class_order: tuple[int, ...] = setting(
        (), "Explicit class order: comma-separated original ids; overrides the seed."
    )
    phase_classes: str = setting(
        "",
        "File that names the classes of every phase: a line a phase, names separated by "
        "commas (one with a comma in double quotes); or the phases themselves, "
        '[["cat","dog"],["owl"]]. Overrides base_classes, num_phases and the class order.',
    )
    seed: int = setting(
        0,
        "Seed of initialisation, shuffling, augmentation and exemplar choice (not class order).",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """How sources of images of any size (folder, imagenet, tfds:NAME) read them."""

    image_size: int = setting(
        0,
        "Height and width that images are brought to; 0 is the source's own choice, 224.",
        at_least=0,
    )
    skip_broken: bool = setting(False, "Leave broken images out, instead of stopping.")
    test_share: float = setting(
        0.2,
        "Share of each class that becomes the test part of a folder without a split.",
        above=0,
        below=1,
    )
    split_seed: int = setting(1993, "Seed of that split.", at_least=0)


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The network."""

    backbone: str = setting(
        "resnet_cifar",
        "Backbone; keras.applications:NAME is a model of Keras, PATH.keras a file that it saved.",
        registry="mnemonics_tf.models.resnet:BACKBONES",
        prefix=KERAS_APPLICATIONS,
        suffix=KERAS_FILE,
    )
    backbone_input: str = setting(
        "normalized",
        "What a backbone of your own eats: images normalised by the data's mean and deviation, "
        "or pixels of a range.",
        choices=("normalized", "0..255", "-1..1"),
    )
    depth: int = setting(
        8,
        "Number of layers: 6n + 2 for resnet_cifar (the paper's CIFAR-100: 32); 10, 18 or 34 "
        "for resnet_imagenet (the paper's ImageNet: 18).",
        at_least=1,
        at_most=_MAX_DEPTH,
    )
    weight_transfer: bool = setting(
        False, "From phase 1 on freeze the kernels and train scales and shifts instead."
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """Model-level training (Eq. 5, 6) and the balanced fine-tune (Algorithm 1, line 18)."""

    method: str = setting(
        "lwf", "How the model learns beside its exemplars.", registry="mnemonics_tf.methods:METHODS"
    )
    classification_weight: float = setting(
        0.5,
        "lambda of Eq. 5: weight of the classification loss; distillation has 1 - lambda.",
        at_least=0,
        at_most=1,
    )
    temperature: float = setting(
        2.0, "tau of Eq. 1b: softmax temperature of distillation.", above=0
    )
    less_forget_weight: float = setting(
        5.0, "LUCIR's lambda_base: 5 for CIFAR-100, 10 for ImageNet.", at_least=0
    )
    ranking_margin: float = setting(0.5, "LUCIR's margin m, in cosines.", at_least=0)
    ranking_classes: int = setting(
        2, "LUCIR's K: new classes an old image is ranked against.", at_least=1
    )
    correction_share: float = setting(
        0.1,
        "Share of each class's exemplars that BiC holds out to fit its correction.",
        at_least=0,
        at_most=1,
    )
    replay_per_class: int = setting(
        0,
        "Exemplars of each class that an epoch sees at most, drawn anew in every epoch; 0: all. So "
        "runs whose classes hold different numbers take the same time.",
        at_least=0,
    )
    base_epochs: int = setting(15, "Epochs in phase 0.", at_least=1)
    epochs: int = setting(10, "Epochs in each later phase.", at_least=1)
    batch_size: int = setting(64, "Images in a training batch, over all devices.", at_least=1)
    learning_rate: float = setting(0.1, "alpha_1 of Eq. 6 at the start of every phase.", above=0)
    learning_rate_milestones: tuple[float, ...] = setting(
        (0.5, 0.75),
        "Shares of a phase's epochs after which the learning rate is divided.",
        above=0,
        below=1,
        ascending=True,
    )
    learning_rate_decay: float = setting(
        0.1, "Factor on the learning rate at each milestone.", above=0
    )
    momentum: float = setting(0.9, "Momentum of SGD.", at_least=0, at_most=1)
    weight_decay: float = setting(
        0.0005, "L2 factor, added to gradients before momentum.", at_least=0
    )
    decay_normalization: bool = setting(
        False, "Whether L2 also acts on batch normalisation's scale and offset."
    )
    finetune_epochs: int = setting(
        10, "Epochs of the balanced fine-tune on exemplars only; 0 leaves it out.", at_least=0
    )
    finetune_learning_rate: float = setting(
        0.01, "Learning rate of the balanced fine-tune.", above=0
    )
    finetune_old_classes: bool = setting(
        True,
        "LUCIR: whether the fine-tune also trains the classifier's weights of old classes, which "
        "stay frozen while new classes are learned.",
    )
    finetune_base_phase: bool = setting(
        False, "Fine-tune in phase 0 too, as Algorithm 1 is printed; its data is balanced as it is."
    )
    mixed_precision: str = setting(
        "off",
        "Type of the activations in model-level training; weights and the rest are float32.",
        choices=("off", "bfloat16", "float16"),
    )
    evaluation_batch_size: int = setting(
        500, "Images in an evaluation batch, over all devices.", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class ExemplarSettings:
    """The exemplar memory."""

    exemplars: str = setting(
        "herding",
        "How exemplars are made.",
        choices=("mnemonics",),
        registry="mnemonics_tf.exemplars.selection:SELECTIONS",
    )
    mnemonics_start: str = setting(
        "herding",
        "Selection that learned exemplars start from.",
        registry="mnemonics_tf.exemplars.selection:SELECTIONS",
    )
    codec: str = setting(
        "pixels",
        "What exemplars are stored as: plain pixels, one lossless WebP picture a class, or JPEG.",
        registry="mnemonics_tf.exemplars.codecs:CODECS",
    )
    jpeg_quality: int = setting(
        90,
        "Quality of --codec=jpeg: the smaller, the more exemplars fit into a budget in bytes.",
        at_least=1,
        at_most=100,
    )
    coded_share: float = setting(
        -1.0,
        "Share of a phase's new training images that go through the codec before they train the "
        "model, from phase 1 on; -1: half for a codec that loses something, else none.",
        at_least=-1,
        at_most=1,
    )
    exemplar_seed: int = setting(
        -1, "Seed of exemplar choice and learning alone; -1 takes the run's seed.", at_least=-1
    )
    exemplars_per_class: int = setting(
        20,
        "Budget (1): exemplars kept for every class; not used when another budget is set.",
        at_least=1,
    )
    exemplars_total: int = setting(
        0,
        "Budget (2): exemplars kept in all, shared by the seen classes; 0 means budget (1).",
        at_least=0,
    )
    exemplar_bytes_per_class: int = setting(
        0,
        "Budget (1) in bytes of what the codec stores of a class, tables and headers too; 0: none. "
        "Refused beside numbers of exemplars other than the default.",
        at_least=0,
    )
    exemplar_bytes_total: int = setting(
        0,
        "Budget (2) in bytes, likewise: of all that is stored, shared by the seen classes.",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class InnerSettings:
    """The base level of exemplar learning: SGD of a temporary model on exemplars (Eq. 8)."""

    inner_scope: str = setting(
        "classifier",
        "What the inner loop of exemplar learning trains.",
        choices=("all", "transfer", "classifier"),
    )
    inner_start: str = setting(
        "fresh_head",
        "Where the inner loop begins: Theta_i, Theta_i with a new random classifier for every outer"
        " step, or Theta_i and drifted copies in turn, with new classifiers too (old exemplars are"
        " adjusted to Theta_i alone).",
        choices=("model", "fresh_head", "pool"),
    )
    pool_size: int = setting(
        4, "Models in the pool, Theta_i among them; for inner_start=pool.", at_least=2
    )
    inner_steps: int = setting(100, "T: SGD steps of the temporary model (Eq. 8).", at_least=1)
    inner_learning_rate: float = setting(0.1, "alpha_2 of Eq. 8.", above=0)
    inner_momentum: float = setting(0.9, "Momentum of the inner SGD.", at_least=0, at_most=1)
    inner_batch_size: int = setting(
        0,
        "Exemplars in an inner batch, class-balanced; 0 takes all of the outer step's.",
        at_least=0,
    )
    inner_batch_statistics: bool = setting(
        False,
        "Normalise by exact batch statistics in the inner loop; otherwise frozen ones. Dropout then"
        " drops too, by one mask for all steps of a stage. Nothing in the scope 'classifier'.",
    )
    inner_augmentation: bool = setting(
        True,
        "Augment exemplars in the inner loop as in training; in the scope 'classifier' once for all"
        " inner steps of an outer step.",
    )
    meta_gradient: str = setting(
        "sweep", "Estimator of the meta-gradient.", registry="mnemonics_tf.bilevel:ESTIMATORS"
    )
    truncated_steps: int = setting(
        5, "Inner steps that the estimator 'truncated' goes back.", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class OuterSettings:
    """The meta level: what moves the exemplars of new classes (Eq. 9), and how."""

    objective: str = setting(
        "unrolled_training",
        "What exemplars that learn are measured by: the model that SGD makes of them (Eq. 7); the "
        "accuracy of their class means, much as the authors released it; or the features and "
        "class probabilities of the images they began as, which a codec changes.",
        registry="mnemonics_tf.bilevel.objectives:OBJECTIVES",
    )
    exemplars_per_step: int = setting(
        1000, "Exemplars that train the temporary model of one outer step; 0 takes all.", at_least=0
    )
    outer_batch_size: int = setting(5000, "Images the temporary model is measured on.", at_least=1)
    outer_steps: int = setting(
        40, "Outer steps that train new exemplars in a phase (Eq. 9).", at_least=1
    )
    outer_optimizer: str = setting(
        "adam",
        "Optimiser of the pixels; the paper's SGD at 0.01 moves no pixel visibly.",
        choices=("adam", "sgd"),
    )
    outer_learning_rate: float = setting(
        0.02, "beta_1 of Eq. 9, in units of the normalised pixels.", above=0
    )
    outer_momentum: float = setting(
        0.9, "Momentum of the outer optimiser 'sgd'.", at_least=0, at_most=1
    )
    gradient_scale: float = setting(
        1.0,
        "Factor on the meta-gradient of the pixels; decides with 'sgd', cancels with 'adam'.",
        above=0,
    )
    outer_halvings: int = setting(
        4, "How often the outer learning rate is halved, evenly.", at_least=0
    )
    max_shift: float = setting(
        1.0,
        "How far an exemplar may move from the image it began a stage as, in grey levels: root "
        "mean square over its pixels, before rounding. 0 leaves it as it is, 255 sets no bound.",
        at_least=0,
    )
    train_beside_old: bool = setting(
        False, "Old exemplars stand beside the new ones while these learn (Problem 4b)."
    )
    few_new_classes: str = setting(
        "stay",
        "What becomes of learned exemplars in a later phase of one or two new classes: they stay "
        "as chosen, learn beside old ones, or learn alone (Eq. 7 to the letter).",
        choices=("stay", "beside", "alone"),
    )


@dataclasses.dataclass(frozen=True)
class ValidationSettings:
    """What chooses among exemplars while they learn: images held out from D_i."""

    validation: str = setting(
        "probe",
        "What learned exemplars have to be good for: a fresh classifier on the features of "
        "Theta_i, or a rehearsal of the next phase, in which half of the phase's classes come as "
        "if they were new. It takes a short training each time.",
        choices=("probe", "rehearsal"),
    )
    rehearsal_steps: int = setting(
        300,
        "SGD steps of a rehearsal, in whole epochs; it has no more epochs than a phase.",
        at_least=1,
    )
    validation_share: float = setting(
        0.1,
        "Share of a new class's training images held out to choose the best exemplars by.",
        at_least=0,
        at_most=1,
    )
    validation_every: int = setting(20, "Outer steps between two validations.", at_least=1)
    patience: int = setting(
        0,
        "Validations without a better score after which learning stops; 0 means never.",
        at_least=0,
    )


@dataclasses.dataclass(frozen=True)
class AdjustmentSettings:
    """Adjusting old exemplars (Eq. 10)."""

    adjust_old_exemplars: bool = setting(False, "Adjust old exemplars in every phase (Eq. 10).")
    adjust_subsets: int = setting(
        2, "Subsets that old exemplars are split into (A and B: 2).", at_least=2
    )
    adjust_steps: int = setting(50, "Outer steps of the adjustment in a phase.", at_least=1)
    adjust_learning_rate: float = setting(0.005, "beta_2 of Eq. 10.", above=0)
    skip_adjustment_if_too_few: bool = setting(
        False, "Leave adjustment out, instead of stopping, where a class has too few exemplars."
    )


def _plain(kind: Any, value: Any) -> Any:
    """Returns a value as a flag has it, for reports compare what is written.

    Args:
        kind: type of the setting.
        value: of Python or NumPy; a list will do for a tuple, a whole number for any.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(kind, types.GenericAlias) and isinstance(value, list | tuple | np.ndarray):
        item_kind = typing.get_args(kind)[0]
        return tuple(_plain(item_kind, item) for item in value)
    return float(value) if kind is float and type(value) is int else value


@dataclasses.dataclass(frozen=True)
class Settings:
    """All settings of a run, in groups."""

    run: RunSettings = RunSettings()
    protocol: ProtocolSettings = ProtocolSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    exemplar: ExemplarSettings = ExemplarSettings()
    inner: InnerSettings = InnerSettings()
    outer: OuterSettings = OuterSettings()
    validation: ValidationSettings = ValidationSettings()
    adjustment: AdjustmentSettings = AdjustmentSettings()
    data: DataSettings = DataSettings()

    def __post_init__(self) -> None:
        for _, field, value in all_fields(self):
            check(field, _KINDS[field.name], value)

    def changed(self, **values: Any) -> "Settings":
        """Returns settings with other values, by the names of the fields, whatever their group.

        Raises:
            UserError: if there is no such setting, or a value is out of its range.
        """
        groups = {group.name: getattr(self, group.name) for group in dataclasses.fields(self)}
        for name, value in values.items():
            group = GROUP_OF.get(name)
            if group is None:
                raise UserError(f"there is no setting {name}=, among {', '.join(GROUP_OF)}")
            groups[group] = dataclasses.replace(
                groups[group], **{name: _plain(_KINDS[name], value)}
            )
        return Settings(**groups)

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
        defaults = by_name(Settings().results_settings())
        values = by_name(self.results_settings())
        return {name: value for name, value in values.items() if value != defaults[name]}

    def chosen_in_any_version(self) -> dict[str, Any]:
        """Returns what a version that lacks a setting names `chosen` where it does the same."""
        return {k: v for k, v in self.chosen().items() if k not in BEFORE or v != BEFORE[k]}

    @classmethod
    def from_results_settings(
        cls,
        values: Mapping[str, Mapping[str, Any]],
        run: RunSettings,
        file: str = "settings.json",
    ) -> "Settings":
        """Returns the settings that `results_settings` described, with a `run` group of its own.

        They are read by name, in whatever group an earlier version had them; what it did not have
        is as it was then.

        Args:
            values: by group and name.
            run: where and how to run.
            file: of the run directory, which holds them; for the message.

        Raises:
            UserError: if the values are not those of this version's settings, or say where and how
                to run, which is for who runs to say.
        """
        try:
            named = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in of_any_version(values).items()
            }
            if foreign := [name for name in named if GROUP_OF.get(name) == "run"]:
                raise UserError(f"it sets --{foreign[0]}, which no run notes")
            return cls(run=run).changed(**named)
        except (AttributeError, TypeError, UserError) as error:
            raise UserError(
                f"{file} of {run.run_dir} is not one that this version wrote ({error})"
            ) from error

    def flag_lines(self) -> str:
        """Returns the settings as the lines of a flagfile, by which a run is repeated.

        Without `last_phase`: who trained a run in parts repeats all of it.
        """
        lines = []
        for _, field, value in all_fields(self):
            if field.name == "last_phase":
                continue
            if isinstance(value, bool):
                lines.append(f"--{'' if value else 'no'}{field.name}")
            else:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                lines.append(f"--{field.name}={text}")
        return "\n".join(lines) + "\n"


def all_fields(settings: Settings) -> Iterator[tuple[str, dataclasses.Field[Any], Any]]:
    """Yields group name, field and value of every setting."""
    for group in dataclasses.fields(settings):
        values = getattr(settings, group.name)
        for field in dataclasses.fields(values):
            yield group.name, field, getattr(values, field.name)


def by_name(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns values by the names of their settings, which are unique over all groups."""
    return {name: value for values in groups.values() for name, value in values.items()}


#: what versions did that lacked a setting, where its default is another now
BEFORE = {"max_shift": 255.0, "finetune_old_classes": False}


def of_any_version(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the values of all settings by name, as a run of any version noted them.

    A setting that is younger than the run had its default's effect then, or that of `BEFORE`.

    Args:
        groups: as the run's version named them.
    """
    return by_name(Settings().results_settings()) | BEFORE | by_name(groups)


#: name of a setting to its type and to its group
_KINDS = {
    name: kind
    for group in typing.get_type_hints(Settings).values()
    for name, kind in typing.get_type_hints(group).items()
}
GROUP_OF = {
    field.name: name
    for name, group in typing.get_type_hints(Settings).items()
    for field in dataclasses.fields(group)
}
