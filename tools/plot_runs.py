"""Draws the phase-wise accuracies of several runs into one picture.

python -m tools.plot_runs --output=curves.png LwF=runs/a joint=runs/b/results.json

Takes runs as a report does.
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.pictures import accuracy_curves, check_picture
from mnemonics_tf.paths import user_path
from mnemonics_tf.reporting.runs import load_runs
from mnemonics_tf.run import results


def define_flags() -> None:
    """Defines this program's flags; a function, for others have flags of the same names."""
    flags.DEFINE_string("output", None, "Picture to write (.png, .svg).", required=True)
    flags.DEFINE_enum("head", "classifier", ["classifier", "nme"], "Whose accuracy to draw.")


def main(arguments: list[str]) -> int:
    """Reads runs and draws them."""
    return plot(arguments[1:], flags.FLAGS.output, flags.FLAGS.head)


def plot(arguments: Sequence[str], picture: str, head: str) -> int:
    """Draws runs; returns the exit status.

    Args:
        arguments: their paths, `NAME=` before those that have a name.
        picture: to write.
        head: whose accuracy is drawn.
    """
    try:
        output = user_path(picture)
        check_picture(output)
        runs = {run.name or str(run.path): run for run in load_runs(arguments)}
        if not runs:
            raise UserError("pass runs, as NAME=RUN")
        # Computed again: an older file may have fewer metrics.
        drawn = {
            name: run.contents | {"summary": results.summarize(run.phases)}
            for name, run in runs.items()
        }
        accuracy_curves(drawn, output, head)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main)
