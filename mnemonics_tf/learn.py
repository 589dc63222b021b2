"""Teaches a run further classes: python -m mnemonics_tf.learn --run_dir=RUN --data_dir=DIR.

RUN is finished. DIR holds the new classes, a folder of images for each (or arrays, see --dataset).
They become one phase more, learned from the last model and the exemplars alone, with the settings
of the last phase unless flags say otherwise. The same command goes on with a phase that was
stopped. --undo takes the last phase learned so back.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import dataclasses

import tensorflow as tf
from absl import flags

from mnemonics_tf import devices
from mnemonics_tf import flags as settings_flags
from mnemonics_tf.errors import UserError
from mnemonics_tf.extension.further_phase import Extension
from mnemonics_tf.extension.reopened import undo
from mnemonics_tf.extension.wanted import Request
from mnemonics_tf.monitoring.progress import LOGGER, log_before_run, log_to, stop_logging
from mnemonics_tf.outcome import tell_outcome
from mnemonics_tf.program import program, refuse_arguments, start
from mnemonics_tf.registry import is_own, looked_up
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_path
from mnemonics_tf.run.interruption import EXIT_STATUS, RunInterruptedError
from mnemonics_tf.run.workers import own_directory


def define_flags() -> None:
    """Defines this program's flags; a function, for `train` has most of them too."""
    settings_flags.define_flags()
    flags.adopt_module_key_flags(settings_flags)
    define_own_flags()


def define_own_flags() -> None:
    """Defines those of this program's flags that are no settings."""
    flags.DEFINE_boolean("skip_known", False, "Leave out classes that the run knows already.")
    flags.DEFINE_boolean("export", True, "Export the phase; --noexport holds it back from servers.")
    flags.DEFINE_boolean("undo", False, "Take the last phase learned by this program back.")
    flags.DEFINE_string(
        "run_data_dir", "", "Where the data are that the run began with; where they were, if empty."
    )


@program(
    stopped="stopped at once; the same command goes on from the last checkpoint",
    diverged=", after --undo, which gives this phase up",
)
def main(arguments: list[str]) -> int:
    """Learns what the flags describe and prints the run's table."""
    refuse_arguments(arguments)
    values = flags.FLAGS
    passed = settings_flags.passed_settings(values)
    if not passed.get("run_dir"):
        raise UserError("--run_dir is missing: pass the directory of a finished run")
    for option in ("run_dir", "data_dir"):
        check_path(f"--{option}", passed.get(option, ""))
    check_path("--run_data_dir", values.run_data_dir)
    request = Request(passed, values.skip_known, values.export, values.run_data_dir)
    return learn(request, values.undo)


def learn(request: Request, takes_back: bool = False) -> int:
    """Learns a phase, or takes the last one back; returns the exit status.

    Args:
        request: what is to be learned.
        takes_back: whether the last learned phase is to go.
    """
    run = request.run
    if takes_back:
        named = _code_named_to_undo(request)
        directory = RunDirectory(run.run_dir)
        directory.require()
        log_before_run()
        with directory.locked():
            log_to(directory.log)
            try:
                undo(run, named)
            finally:
                stop_logging()
        return 0
    strategy = devices.create_strategy(run.strategy)
    with own_directory(strategy, run.run_dir) as place:
        passed = {**request.passed, "run_dir": place}
        return _learn(dataclasses.replace(request, passed=passed), strategy)


def _code_named_to_undo(request: Request) -> dict[str, str]:
    """Returns what names code of the run's own; refuses flags that say what to learn.

    What --undo takes back is gone for good: who passes more may have meant something else.
    """
    names = looked_up()
    named = {n: v for n, v in request.passed.items() if n in names and is_own(v)}
    known = {*named, "run_dir", "model_name"}
    others = [f"--{name}" for name in request.passed if name not in known]
    others += ["--skip_known"] * request.skip_known + ["--noexport"] * (not request.export)
    others += ["--run_data_dir"] * bool(request.run_data_dir)
    if others:
        raise UserError(
            f"--undo with {', '.join(others)}: it takes the last learned phase back for good, "
            "whatever that learned: leave these out, or --undo"
        )
    return named


def _learn(request: Request, strategy: tf.distribute.Strategy) -> int:
    console = devices.is_chief(strategy)
    log_before_run(console)
    extension = Extension(request, strategy)
    with extension.experiment.session(console):
        try:
            contents = extension.run()
        except RunInterruptedError:
            LOGGER.info("stopped on request; the same command goes on from here")
            return EXIT_STATUS
        tell_outcome(extension.experiment.directory, contents)
    return 0


def command() -> None:
    """The console command `mnemonics-learn`."""
    define_flags()
    start(main)


if __name__ == "__main__":
    command()
