"""Pictures of results."""

import pathlib
from collections.abc import Mapping
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402, the backend must be chosen first

# Okabe and Ito's colours, told apart by colour-blind readers too; markers repeat the distinction.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def accuracy_curves(
    runs: Mapping[str, Mapping[str, Any]], path: pathlib.Path, head: str = "classifier"
) -> None:
    """Draws accuracy on all seen classes against the number of classes (the paper's Figure 4).

    Args:
        runs: what results.json holds, by the name that the legend shows.
        path: of the picture; its suffix gives the format.
        head: whose accuracy is drawn.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for i, (name, results) in enumerate(runs.items()):
        classes = [record["num_seen"] for record in results["phases"]]
        accuracies = [100 * record["heads"][head]["accuracy"] for record in results["phases"]]
        average = 100 * results["summary"][head]["average_accuracy"]
        axes.plot(
            classes,
            accuracies,
            color=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i % len(_MARKERS)],
            label=f"{name} (average {average:.2f})",
        )
    axes.set_xlabel("Number of classes")
    axes.set_ylabel("Accuracy on all seen classes (%)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
