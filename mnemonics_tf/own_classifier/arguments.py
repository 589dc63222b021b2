"""The arguments of `learn_exemplars`: what is refused before any work."""

import numbers
from typing import Any

import numpy as np

from mnemonics_tf.bilevel.objectives import on_originals
from mnemonics_tf.errors import UserError
from mnemonics_tf.own_classifier.network import Build
from mnemonics_tf.settings import GROUP_OF, Settings

#: settings that mean something in a run only
_OF_RUNS = frozenset(
    {"pool_size", "train_beside_old", "inner_augmentation", "inner_batch_statistics"}
    | {"validation", "rehearsal_steps", "few_new_classes"}
)

#: values of settings that go with this project's own models
_OF_OWN_MODELS = {"inner_scope": "transfer", "inner_start": "pool"}

#: other defaults than a run's: what is to teach a network by itself gains by moving far, while in
#: a run, whose network changes from phase to phase, it loses (docs/exemplar_learning.md)
_DEFAULTS = {"max_shift": 255.0}

#: groups of the settings that can be passed
_GROUPS = ("inner", "outer", "validation")


def settings_of(passed: dict[str, Any], build: Build | None) -> Settings:
    """Returns settings with what was passed.

    Args:
        passed: fields of settings by name.
        build: what makes untrained models, or None.

    Raises:
        UserError: if one has no meaning here.
    """
    known = [name for name, group in GROUP_OF.items() if group in _GROUPS and name not in _OF_RUNS]
    for name, value in passed.items():
        if name not in known:
            raise UserError(
                f"learn_exemplars has no setting {name}=; it has start, encoder, augmentation, "
                f"seed, progress, checkpoint, build, {', '.join(known)}"
            )
        if _OF_OWN_MODELS.get(name) == value:
            raise UserError(f"{name}={value!r} is for this project's own models in a run")
    settings = Settings().changed(**(_DEFAULTS | passed))
    objective = settings.outer.objective
    if on_originals(objective):
        raise UserError(
            f"objective={objective!r} measures exemplars on the very images that they began as, "
            "for the codec of a run: pass another"
        )
    if build is None:
        return settings
    fixed = {
        "inner_scope": "all",
        "inner_start": "fresh_head",
        "objective": "unrolled_training",
    }
    for name, value in fixed.items():
        if passed.get(name, value) != value:
            raise UserError(
                f"{name}={passed[name]!r} does not go with build=, which trains all weights of new "
                f"models: leave out one of the two"
            )
    return settings.changed(**fixed)


def check_images(images: np.ndarray, labels: np.ndarray, per_class: int) -> None:
    """Refuses images, labels and numbers of them that are no such ones.

    Args:
        images: to be uint8 `[n, h, w, c]`.
        labels: to be whole numbers `[n]`, of two classes or more.
        per_class: to be a whole number from 1 up.

    Raises:
        UserError: tells what was passed.
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
        found = f"{images.dtype} {images.shape}" if hasattr(images, "shape") else type(images)
        raise UserError(
            f"images: got {found}, expected a NumPy array, uint8 [n, h, w, c], of pixels from 0 to "
            "255; what maps them to the model's input is passed as preprocess="
        )
    shape = np.shape(labels)
    if shape != images.shape[:1] or np.asarray(labels).dtype.kind not in "iu" or not shape[0]:
        raise UserError(
            f"labels: got {np.asarray(labels).dtype} {shape}, expected whole numbers "
            f"[{len(images)}], one an image, and one image or more"
        )
    if len(np.unique(labels)) < 2:
        raise UserError("labels: there is one class only; a classifier needs two or more")
    if not _is_whole(per_class) or per_class < 1:
        raise UserError(f"per_class={per_class!r}: pass a whole number from 1 up")


def check_others(seed: int, **functions: Any) -> None:
    """Refuses a seed that is no whole number, and what can't be called where a function is asked.

    Args:
        seed: of all draws.
        **functions: by the names of the arguments; None where there is none.

    Raises:
        UserError: tells what was passed.
    """
    if not _is_whole(seed):
        raise UserError(f"seed={seed!r}: pass a whole number")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise UserError(f"{name}={function!r}: pass a function or a Keras model")


def _is_whole(number: Any) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool)
