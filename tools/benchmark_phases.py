"""What phases cost beside their training: processor time, memory and traces of many tiny phases.

    python -m tools.benchmark_phases --output=phases.json
    python -m tools.benchmark_phases --against=CHECKOUT --output=phases.json

Runs the training command on 50 classes of a few 8 x 8 images, 25 of them in phase 0 and then one a
phase, one epoch each; and on the digits. With --against another checkout of this project runs the
same in turns, in the same environment.
"""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
from absl import app, flags

from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run.files import check_output, write_json
from mnemonics_tf.run.hardware import describe_hardware, describe_packages

_REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
_TINY = (
    *("--dataset=npz", "--base_classes=25", "--num_phases=25", "--base_epochs=1", "--epochs=1"),
    *("--finetune_epochs=1", "--exemplars_per_class=2", "--batch_size=16", "--depth=8"),
)
RUNS = {"tiny, N = 25": _TINY, "digits, N = 5": ("--dataset=digits",)}


def write_tiny(path: pathlib.Path) -> None:
    """Writes 50 classes of noise around a brightness of their own."""
    generator = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 12), ("test", 4)):
        labels = np.repeat(np.arange(50), count)
        noise = generator.integers(0, 50, (len(labels), 8, 8, 1))
        arrays[f"x_{part}"] = (noise + 4 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"y_{part}"] = labels
    np.savez(path, **arrays)


def measure(checkout: pathlib.Path, arguments: tuple[str, ...], directory: pathlib.Path) -> dict:
    """Runs the training command once and returns what it took.

    Args:
        checkout: of the project.
        arguments: flags.
        directory: an empty one for the run.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-P", "-m", "mnemonics_tf.train", f"--run_dir={directory / 'run'}"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory: dict[int, int] = {}
    watcher = threading.Thread(target=_watch, args=(process, directory / "run", memory))
    watcher.start()
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    watcher.join()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    phases = sorted(memory)
    growth = (memory[phases[-1]] - memory[3]) / (phases[-1] - 3) if len(phases) > 4 else None
    return {
        "processor_seconds": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "seconds": time.monotonic() - started,
        "megabytes_by_phase": [round(memory[phase] / 2**20) for phase in phases],
        "megabytes_a_phase_from_phase_3": growth and round(growth / 2**20, 2),
    }


def _watch(process: subprocess.Popen, run: pathlib.Path, memory: dict[int, int]) -> None:
    """Notes the process's resident memory whenever another phase has been closed."""
    while process.poll() is None:
        closed = len(list(run.glob("phases/*/phase.json"))) - 1
        try:
            pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            pages = 0
        if closed >= 0 and pages:
            memory.setdefault(closed, pages * os.sysconf("SC_PAGE_SIZE"))
        time.sleep(0.02)


def define_flags() -> None:
    """Defines this program's flags; a function, for a test imports this module."""
    flags.DEFINE_string("against", None, "A checkout to compare with.")
    flags.DEFINE_integer("rounds", 1, "Turns of every checkout.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


@program()
def main(arguments: list[str]) -> int:
    """Measures all runs in turns and writes the figures."""
    refuse_arguments(arguments)
    check_output("--output", user_path(flags.FLAGS.output))
    checkouts = {"this": _REPOSITORY}
    if flags.FLAGS.against:
        other = user_path(flags.FLAGS.against).resolve()
        # Python would take the package that is installed, and measure that.
        if not (other / "mnemonics_tf" / "train.py").is_file():
            raise app.UsageError(
                f"--against={other} holds no mnemonics_tf/train.py: name a checkout of this project"
            )
        checkouts["other"] = other
    figures: dict[str, dict] = {
        "hardware": describe_hardware(),
        "packages": describe_packages(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        data = pathlib.Path(scratch, "tiny.npz")
        write_tiny(data)
        for name, arguments in RUNS.items():
            chosen = (*arguments, f"--data_dir={data}") if "npz" in arguments[0] else arguments
            turns: dict[str, list] = {each: [] for each in checkouts}
            for turn in range(flags.FLAGS.rounds):
                for each, checkout in checkouts.items():
                    directory = pathlib.Path(scratch, f"{len(figures)}-{turn}-{each}")
                    directory.mkdir()
                    turns[each].append(measure(checkout, chosen, directory))
                    print(name, each, json.dumps(turns[each][-1]), flush=True)
            figures[name] = turns
            if flags.FLAGS.against:
                ours, theirs = (
                    min(turn["processor_seconds"] for turn in turns[each]) for each in checkouts
                )
                figures[name]["ratio_of_processor_seconds"] = round(ours / theirs, 3)
    write_json(user_path(flags.FLAGS.output), figures)
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main)
