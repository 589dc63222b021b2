"""Shows what learning did to exemplars: tables, curves, and the exemplars themselves.

python -m tools.show_learning herding=runs/demo/herding learned=runs/demo/learned \
  --output=runs/demo/exemplars.png

Takes runs as a report does, several seeds of each too, and prints the table of the first run of
each name. The picture has the accuracy after each phase of both heads, and of the last run that
moved its exemplars one exemplar of each class: as it began, as it is now, and the difference.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluation.evaluator import HEADS
from mnemonics_tf.monitoring.pictures import check_picture, new_figure
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, start
from mnemonics_tf.reporting.gallery import Gallery, difference, gallery
from mnemonics_tf.reporting.groups import Group, group_runs
from mnemonics_tf.reporting.runs import load_runs, seeds_in_words
from mnemonics_tf.run import results

# Okabe and Ito's colours; markers repeat the distinction.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D")
#: classes that fit beside each other
_MOST_CLASSES = 12


def define_flags() -> None:
    """Defines this program's flags; a function, for others have flags of the same names."""
    flags.DEFINE_string("output", "exemplars.png", "Picture to write (.png, .svg).")


@program()
def main(arguments: list[str]) -> int:
    """Prints the tables and writes the picture."""
    show(arguments[1:], flags.FLAGS.output)
    return 0


def show(runs: Sequence[str], picture: str) -> None:
    """Prints the tables and writes the picture.

    Args:
        runs: their paths, `NAME=` before those that have a name.
        picture: to write.

    Raises:
        UserError: if no run is passed, one can't be read, or the picture can't be written.
    """
    output = user_path(picture)
    check_picture(output)
    groups = group_runs(load_runs(runs))
    if not groups:
        raise UserError("pass runs, as NAME=RUN")
    for group in groups:
        run = group.first
        # Computed again: an older file may have fewer metrics.
        contents = run.contents | {"summary": results.summarize(run.phases)}
        contents["prediction_head"] = group.head
        print(f"\n{group.name}, seed {seeds_in_words(run.seeds)}\n{results.table(contents)}")
    draw(groups, output)
    print(f"\npicture: {output}")


def draw(groups: Sequence[Group], output: pathlib.Path) -> None:
    """Writes the picture.

    Args:
        groups: of the runs.
        output: its suffix gives the format.
    """
    moved = [
        (group, shown)
        for group in groups
        if (shown := gallery(group)) is not None and shown.any_moved
    ]
    height = 3.6 + 2.9 * bool(moved)
    with new_figure(figsize=(9, height), layout="constrained") as figure:
        upper, lower = figure, None
        if moved:
            upper, lower = figure.subfigures(2, 1, height_ratios=(3.6, 2.9))
        for axes, head in zip(upper.subplots(1, 2, sharey=True), HEADS, strict=True):
            _curves(axes, groups, head)
        handles, names = axes.get_legend_handles_labels()
        upper.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        if lower is not None:
            _exemplars(lower, *moved[-1])
        figure.savefig(output, dpi=140)


def _curves(axes: Any, groups: Sequence[Group], head: str) -> None:
    for index, group in enumerate(groups):
        figures = group.accuracies(head)
        means = [100 * figure.mean for figure in figures]
        paint = _COLOURS[index % len(_COLOURS)]
        axes.plot(
            group.num_classes,
            means,
            color=paint,
            marker=_MARKERS[index % len(_MARKERS)],
            label=group.name,
        )
        for values in zip(*(figure.values for figure in figures), strict=True):
            if len(group.runs) > 1:
                seed = [100 * value for value in values]
                axes.plot(group.num_classes, seed, color=paint, linewidth=0.7, alpha=0.45)
    averages = [100 * group.metric(head, "average_accuracy").mean for group in groups]
    described = " / ".join(f"{average:.1f}" for average in averages)
    axes.set_title(f"head {head}: average {described}", fontsize=10)
    axes.set_xlabel("Number of classes")
    if head == HEADS[0]:
        axes.set_ylabel("Accuracy on all seen classes (%)")
    axes.set_xticks(sorted({number for group in groups for number in group.num_classes}))
    axes.grid(alpha=0.3)


def _exemplars(figure: Any, group: Group, shown: Gallery) -> None:
    cards = shown.cards
    cards = [
        cards[i] for i in np.linspace(0, len(cards) - 1, min(_MOST_CLASSES, len(cards))).astype(int)
    ]
    times = f" x {shown.amplification}" if shown.amplification > 1 else ""
    figure.suptitle(
        f"{group.name}, seed {shown.seed}: an exemplar of each class; below, how far it "
        "moved (root mean square, grey levels of 255)",
        fontsize=10,
    )
    grid = figure.subplots(3, len(cards), squeeze=False)
    for column, card in enumerate(cards):
        pictures = (card.start[0], card.now[0], difference(card, shown.amplification)[0])
        for row, (name, image) in enumerate(
            zip(("start", "now", f"difference{times}"), pictures, strict=True)
        ):
            axes = grid[row, column]
            axes.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        name = card.name.replace("_", "\n").replace(" ", "\n")  # columns are narrow
        grid[0, column].set_title(name, fontsize=9 if len(cards) < 9 else 7, parse_math=False)
        grid[2, column].set_xlabel(f"{card.moved[0]:.1f}", fontsize=9)


if __name__ == "__main__":
    define_flags()
    start(main)
