"""Which settings have an effect beside a run's other settings.

Runs that differ in others alone did the same: a report makes one group of them, and a run of an
earlier version goes on whatever a setting that it did not have would be.
"""

from collections.abc import Callable
from typing import Any

from mnemonics_tf.exemplars.codecs import CODECS, WITH_QUALITY, loses_nothing
from mnemonics_tf.methods import BUILT_IN, METHODS
from mnemonics_tf.settings import GROUP_OF

#: each takes the place of exemplars_per_class
_OTHER_BUDGETS = ("exemplars_total", "exemplar_bytes_per_class", "exemplar_bytes_total")

#: estimators and objectives that come with the project; none but `truncated` reads truncated_steps
_ESTIMATORS = ("sweep", "unroll", "truncated", "first_order")
_OBJECTIVES = ("unrolled_training", "class_means", "anchored")

_Settings = dict[str, Any]


def _learns(settings: _Settings) -> bool:
    return settings["exemplars"] == "mnemonics"


def _moves(settings: _Settings) -> bool:
    return _learns(settings) or bool(settings["adjust_old_exemplars"])


def _of_method(*names: str) -> Callable[[_Settings], bool]:
    """Tells whether a method is one of these, or not the project's, which may read anything."""
    return lambda settings: settings["method"] in names or settings["method"] not in BUILT_IN


def _frees_old_classes(settings: _Settings) -> bool:
    """Tells whether the fine-tune may train what the method freezes."""
    method = METHODS.get(settings["method"])  # another version's, or code of a user's own
    return bool(settings["finetune_epochs"]) and (method is None or method.freezes_old_classes)


def _goes_back(settings: _Settings) -> bool:
    estimator = settings["meta_gradient"]
    return _moves(settings) and (estimator == "truncated" or estimator not in _ESTIMATORS)


def _of_other_objective(name: str, settings: _Settings) -> bool:
    """Tells whether an objective has a setting that isn't the project's: it may read anything."""
    handed = GROUP_OF.get(name) in ("inner", "outer")
    return handed and _moves(settings) and settings["objective"] not in _OBJECTIVES


#: setting, or group of settings -> whether it has an effect beside a run's other settings
_HAS_EFFECT: dict[str, Callable[[_Settings], bool]] = {
    "inner": _moves,
    "outer": _moves,
    "outer_steps": _learns,
    "outer_learning_rate": _learns,
    "train_beside_old": _learns,
    "few_new_classes": lambda s: _learns(s) and not s["train_beside_old"],
    "validation": _learns,
    "rehearsal_steps": lambda s: _learns(s) and s["validation"] == "rehearsal",
    "mnemonics_start": _learns,
    "adjust_old_exemplars": lambda s: True,
    "adjustment": lambda s: bool(s["adjust_old_exemplars"]),
    "pool_size": lambda s: _moves(s) and s["inner_start"] == "pool",
    "truncated_steps": _goes_back,
    "outer_momentum": lambda s: _moves(s) and s["outer_optimizer"] == "sgd",
    "classification_weight": _of_method("lwf", "icarl"),
    "temperature": _of_method("lwf", "icarl", "bic"),
    "less_forget_weight": _of_method("lucir"),
    "ranking_margin": _of_method("lucir"),
    "ranking_classes": _of_method("lucir"),
    "correction_share": _of_method("bic"),
    "jpeg_quality": lambda s: s["codec"] in WITH_QUALITY,
    "coded_share": lambda s: s["codec"] not in CODECS or not loses_nothing(s["codec"]),
    "exemplars_per_class": lambda s: not any(s[budget] for budget in _OTHER_BUDGETS),
    # Copies of a pool are trained at that rate too, for an epoch at least.
    "finetune_learning_rate": lambda s: (
        bool(s["finetune_epochs"]) or (_moves(s) and s["inner_start"] == "pool")
    ),
    "finetune_old_classes": _frees_old_classes,
    "base_classes": lambda s: not s["phase_classes"],
    "class_order": lambda s: not s["phase_classes"],
    "class_order_seed": lambda s: not s["phase_classes"] and not s["class_order"],
    "evaluation_batch_size": lambda s: False,  # rounds sums in another order, no more
}


def has_effect(name: str, settings: _Settings) -> bool:
    """Returns whether a setting has an effect beside a run's other settings.

    Args:
        name: of the setting.
        settings: all of the run's, by name.
    """
    told = _HAS_EFFECT.get(name) or _HAS_EFFECT.get(GROUP_OF.get(name, ""))
    return told is None or told(settings) or _of_other_objective(name, settings)
