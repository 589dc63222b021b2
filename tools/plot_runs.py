"""Draws the phase-wise accuracies of several runs into one picture.

python -m tools.plot_runs --output=curves.png LwF=runs/a joint=runs/b/results.json

Takes runs as a report does.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
from collections.abc import Sequence

from absl import flags

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.pictures import accuracy_curves, check_picture
from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, start
from mnemonics_tf.reporting.runs import Run, load_runs
from mnemonics_tf.run import results


def define_flags() -> None:
    """Defines this program's flags; a function, for others have flags of the same names."""
    flags.DEFINE_string("output", None, "Picture to write (.png, .svg).", required=True)
    flags.DEFINE_enum("head", "classifier", ["classifier", "nme"], "Whose accuracy to draw.")


@program()
def main(arguments: list[str]) -> int:
    """Reads runs and draws them."""
    plot(arguments[1:], flags.FLAGS.output, flags.FLAGS.head)
    return 0


def plot(arguments: Sequence[str], picture: str, head: str) -> None:
    """Draws runs.

    Args:
        arguments: their paths, `NAME=` before those that have a name.
        picture: to write.
        head: whose accuracy is drawn.

    Raises:
        UserError: if no run is passed, one can't be read, or the picture can't be written.
    """
    output = user_path(picture)
    check_picture(output)
    runs: dict[str, Run] = {}
    for run in load_runs(arguments):
        name = run.name or str(run.path)
        if name in runs:
            raise UserError(
                f"{runs[name].path} and {run.path} are both called {name!r}: give each a name of "
                "its own (means over seeds are drawn by python -m mnemonics_tf.report)"
            )
        runs[name] = run
    if not runs:
        raise UserError("pass runs, as NAME=RUN")
    # Computed again: an older file may have fewer metrics.
    drawn = {
        name: run.contents | {"summary": results.summarize(run.phases)}
        for name, run in runs.items()
    }
    accuracy_curves(drawn, output, head)


if __name__ == "__main__":
    define_flags()
    start(main)
