"""Speed of a training step in two checkouts of this project, in turns on one machine.

    python -m tools.benchmark_against --checkout=CHECKOUT --output=against.json

Every round runs `tools.benchmark_training` once in this checkout and once in the other, each in a
process of its own and in the environment of this one; a ratio is taken within a round, and the
table gives medians. A turn is an epoch: with --steps=8 and batches of 128 it is as long as an epoch
of N = 25 on CIFAR-100 (1,000 images), with --steps=40 as one of N = 5 (5,000).

Measure on a quiet machine.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

from absl import app, flags

from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run.files import check_output, write_json
from mnemonics_tf.run.hardware import describe_hardware, describe_packages

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

_CHECKOUT = flags.DEFINE_string("checkout", None, "The other checkout.", required=True)
_STEPS = flags.DEFINE_list("steps", ["8", "40"], "Steps in a turn; each is measured.")
_SUBJECTS = flags.DEFINE_list("subjects", ["plain", "lucir"], "What to measure.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Processes of each checkout.", 1)
_TURNS = flags.DEFINE_integer("turns", 5, "Turns of every subject in a process.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def images_per_second(checkout: pathlib.Path, steps: str) -> dict[str, float]:
    """Returns every subject's median speed in one process of a checkout's own benchmark."""
    with tempfile.TemporaryDirectory() as directory:
        output = pathlib.Path(directory) / "speeds.json"
        arguments = {
            "steps": steps,
            "rounds": _TURNS.value,
            "subjects": ",".join(_SUBJECTS.value),
            "output": output,
        }
        subprocess.run(
            [sys.executable, "-m", "tools.benchmark_training"]
            + [f"--{name}={value}" for name, value in arguments.items()],
            cwd=checkout,
            check=True,
            stdout=subprocess.DEVNULL,  # its own table; what goes wrong is shown
        )
        speeds = json.loads(output.read_text())["images_per_second"]
    return {name: statistics.median(values) for name, values in speeds.items()}


def measure(other: pathlib.Path) -> list[dict]:
    """Returns a row for each subject and number of steps: speeds of both, and their ratio."""
    rows = []
    for steps in _STEPS.value:
        rounds = []
        for number in range(_ROUNDS.value):
            rounds.append((images_per_second(_REPOSITORY, steps), images_per_second(other, steps)))
            print(f"{steps} steps, round {number + 1}: {rounds[-1]}", flush=True)
        for subject in _SUBJECTS.value:
            ratios = [this[subject] / that[subject] for this, that in rounds]
            rows.append(
                {
                    "subject": subject,
                    "steps": int(steps),
                    "this": [this[subject] for this, _ in rounds],
                    "other": [that[subject] for _, that in rounds],
                    "ratios": ratios,
                    "median_ratio": statistics.median(ratios),
                }
            )
    return rows


@program()
def main(arguments: list[str]) -> int:
    """Measures, prints the table and writes the file."""
    refuse_arguments(arguments)
    if _OUTPUT.value:
        check_output("--output", user_path(_OUTPUT.value))
    other = user_path(_CHECKOUT.value)
    if not (other / "tools" / "benchmark_training.py").is_file():
        raise app.UsageError(
            f"--checkout={other} holds no tools/benchmark_training.py: name a checkout of this "
            "project"
        )
    rows = measure(other)
    print("| subject | steps | this, images/s | other | ratio | lowest | highest |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        this, that = (statistics.median(row[name]) for name in ("this", "other"))
        print(
            f"| {row['subject']} | {row['steps']} | {this:.0f} | {that:.0f} "
            f"| {row['median_ratio']:.3f} | {min(row['ratios']):.3f} | {max(row['ratios']):.3f} |"
        )
    if _OUTPUT.value:
        result = {"hardware": describe_hardware(), "packages": describe_packages(), "rows": rows}
        write_json(user_path(_OUTPUT.value), result)
    return 0


if __name__ == "__main__":
    app.run(main)
