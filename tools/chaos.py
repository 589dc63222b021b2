"""Breaks a small run in the ways that machines break, and checks that it ends as one left alone.

python -m tools.chaos --output=docs/results/faults

One run is killed at random moments in all stages. A second one meets signals, damaged files, a full
and a read-only disk, a second process and a clock that jumps; it lies on a small file system of its
own where this process may mount one. Both must end with the results, models, exemplars and exported
outputs of a third one that nothing happened to, bit for bit. Writes OUTPUT.md and OUTPUT.json; exit
status 1 if anything was not survived.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import app, flags

from mnemonics_tf.paths import user_path
from mnemonics_tf.program import program, refuse_arguments
from mnemonics_tf.run import hardware
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_output, read_arrays, write_arrays, write_json, write_text
from mnemonics_tf.run.interruption import EXIT_STATUS
from tools.chaos_run import (
    DEMO,
    EVALUATE,
    PATIENCE_SECONDS,
    Moment,
    Runner,
    differences,
    error_line,
    moments,
    reached,
)

_FILE_SYSTEM_BYTES = 16 * 2**20

#: runs the training command with a clock of the day that jumps by more than a year, both ways
_JUMPING_CLOCK = """\
import random, runpy, sys, time
clock = time.time
time.time = lambda: clock() + random.choice((-4e7, 0, 4e7))
sys.argv[0] = "mnemonics_tf.train"
runpy.run_module("mnemonics_tf.train", run_name="__main__", alter_sys=True)
"""


@dataclasses.dataclass
class Fault:
    """A row of the table.

    Attributes:
        name: what was done.
        moment: where the run was.
        outcome: what the program did.
        expected: whether that is what it should do; None where it was not tried.
    """

    name: str
    moment: str
    outcome: str
    expected: bool | None


# Kills


def plan_kills(demo: dict[str, Any], count: int, generator: random.Random) -> list[Moment]:
    """Returns moments in all stages of all phases first, then random ones, in order."""
    groups: dict[tuple[int, int], list[Moment]] = {}
    for moment in moments(demo):
        groups.setdefault((moment.phase, moment.stage), []).append(moment)
    busy = [group for group in groups.values() if len(group) > 1 or group[0].stage == EVALUATE]
    chosen = [generator.choice(group) for group in generator.sample(busy, len(busy))][:count]
    others = [moment for moment in moments(demo) if moment not in chosen]
    return sorted(chosen + generator.sample(others, count - len(chosen)))


def kill_again_and_again(
    runner: Runner, demo: dict[str, Any], count: int, generator: random.Random
) -> list[Fault]:
    """Kills a run at `count` moments, each a random instant after its files show the moment."""
    faults = []
    for planned in plan_kills(demo, count, generator):
        # A run that got further than planned before it died has later moments left.
        here = reached(runner.directory)
        later = [moment for moment in moments(demo) if moment > here]
        moment = planned if planned > here or not later else later[0]
        delay = generator.uniform(0, 1.0 if moment.stage == EVALUATE else 0.3)
        with runner.until(moment) as process:
            time.sleep(delay)
            process.kill()
            status = process.wait()
        killed = status == -signal.SIGKILL
        outcome = f"died {1000 * delay:.0f} ms later, at {reached(runner.directory)}"
        faults.append(Fault("SIGKILL", str(moment), outcome, killed))
        print(faults[-1], flush=True)
    return faults


# Everything else


class Disk:
    """A small file system, where this process may mount one; otherwise a plain directory.

    Args:
        path: where.

    Attributes:
        path: where.
        is_mounted: whether it is a file system of its own.
        reason: why it is not.
    """

    def __init__(self, path: pathlib.Path):
        path.mkdir(parents=True)
        self.path = path
        self.reason = self._mount("-t", "tmpfs", "-o", f"size={_FILE_SYSTEM_BYTES}", "tmpfs")
        self.is_mounted = not self.reason

    def _mount(self, *arguments: str) -> str:
        """Returns why mounting failed, or an empty string."""
        try:
            done = subprocess.run(
                ["mount", *arguments, str(self.path)], capture_output=True, text=True, check=False
            )
        except OSError as error:
            return f"mount: {error.strerror}"
        return done.stderr.strip() or f"mount: exit status {done.returncode}" * bool(
            done.returncode
        )

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Within it, no byte is left."""
        filler = self.path / "filler"
        with open(filler, "wb", buffering=0) as stream, contextlib.suppress(OSError):
            while stream.write(bytes(4096)):
                pass
        try:
            yield
        finally:
            filler.unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Within it, nothing can be written."""
        self._mount("-o", "remount,ro")
        try:
            yield
        finally:
            self._mount("-o", "remount,rw")

    def release(self) -> None:
        """Unmounts it."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False)


def meet_faults(runner: Runner, disk: Disk) -> list[Fault]:
    """Puts one run through everything but plain kills, from its start to its end."""
    trials = {
        "SIGTERM": lambda: _stop(runner, signal.SIGTERM, Moment(0, 0, 1)),
        "SIGINT": lambda: _stop(runner, signal.SIGINT, Moment(0, 1, 1)),
        "second process on the directory": lambda: _second_process(runner, Moment(0, 1, 3)),
        "newest checkpoint cut short": lambda: _damage_newest(runner, Moment(0, 1, 4), _cut_short),
        "full disk": lambda: _full_disk(runner, disk, Moment(1, 0, 1)),
        "limit on file sizes (RLIMIT_FSIZE)": lambda: _file_size_limit(runner),
        "read-only directory": lambda: _read_only(runner, disk),
        "newest checkpoint's bytes flipped": lambda: _damage_newest(runner, Moment(1, 2, 2), _flip),
        **{
            name: lambda damage=damage: _refusal(runner, disk.path.parent / "damaged", damage)
            for name, damage in _DAMAGES.items()
        },
        "clock that jumps by 400 days": lambda: _jumping_clock(runner, Moment(1, 4, 2)),
    }
    faults = []
    for name, trial in trials.items():
        try:
            moment, outcome, expected = trial()
        # The run did not get where the fault was to meet it, or hangs.
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            moment, outcome, expected = reached(runner.directory), str(error)[-500:], False
        faults.append(Fault(name, str(moment), outcome, expected))
        print(faults[-1], flush=True)
    return faults


#: where the run was, what the program did, whether it should; None where it was not tried
_Seen = tuple[Moment, str, bool | None]


def _stop(runner: Runner, number: signal.Signals, moment: Moment) -> _Seen:
    with runner.until(moment) as process:
        process.send_signal(number)
        status = process.wait(PATIENCE_SECONDS)
    outcome = f"exit status {status}, saved at {reached(runner.directory)}"
    return moment, outcome, status == EXIT_STATUS


def _second_process(runner: Runner, moment: Moment) -> _Seen:
    with runner.until(moment) as process:
        process.send_signal(signal.SIGSTOP)  # so that it is still at work when the other comes
        status, printed = runner.finish()
        line = error_line(printed)
        process.kill()
    return moment, line, status == 2 and "another process works on" in line


def _damage_newest(runner: Runner, moment: Moment, damage: Callable[[pathlib.Path], None]) -> _Seen:
    with runner.until(moment) as process:
        process.kill()
    before = reached(runner.directory)
    newest = max(runner.directory.phase(moment.phase).glob("checkpoint-*.npz"))
    damage(newest)
    already = len(runner.printed())
    with runner.until(dataclasses.replace(before, position=before.position + 1)):
        lines = runner.printed()[already:].splitlines()
    warnings = [line for line in lines if newest.name in line and "is damaged" in line]
    outcome = "warned and went on from the one before" if warnings else "no warning"
    return before, outcome, bool(warnings)


def _cut_short(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _flip(path: pathlib.Path) -> None:
    contents = bytearray(path.read_bytes())
    middle = slice(len(contents) // 2, len(contents) // 2 + 16)
    contents[middle] = bytes(255 - byte for byte in contents[middle])
    path.write_bytes(contents)


def _full_disk(runner: Runner, disk: Disk, moment: Moment) -> _Seen:
    if not disk.is_mounted:
        return moment, f"not tried ({disk.reason})", None
    already = len(runner.printed())
    with runner.until(moment) as process, disk.full():
        status = process.wait(PATIENCE_SECONDS)
    line = error_line(runner.printed()[already:])
    return moment, line, status == 2 and "the disk is full" in line


def _file_size_limit(runner: Runner) -> _Seen:
    moment = reached(runner.directory)
    status, printed = runner.finish(largest_file=200_000)
    line = error_line(printed)
    return moment, line, status == 2 and "file size limit" in line


def _read_only(runner: Runner, disk: Disk) -> _Seen:
    moment = reached(runner.directory)
    if not disk.is_mounted:
        return moment, f"not tried ({disk.reason})", None
    with disk.read_only():
        status, printed = runner.finish()
    line = error_line(printed)
    return moment, line, status == 2 and "can't be written" in line


def _checkpoints(directory: RunDirectory) -> list[pathlib.Path]:
    return sorted(directory.phase(1).glob("checkpoint-*.npz"))


def _give_away(path: pathlib.Path) -> None:
    """Makes a checkpoint another run's."""
    write_arrays(path, read_arrays(path) | {"owner": np.array("another run")})


#: what a run must diagnose, and leave as it is; phase 0 is done and phase 1 is not
_DAMAGES: dict[str, Callable[[RunDirectory], Any]] = {
    "settings.json removed": lambda run: run.settings.unlink(),
    "settings.json cut short": lambda run: _cut_short(run.settings),
    "record of phase 0 removed": lambda run: run.record(0).unlink(),
    "record of phase 0 cut short": lambda run: _cut_short(run.record(0)),
    "model of phase 0 cut short": lambda run: _cut_short(run.model(0)),
    "exemplars of phase 0 removed": lambda run: run.exemplars(0).unlink(),
    "all checkpoints cut short": lambda run: [_cut_short(path) for path in _checkpoints(run)],
    "checkpoints of another run": lambda run: [_give_away(path) for path in _checkpoints(run)],
}


def _refusal(
    runner: Runner, copied_to: pathlib.Path, damage: Callable[[RunDirectory], Any]
) -> _Seen:
    """Damages a copy of the run directory and starts the command on it."""
    shutil.rmtree(copied_to, ignore_errors=True)
    shutil.copytree(runner.directory.root, copied_to)
    damaged = RunDirectory(copied_to)
    moment = reached(damaged)
    damage(damaged)
    before = _files_of(damaged)
    status, printed = runner.on(copied_to).finish()
    return moment, error_line(printed), status == 2 and _files_of(damaged) == before


def _files_of(directory: RunDirectory) -> dict[str, bytes]:
    """Returns the contents of all files that hold a run's state."""
    paths = [path for path in directory.root.rglob("*") if path.suffix in (".npz", ".json")]
    return {str(path): path.read_bytes() for path in paths}


def _jumping_clock(runner: Runner, moment: Moment) -> _Seen:
    started = reached(runner.directory)
    with runner.until(moment, "-c", _JUMPING_CLOCK) as process:
        process.kill()
    return started, f"went on to {reached(runner.directory)}", True


# The table


def table(report: dict[str, Any]) -> str:
    """Returns the report as Markdown."""
    faults = [*report["kills"], *report["faults"]]
    tried = [fault for fault in faults if fault["expected"] is not None]
    lines = [
        "# Faults tried and survived",
        "",
        "Written by `python -m tools.chaos`: a run on the handwritten digits (two phases, "
        "learned exemplars with adjustment, weight transfer, fine-tune) that meets faults, beside "
        "one that meets none. Flags:",
        "",
        f"`{' '.join(report['flags'])}`",
        "",
        f"{report['survived']} of {len(tried)} faults went as "
        "they should. Results (times apart), models, exemplars, predictions and the outputs of all "
        "exported signatures, beside those of the run left alone:",
        "",
    ]
    for name, found in report["differences"].items():
        lines.append(f"- {name}: {'; '.join(found) if found else 'the same, bit for bit'}")
    for title, key in (("Killed at random moments", "kills"), ("Other faults", "faults")):
        lines += ["", f"## {title}", "", "| fault | the run was at | what it did | as it should |"]
        lines.append("| --- | --- | --- | --- |")
        for fault in report[key]:
            verdict = {True: "yes", False: "**no**", None: "-"}[fault["expected"]]
            outcome = fault["outcome"].replace("|", "\\|")
            lines.append(f"| {fault['name']} | {fault['moment']} | {outcome} | {verdict} |")
    packages = ", ".join(f"{name} {version}" for name, version in report["packages"].items())
    return "\n".join([*lines, "", f"With {packages}; kills drawn with seed {report['seed']}.", ""])


def define_flags() -> None:
    """Defines this program's flags; a function, for a test imports this module."""
    flags.DEFINE_string("output", None, "Path to write, without .md and .json.", required=True)
    flags.DEFINE_string("work_dir", "", "Directory for the runs; by default a temporary one.")
    most = len(moments(DEMO))
    flags.DEFINE_integer("kills", 20, "How often a run is killed.", lower_bound=1, upper_bound=most)
    flags.DEFINE_integer("kill_seed", 0, "Seed of the moments.")


@program()
def main(arguments: list[str]) -> int:
    """Runs all faults and writes the table."""
    refuse_arguments(arguments)
    values = flags.FLAGS
    for suffix in (".json", ".md"):
        check_output("--output", user_path(f"{values.output}{suffix}"))
    work = user_path(values.work_dir or tempfile.mkdtemp(prefix="chaos-")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    generator = random.Random(values.kill_seed)
    alone, killed = (
        Runner(DEMO, work / name, work / f"{name}.txt") for name in ("alone", "killed")
    )
    disk = Disk(work / "disk")
    broken = Runner(DEMO, disk.path / "run", work / "broken.txt")
    # Exiting, rather than ending at once, takes the disk and the started commands along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            left_alone = pool.submit(alone.finish)
            kills_met = pool.submit(kill_again_and_again, killed, DEMO, values.kills, generator)
            faults_met = pool.submit(meet_faults, broken, disk)
            kills, faults = kills_met.result(), faults_met.result()
            status, printed = left_alone.result()
        if status:
            raise RuntimeError(f"the run left alone ends with exit status {status}: {printed}")
        different = {}
        for name, runner in (("killed run", killed), ("run with the other faults", broken)):
            status, printed = runner.finish()
            ended = [] if status == 0 else [f"exit status {status}: {error_line(printed)}"]
            different[name] = ended or differences(alone.directory, runner.directory)
    finally:
        disk.release()
    rows = [*kills, *faults]
    report = {
        "flags": [f"--{name}={value}" for name, value in DEMO.items()],
        "seed": values.kill_seed,
        "survived": sum(fault.expected is True for fault in rows),
        "differences": different,
        "kills": [dataclasses.asdict(fault) for fault in kills],
        "faults": [dataclasses.asdict(fault) for fault in faults],
        "packages": hardware.describe_packages(),
        "hardware": hardware.describe_hardware(),
    }
    text = json.dumps(report).replace(str(work), "WORK")
    write_json(user_path(f"{values.output}.json"), json.loads(text))
    write_text(user_path(f"{values.output}.md"), table(json.loads(text)))
    print(table(report))
    return int(any(fault.expected is False for fault in rows) or any(different.values()))


if __name__ == "__main__":
    define_flags()
    app.run(main)
