"""A user's own backbone in a run directory: configuration, first weights and digests of both.

With them a run stands by itself: it goes on, is scored and exported when the file that --backbone
or --backbone_weights named is gone, and it notices when that has changed.
"""

import contextlib
import json
import math
from collections.abc import Mapping
from typing import Any

import keras

from mnemonics_tf.bilevel.objectives import second_order, trains_encoder
from mnemonics_tf.data.preprocessing import Preprocessing
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError, few
from mnemonics_tf.models.architecture import Architecture
from mnemonics_tf.models.conversion import (
    check_normalizations,
    set_weights,
    weights_of,
    wrong_batch_statistics,
)
from mnemonics_tf.models.converted_layers import ScaledLayer
from mnemonics_tf.models.layers import WeightTransferConvolution
from mnemonics_tf.models.naming import numbered_anew
from mnemonics_tf.models.own_backbone import OwnBackbone, digest_of, opens_own, read_source
from mnemonics_tf.models.resnet import BACKBONES, Backbone
from mnemonics_tf.monitoring.progress import LOGGER
from mnemonics_tf.paths import user_path
from mnemonics_tf.registry import find, is_own
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_arrays, write_text
from mnemonics_tf.run.learned import recorded_backbone_weights
from mnemonics_tf.settings import KERAS_APPLICATIONS, KERAS_FILE, Settings

#: share of the first statistics of normalisation that may be left after phase 0
_STALE = 0.05


def open_backbone(
    settings: Settings, preprocessing: Preprocessing, directory: RunDirectory
) -> OwnBackbone | None:
    """Returns the user's own backbone, or None where settings name one of this project.

    A run that was begun has it from its directory, but for code, which has to be there.

    Args:
        settings: of the run.
        preprocessing: of its images.
        directory: of the run, which may not be there yet.

    Raises:
        UserError: if it can't be had, is not the run's, or can't do what is asked of it.
    """
    if not opens_own(settings.model):
        if settings.run.backbone_weights:
            raise UserError(
                f"--backbone_weights={settings.run.backbone_weights} with --backbone="
                f"{settings.model.backbone}: it is for a model of your own; leave it out"
            )
        if not directory.settings.exists():  # what was begun goes on as it began
            _refuse_transfer_of_nothing(settings, preprocessing)
        return None
    noted = _noted(directory)
    if noted is None or _is_code(settings):
        model = _from_flags(settings, preprocessing)
    else:
        model = _from_configuration(directory, noted)
    if noted is not None:
        _set_first_weights(directory, noted, model)
    own = _own(settings, preprocessing, model)
    if noted is not None and own.digests != noted["digests"]:
        raise UserError(
            f"--backbone={settings.model.backbone} builds another model than the one that "
            f"{directory.root} was begun with: pass another --run_dir"
            if _is_code(settings)
            else _damaged(directory, "it is not what its digests say")
        )
    _refuse_transfer(settings, own)
    return own


def claim_backbone(
    directory: RunDirectory,
    settings: Settings,
    preprocessing: Preprocessing,
    source: DataSource,
    protocol: ClassIncrementalProtocol,
    own: OwnBackbone,
) -> None:
    """Makes a backbone the run's, or finds that it is already.

    Args:
        directory: of the run.
        settings: of the run, as they are now.
        preprocessing: of its images.
        source: of its images.
        protocol: what is learned when.
        own: the backbone.

    Raises:
        UserError: if the run was begun with another one.
    """
    refuse_other_backbone(settings, preprocessing, directory)
    if not directory.backbone.exists():
        first = protocol.original_ids(protocol.phases[0].new_classes)
        warn_of_slow_statistics(settings, own, int(source.training_counts_of(first).sum()))
        note_backbone(directory, own)


def note_backbone(directory: RunDirectory, own: OwnBackbone) -> None:
    """Writes what a run needs of a backbone to stand by itself.

    Args:
        directory: of the run.
        own: the backbone.
    """
    try:
        configuration = keras.saving.serialize_keras_object(own.source)
        text = json.dumps({"digests": own.digests, "configuration": configuration}, indent=1)
    except Exception:  # classes of the user's own need not be serialisable: their code is there
        text = json.dumps({"digests": own.digests, "configuration": None}, indent=1)
    write_arrays(directory.backbone_weights, weights_of(own.source))
    write_text(directory.backbone, text + "\n")


def digests_of_files(directory: RunDirectory, name: str) -> dict[str, str] | None:
    """Returns the digests of what a run's own backbone has from files; None: nothing, or not known.

    Weights that are drawn, and what code builds, may follow from the run's seed.

    Args:
        directory: of the run.
        name: of the backbone.
    """
    try:
        noted = _noted(directory)
    except UserError:  # who opens the run is told; taking a phase back needs no model
        return None
    if noted is None or name.endswith(KERAS_FILE):
        return noted and noted["digests"]
    drawn = not recorded_backbone_weights(directory)
    return None if drawn else {"weights": noted["digests"]["weights"]}


def refuse_other_backbone(
    settings: Settings, preprocessing: Preprocessing, directory: RunDirectory
) -> None:
    """Refuses to go on with a run whose backbone's file has changed; one that is gone is no matter.

    Args:
        settings: of the run, as they are now.
        preprocessing: of its images.
        directory: of the run.

    Raises:
        UserError: names what has changed.
    """
    noted = _noted(directory)
    name, weights = settings.model.backbone, settings.run.backbone_weights
    is_application = name.startswith(KERAS_APPLICATIONS)
    file = weights if is_application or _is_code(settings) else name
    if noted is None or not file or not user_path(file).exists():
        return
    now = _own(settings, preprocessing, _from_flags(settings, preprocessing)).digests
    differ = [part for part, digest in noted["digests"].items() if now[part] != digest]
    if differ:
        flag = "--backbone_weights" if file == weights else "--backbone"
        raise UserError(
            f"{flag}={file} holds another model ({' and '.join(differ)}) than the one that "
            f"{directory.root} was begun with: put that back or pass another --run_dir"
        )


def warn_of_slow_statistics(settings: Settings, own: OwnBackbone, images: int) -> None:
    """Warns where phase 0 is too short for statistics that are averaged over many steps.

    Args:
        settings: of the run.
        own: the backbone.
        images: that phase 0 trains on.
    """
    steps = settings.training.base_epochs * math.ceil(images / settings.training.batch_size)
    left = own.momentum**steps
    if left > _STALE:
        LOGGER.warning(
            "--backbone=%s averages statistics of normalisation with momentum %g: after the %d "
            "steps of phase 0 they are to %.0f%% those that it began with, and predictions are as "
            "far from what was trained; train longer, in smaller batches, or pass a model whose "
            "BatchNormalization layers have less momentum, as a .keras file or "
            "package.module:build",
            own.name,
            own.momentum,
            steps,
            100 * left,
        )


def _is_code(settings: Settings) -> bool:
    name = settings.model.backbone
    return is_own(name) and not name.startswith(KERAS_APPLICATIONS)


def _from_flags(settings: Settings, preprocessing: Preprocessing) -> Any:
    return read_source(
        settings.model,
        settings.run.backbone_weights,
        preprocessing.image_shape,
        settings.protocol.seed,
    )


def _own(settings: Settings, preprocessing: Preprocessing, model: Any) -> OwnBackbone:
    return OwnBackbone(
        settings.model.backbone,
        model,
        settings.model,
        preprocessing.image_shape,
        preprocessing.channel_mean,
        preprocessing.channel_std,
        settings.protocol.seed,
    )


def _noted(directory: RunDirectory) -> dict[str, Any] | None:
    if not directory.backbone.exists():
        return None
    noted = read_json(directory.backbone)
    parts = noted.get("digests") if isinstance(noted, dict) else None
    if not isinstance(parts, dict) or set(parts) != {"configuration", "weights"}:
        raise UserError(_damaged(directory, "it holds no digests of configuration and weights"))
    return noted


def _from_configuration(directory: RunDirectory, noted: Mapping[str, Any]) -> Any:
    try:
        return keras.saving.deserialize_keras_object(noted.get("configuration"), safe_mode=True)
    except Exception as error:  # Keras raises nearly anything at what it does not like
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(_damaged(directory, reason)) from error


def _set_first_weights(directory: RunDirectory, noted: Mapping[str, Any], model: Any) -> None:
    """Gives a model the weights that the run began with, which code may draw anew every time."""
    arrays = read_arrays(directory.backbone_weights)
    if digest_of(arrays) != noted["digests"]["weights"]:
        raise UserError(
            f"{directory.backbone_weights} is damaged: it is not what {directory.backbone} says; "
            "put the right one back or pass another --run_dir"
        )
    with contextlib.suppress(AttributeError, ValueError):  # of another model, which is found next
        set_weights(model, arrays)


def _damaged(directory: RunDirectory, reason: str) -> str:
    return (
        f"{directory.backbone} is damaged ({reason}): put the right one back or pass another "
        "--run_dir"
    )


def _refuse_transfer_of_nothing(settings: Settings, preprocessing: Preprocessing) -> None:
    """Refuses weight transfer in a family of backbones that has no layers for it."""
    wanted, name = _asks_for_transfer(settings), settings.model.backbone
    family = find(BACKBONES, name, "backbone")
    if not wanted or not is_own(name) or not isinstance(family, Backbone):
        return
    with numbered_anew():
        model = family.build(preprocessing.image_shape, settings.model.depth, 0)
    if not any(isinstance(one, WeightTransferConvolution | ScaledLayer) for one in model.layers):
        raise UserError(
            f"{' and '.join(wanted)} with --backbone={name}: none of its layers can be frozen and "
            "scaled; leave that out, or pass a function that builds the model, whose Conv2D, "
            "DepthwiseConv2D and Dense layers then can (docs/own_backbone.md)"
        )


def _asks_for_transfer(settings: Settings) -> list[str]:
    """Returns the flags that ask for weight transfer, in the model or in exemplar learning."""
    wanted = []
    if settings.model.weight_transfer:
        wanted.append("--weight_transfer")
    if exemplars_learn(settings) and settings.inner.inner_scope == "transfer":
        wanted.append("--inner_scope=transfer")
    return wanted


def _refuse_transfer(settings: Settings, own: OwnBackbone) -> None:
    """Refuses weight transfer that could not freeze all."""
    wanted = _asks_for_transfer(settings)
    if own.kept and wanted:
        raise UserError(
            f"{' and '.join(wanted)} with --backbone={own.name}: these layers have weights that "
            f"can't be frozen and scaled: {', '.join(own.kept)}; leave that out, or make them of "
            "Conv2D, DepthwiseConv2D and Dense"
        )


def exemplars_learn(settings: Settings) -> bool:
    """Whether exemplars learn in a run, as new ones or as old ones."""
    new = settings.exemplar.exemplars == "mnemonics"
    return new or settings.adjustment.adjust_old_exemplars


def trains_backbone(settings: Settings) -> bool:
    """Whether exemplars learn by an inner loop that trains more than the classifier."""
    return exemplars_learn(settings) and trains_encoder(settings.inner, settings.outer)


def check_second_order(settings: Settings, architecture: Architecture) -> None:
    """Refuses layers in the inner loop through which the meta-gradient is wrong.

    Args:
        settings: of a run, or of a phase that follows one, that has not begun.
        architecture: of its models.

    Raises:
        UserError: names the layers, and what may take their place.
    """
    if not (exemplars_learn(settings) and second_order(settings.inner, settings.outer)):
        return
    model = architecture.build_backbone(settings.protocol.seed)
    name = f"--backbone={settings.model.backbone}"
    wrong = wrong_batch_statistics(model) if settings.inner.inner_batch_statistics else []
    if wrong:
        right = (
            "make them plain BatchNormalization layers, without renorm"
            if architecture.own
            else "use BatchNormalization of mnemonics_tf.models.layers in their place"
        )
        raise UserError(
            f"--inner_batch_statistics with {name}: Keras' batch statistics have no right second "
            "gradient, so that exemplars would learn from a wrong one by these layers: "
            f"{few(wrong)}; pass --noinner_batch_statistics or --meta_gradient=first_order, or "
            f"{right}"
        )
    check_normalizations(
        model,
        f"--inner_scope={settings.inner.inner_scope} with {name}",
        "; or pass --inner_scope=classifier or --meta_gradient=first_order",
    )
