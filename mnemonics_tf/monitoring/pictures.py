"""Pictures of results."""

import contextlib
import importlib
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.extras import extra
from mnemonics_tf.run.files import check_output

_FORMATS = (".png", ".svg", ".pdf")

# Okabe and Ito's colours, told apart by colour-blind readers too; markers repeat the distinction.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: classes of a confusion matrix with names at its axes, and characters of a name
_MOST_NAMED = 40
_LONGEST_NAME = 18
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINE_STYLES = ("-", "--", ":")


def can_draw() -> bool:
    """Whether matplotlib is installed; one that can't be imported is, and fails where it draws."""
    try:
        importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        return False
    except Exception:  # such as that of an MPLBACKEND that there is not
        pass
    return True


@contextlib.contextmanager
def new_figure(**options: Any) -> Iterator[Any]:
    """Within it a figure is drawn, and saved or turned into pixels.

    Without pyplot, whose backend and figures are those of a notebook that a run may live in; and by
    matplotlib's defaults: a user's matplotlibrc may ask for LaTeX, which another machine lacks.

    Args:
        **options: of matplotlib's `Figure`.

    Raises:
        UserError: if matplotlib is not installed.
    """
    with extra("report", "a picture of results"):
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    # Not the backend, which would not be put back.
    defaults: dict[Any, Any] = {
        k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"
    }
    with matplotlib.rc_context(defaults):
        figure = Figure(**options)
        FigureCanvasAgg(figure)  # which makes itself the figure's
        yield figure


def check_picture(path: pathlib.Path, flag: str = "--output") -> None:
    """Refuses what no picture can be written to.

    Args:
        path: of the picture.
        flag: that names it.

    Raises:
        UserError: tells what is wrong with it.
    """
    if path.suffix not in _FORMATS:
        raise UserError(
            f"{flag}={printable(path)}: pass a name that ends in {' or '.join(_FORMATS)}"
        )
    check_output(flag, path)


def accuracy_curves(
    runs: Mapping[str, Mapping[str, Any]], path: pathlib.Path, head: str = "classifier"
) -> None:
    """Draws accuracy on all seen classes against the number of classes (the paper's Figure 4).

    Args:
        runs: what results.json holds, by the name that the legend shows.
        path: of the picture; its suffix gives the format.
        head: whose accuracy is drawn.
    """
    with new_figure(figsize=(6.4, 3.8), layout="constrained") as figure:
        axes = figure.subplots()
        for i, (name, results) in enumerate(runs.items()):
            classes = [record["num_seen"] for record in results["phases"]]
            accuracies = [
                _percent(record["heads"][head]["accuracy"]) for record in results["phases"]
            ]
            average = _percent(results["summary"][head]["average_accuracy"])
            axes.plot(
                classes,
                accuracies,
                color=_COLOURS[i % len(_COLOURS)],
                marker=_MARKERS[i % len(_MARKERS)],
                linestyle=_LINE_STYLES[i // len(_COLOURS) % len(_LINE_STYLES)],
                label=f"{name} (average {average:.2f})",
            )
        axes.set_xlabel("Number of classes")
        axes.set_ylabel("Accuracy on all seen classes (%)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def paired_differences(
    groups: Mapping[str, Mapping[str, tuple[Sequence[float], float | None]]],
    path: pathlib.Path,
    label: str,
) -> None:
    """Draws how far rows are ahead of another: each seed, their mean and its interval.

    Args:
        groups: rows in the order in which they are drawn, by their names, the groups by what stands
            above them; of a row a value for each seed, and half the width of the mean's interval.
        path: of the picture; its suffix gives the format.
        label: of the axis.
    """
    count = sum(len(rows) for rows in groups.values()) + len(groups)
    with new_figure(figsize=(6.8, 0.6 + 0.26 * count), layout="constrained") as figure:
        axes = figure.subplots()
        axes.axvline(0, color="black", linewidth=0.8)
        ticks: list[str] = []
        headings = []
        for i, (group, rows) in enumerate(groups.items()):
            colour = _COLOURS[i % len(_COLOURS)]
            headings.append(len(ticks))
            ticks.append(group)
            for name, (values, half_width) in rows.items():
                place, mean = len(ticks), float(np.mean(values))
                ticks.append(name)
                if half_width is not None:
                    axes.plot([mean - half_width, mean + half_width], [place] * 2, color=colour)
                axes.plot(values, [place] * len(values), "|", color=colour, alpha=0.6)
                axes.plot(mean, place, _MARKERS[i % len(_MARKERS)], color=colour)
        axes.set_yticks(range(len(ticks)), ticks, parse_math=False)
        labels = axes.get_yticklabels()
        for place in headings:
            labels[place].set_fontweight("bold")
        axes.tick_params("y", length=0)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(path, dpi=150)


def _percent(share: float | None) -> float:
    """Returns a share in percent; NaN, which is not drawn, for what was not tested."""
    return np.nan if share is None else 100 * share


def accuracy_matrix(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Draws the accuracies after each phase on each class group, as RGB uint8 `[h, w, 3]`.

    Args:
        rows: row i holds the accuracies of Theta_i on the classes of phases 0..i.
    """
    matrix = np.full((len(rows), len(rows)), np.nan)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = [_percent(value) for value in row]
    with new_figure(figsize=(5.2, 4.2), layout="constrained") as figure:
        axes = figure.subplots()
        picture = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=100)
        figure.colorbar(picture, label="Accuracy (%)")
        if len(rows) <= 12:
            for i, row in enumerate(rows):
                for k, value in enumerate(row):
                    if value is not None:
                        ink = "black" if value > 0.5 else "white"
                        axes.text(k, i, f"{100 * value:.0f}", ha="center", va="center", color=ink)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("Class group (phase that taught it)")
        axes.set_ylabel("After phase")
        return _pixels(figure)


def confusion_matrix(
    counts: np.ndarray, class_names: Sequence[str], ends: Sequence[int]
) -> np.ndarray:
    """Draws a confusion matrix, each row as shares of its true class, as RGB uint8 `[h, w, 3]`.

    Lines stand between the classes of two phases. Up to `_MOST_NAMED` classes have their names at
    the axes; of more the labels with which phases begin.

    Args:
        counts: `[true, predicted]`.
        class_names: by label.
        ends: classes seen by the end of each phase.
    """
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    count = len(counts)
    named = count <= _MOST_NAMED
    side = max(5.2, 0.27 * count + 2.4) if named else 7.0
    with new_figure(figsize=(side + 1.0, side), layout="constrained") as figure:
        axes = figure.subplots()
        picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
        figure.colorbar(picture, label="Share of the true class (%)", shrink=0.8)
        for end in ends[:-1]:
            for line in (axes.axhline, axes.axvline):
                line(end - 0.5, color="white", linewidth=1.2)
                line(end - 0.5, color="black", linewidth=0.5)
        ticks = list(range(count)) if named else _apart([0, *ends[:-1]], count / 20)
        texts = [_short(class_names[label]) if named else str(label) for label in ticks]
        # Not as formulas: a name may hold a dollar sign.
        axes.set_xticks(ticks, texts, rotation=90 if named else 0, parse_math=False)
        axes.set_yticks(ticks, texts, parse_math=False)
        axes.set_xlabel("Predicted class" if named else "Predicted label")
        axes.set_ylabel("True class" if named else "True label")
        return _pixels(figure)


def _apart(positions: Sequence[int], least: float) -> list[int]:
    """Returns those of ascending positions that are so far from the last one taken."""
    taken: list[int] = []
    for position in positions:
        if not taken or position - taken[-1] >= least:
            taken.append(position)
    return taken


def _short(name: str) -> str:
    text = " ".join(name.split())
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"


def _pixels(figure: Any) -> np.ndarray:
    with warnings.catch_warnings():
        # Of letters that the font lacks: they are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
