"""What the commands have in common: one line where a user went wrong, and an exit status."""

import functools
import io
import sys
from collections.abc import Callable

from absl import app, flags, logging

from mnemonics_tf import flags as settings_flags
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.progress import drop_output, in_command
from mnemonics_tf.run.interruption import INTERRUPTED
from mnemonics_tf.terminal import passing

Main = Callable[[list[str]], int]

#: exit status of a program whose output nobody reads any more (128 + SIGPIPE, as shells have it)
NOT_READ = 141


def program(stopped: str = "stopped at once", diverged: str = "") -> Callable[[Main], Main]:
    """Makes a command's `main` end with one line and an exit status whatever happens.

    0 stands for success and 2 for a user's error; `main` may return others. Where what it prints
    is no longer read the status is 141.

    Args:
        stopped: what to say when it is interrupted; the status is 130.
        diverged: what to add to the advice where training has diverged; the status is 1.
    """

    def wrap(main: Main) -> Main:
        @functools.wraps(main)
        def guarded(arguments: list[str]) -> int:
            if not flags.FLAGS["verbosity"].present:
                logging.set_verbosity(logging.WARNING)  # TensorFlow tells of its inner life at INFO
            _prepare_output()
            try:
                with in_command():
                    status = main(arguments)
                sys.stdout.flush()
                return status
            except BrokenPipeError:  # as of `| head -1`: what was wanted has been read
                drop_output()
                return NOT_READ
            except KeyboardInterrupt:
                passing("")
                print(stopped, file=sys.stderr)
                return INTERRUPTED
            except UserError as error:
                passing("")
                print(f"error: {error}", file=sys.stderr)
                return 2
            except FloatingPointError as error:
                print(f"error: {error}{diverged}", file=sys.stderr)
                return 1

        return guarded

    return wrap


def _prepare_output() -> None:
    r"""Has standard output show each line as it comes, also to a file or program.

    A letter that the locale's encoding does not have shows as `\xNN`.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        errors = "backslashreplace" if sys.stdout.errors == "strict" else sys.stdout.errors
        sys.stdout.reconfigure(line_buffering=True, errors=errors)


def refuse_arguments(arguments: list[str]) -> None:
    """Refuses what is passed to a command without a flag's name.

    Args:
        arguments: the command's name, and what absl left.

    Raises:
        UserError: names the first one.
    """
    if len(arguments) > 1:
        raise UserError(
            f"unexpected argument {arguments[1]!r}: settings are passed as --name=value"
        )


def start(main: Main) -> None:
    """Runs a command whose flags are defined; does not return."""
    settings_flags.define_version()
    app.run(main, flags_parser=settings_flags.parse_flags)
