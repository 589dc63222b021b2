"""Draws the phase-wise accuracies of several runs into one picture.

python -m tools.plot_runs --output=curves.png "LwF=runs/a/results.json" "joint=runs/b/results.json"
"""

from absl import app, flags

from mnemonics_tf.monitoring.pictures import accuracy_curves
from mnemonics_tf.paths import user_path
from mnemonics_tf.run.files import read_json

_OUTPUT = flags.DEFINE_string("output", None, "Picture to write (.png, .svg).", required=True)
_HEAD = flags.DEFINE_enum("head", "classifier", ["classifier", "nme"], "Whose accuracy to draw.")


def main(arguments: list[str]) -> None:
    """Reads NAME=results.json arguments and draws them."""
    named = (argument.split("=", 1) for argument in arguments[1:])
    runs = {name: read_json(user_path(path)) for name, path in named}
    accuracy_curves(runs, user_path(_OUTPUT.value), _HEAD.value)


if __name__ == "__main__":
    app.run(main)
