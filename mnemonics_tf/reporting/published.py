"""The paper's figures, to stand beside ours. Average accuracy and forgetting F in percent."""

import dataclasses
from typing import Any

from mnemonics_tf.reporting.names import short
from mnemonics_tf.run.effects import has_effect

#: numbers of incremental phases in the paper's tables
PHASES = (5, 10, 25)

#: Table 1: dataset -> (method, with mnemonics) -> accuracies and forgetting for N = 5, 10, 25
TABLE_1 = {
    "cifar100": {
        ("lwf", False): ((49.59, 46.98, 45.51), (43.36, 43.58, 41.66)),
        ("lwf", True): ((54.43, 52.67, 51.75), (38.38, 36.66, 33.50)),
        ("icarl", False): ((57.12, 52.66, 48.22), (31.88, 34.10, 36.48)),
        ("icarl", True): ((59.88, 57.53, 54.30), (25.28, 27.02, 28.22)),
        ("bic", False): ((59.36, 54.20, 50.00), (31.42, 32.50, 34.60)),
        ("bic", True): ((60.67, 58.11, 55.51), (22.42, 24.50, 25.52)),
        ("lucir", False): ((63.17, 60.14, 57.54), (18.70, 21.34, 26.46)),
        ("lucir", True): ((64.95, 63.25, 63.70), (11.64, 10.90, 9.96)),
    },
    "imagenet_subset": {
        ("lwf", False): ((53.62, 47.64, 44.32), (55.32, 57.00, 55.12)),
        ("lwf", True): ((61.23, 59.24, 59.71), (39.56, 40.44, 39.99)),
        ("icarl", False): ((65.44, 59.88, 52.97), (43.40, 45.84, 47.60)),
        ("icarl", True): ((72.55, 70.29, 67.12), (20.00, 24.36, 29.32)),
        ("bic", False): ((70.07, 64.96, 57.73), (27.04, 31.04, 37.88)),
        ("bic", True): ((73.16, 71.37, 68.41), (14.52, 17.40, 23.96)),
        ("lucir", False): ((70.84, 68.32, 61.44), (31.88, 33.48, 35.40)),
        ("lucir", True): ((73.30, 72.17, 71.50), (10.20, 9.88, 11.76)),
    },
    "imagenet": {
        ("lwf", False): ((44.35, 38.90, 36.87), (48.70, 47.94, 49.84)),
        ("lwf", True): ((52.70, 50.37, 50.79), (37.46, 38.42, 37.95)),
        ("icarl", False): ((51.50, 46.89, 43.14), (26.03, 33.76, 38.80)),
        ("icarl", True): ((60.61, 58.62, 53.46), (20.26, 24.04, 17.49)),
        ("bic", False): ((62.65, 58.72, 53.47), (25.06, 28.34, 33.17)),
        ("bic", True): ((64.63, 62.71, 60.20), (18.32, 19.72, 20.50)),
        ("lucir", False): ((64.45, 61.57, 56.56), (24.08, 27.29, 30.30)),
        ("lucir", True): ((66.15, 63.12, 63.08), (13.63, 13.45, 14.40)),
    },
}

#: Table 2 (LUCIR with weight transfer): dataset -> (exemplars, adjusted) -> as in TABLE_1
TABLE_2 = {
    "cifar100": {
        ("random", False): ((63.06, 62.30, 62.06), (19.38, 15.90, 13.91)),
        ("random", True): ((63.51, 62.47, 61.59), (17.24, 16.01, 13.23)),
        ("herding", False): ((63.39, 61.50, 60.95), (21.02, 21.18, 20.76)),
        ("herding", True): ((63.56, 61.79, 61.05), (17.02, 19.76, 16.87)),
        ("mnemonics", False): ((63.97, 62.34, 62.31), (13.78, 12.35, 10.65)),
        ("mnemonics", True): ((64.95, 63.26, 63.70), (11.64, 10.90, 9.96)),
    },
    "imagenet_subset": {
        ("random", False): ((71.34, 70.02, 68.24), (21.67, 17.89, 16.38)),
        ("random", True): ((71.67, 70.31, 68.02), (17.05, 15.76, 13.27)),
        ("herding", False): ((71.22, 69.67, 67.45), (21.53, 18.15, 17.96)),
        ("herding", True): ((72.01, 70.02, 68.00), (21.93, 16.32, 15.91)),
        ("mnemonics", False): ((72.45, 70.57, 70.78), (20.76, 16.47, 12.68)),
        ("mnemonics", True): ((73.30, 72.17, 71.50), (10.20, 9.88, 11.76)),
    },
}

#: average accuracies on CIFAR-100 that the authors gave later: (method, with mnemonics) -> N = 5,
#: 10, 25. LwF and iCaRL: README of their release, a single-level code whose baselines lack weight
#: transfer; its network has LUCIR's cosine classifier, imprinted and with old weights frozen, and
#: its commands keep 2,000 exemplars in all. LUCIR: as PASS++ cites them.
AUTHORS_LATER = {
    ("lwf", False): (52.44, 48.47, 45.75),
    ("lwf", True): (54.21, 52.72, 51.59),
    ("icarl", False): (58.03, 53.01, 48.47),
    ("icarl", True): (60.01, 57.37, 54.13),
    ("lucir", True): (63.34, 62.28, 60.96),
}

#: epochs of the paper by data set: phase 0, later phases, balanced fine-tune
EPOCHS = {"cifar100": (160, 160, 50), "imagenet_subset": (90, 90, 50), "imagenet": (90, 90, 50)}

_SHARED = {
    "codec": "pixels",
    "batch_size": 128,
    "learning_rate": 0.1,
    "learning_rate_decay": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "finetune_learning_rate": 0.01,
    "less_forget_weight": 5.0,
}
_IMAGENET = _SHARED | {
    "less_forget_weight": 10.0,
    "backbone": "resnet_imagenet",
    "depth": 18,
    "learning_rate_milestones": [0.3333, 0.6667],
    "image_size": 224,
}
#: further settings of the paper by data set, as the flag files in configs/ have them
SETTINGS = {
    "cifar100": _SHARED
    | {"backbone": "resnet_cifar", "depth": 32, "learning_rate_milestones": [0.5, 0.75]},
    "imagenet_subset": _IMAGENET,
    "imagenet": _IMAGENET,
}


@dataclasses.dataclass(frozen=True)
class Choices:
    """What tells the rows of the paper's tables apart.

    Attributes:
        method: value of --method.
        exemplars: value of --exemplars.
        transfer: with weight transfer.
        adjust: with adjustment of old exemplars.
        finetune: with the balanced fine-tune.
    """

    method: str
    exemplars: str
    transfer: bool
    adjust: bool
    finetune: bool


@dataclasses.dataclass(frozen=True)
class Published:
    """A row of the paper, or the one that comes closest.

    Attributes:
        accuracy: average accuracy.
        forgetting: F.
        authors_later: average accuracy that the authors gave later, where they gave one.
        departures: in what the run asked about differs from the row; empty if it is the same.
    """

    accuracy: float
    forgetting: float
    authors_later: float | None
    departures: tuple[str, ...]


def published_values(dataset: str, num_phases: int, choices: Choices) -> Published | None:
    """Returns the paper's figures for a run, or None where no row has its method and exemplars."""
    if num_phases not in PHASES:
        return None
    learned = choices.exemplars == "mnemonics"
    everything = learned and choices.adjust  # a row of Table 1 too, which has it as the result
    later = None
    if choices.method == "lucir" and choices.transfer and choices.finetune and not everything:
        row = TABLE_2.get(dataset, {}).get((choices.exemplars, choices.adjust))
        expected = choices
    elif choices.exemplars in ("herding", "mnemonics"):
        row = TABLE_1.get(dataset, {}).get((choices.method, learned))
        expected = Choices(choices.method, choices.exemplars, learned, learned, learned)
        if dataset == "cifar100":
            later = AUTHORS_LATER.get((choices.method, learned))
    else:
        row = None
    if row is None:
        return None
    column = PHASES.index(num_phases)
    return Published(
        row[0][column],
        row[1][column],
        later[column] if later else None,
        tuple(_departures(choices, expected)),
    )


def departures_of_settings(dataset: str, settings: dict[str, Any]) -> list[str]:
    """Returns in what a run's network and schedule depart from the paper's.

    Args:
        dataset: of the run.
        settings: all of the run's, by name.
    """
    theirs = SETTINGS.get(dataset, {})
    # 0 is the source's own size.
    ours = {**settings, "image_size": settings["image_size"] or theirs.get("image_size")}
    unlike = {
        name: value
        for name, value in theirs.items()
        if ours[name] != value and has_effect(name, settings)
    }
    if "backbone" in unlike:
        unlike.pop("depth", None)  # which counts something else there
    return [
        *_epochs(dataset, settings),
        *(
            f"{name.replace('_', ' ')} {short(ours[name])}, not {short(value)}"
            for name, value in unlike.items()
        ),
    ]


def _epochs(dataset: str, settings: dict[str, Any]) -> list[str]:
    epochs = EPOCHS.get(dataset)
    names = ("base_epochs", "epochs", "finetune_epochs")
    ours = tuple(settings[name] for name in names)
    if not epochs or ours == epochs or (ours[2] == 0 and ours[:2] == epochs[:2]):
        return []
    text = "/".join(map(str, ours))
    return [f"{text} epochs (phase 0, later, fine-tune), not {'/'.join(map(str, epochs))}"]


def _departures(choices: Choices, expected: Choices) -> list[str]:
    parts = {
        "weight transfer": (choices.transfer, expected.transfer),
        "adjustment of old exemplars": (choices.adjust, expected.adjust),
        "the balanced fine-tune": (choices.finetune, expected.finetune),
    }
    return [
        f"{'with' if ours else 'without'} {name}"
        for name, (ours, theirs) in parts.items()
        if ours != theirs
    ]
