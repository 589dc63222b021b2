"""Exports phases of a run again: python -m mnemonics_tf.export --run_dir=RUN [--phase=i].

For exports that are missing or damaged: each is made from the phase's model and exemplars, which a
run keeps. Exports that are whole stay as they are. A phase that `learn --noexport` holds back is
exported where --phase names it, and held back no more. A models.config that is missing, or names
other models, is written again. Exit status 1 where an export can't be made. Code of one's own,
package.module:Name, runs where its flag is passed as the run had it.
"""

import mnemonics_tf.startup  # isort: skip  # noqa: F401 (before TensorFlow)
import dataclasses
from collections.abc import Mapping

from absl import flags

from mnemonics_tf import flags as settings_flags
from mnemonics_tf.data.protocol import Phase
from mnemonics_tf.data.source import DataSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.extension.reopened import open_run
from mnemonics_tf.opened_run import OpenedRun
from mnemonics_tf.program import program, refuse_arguments, start
from mnemonics_tf.run.learned import read_learned
from mnemonics_tf.terminal import passing


def define_flags() -> None:
    """Defines this program's flags; a function, for `train` has flags of the same names."""
    settings_flags.define_flags_of_a_run("export")
    flags.adopt_module_key_flags(settings_flags)  # so that --help shows them


@program("stopped at once; the same command goes on")
def main(arguments: list[str]) -> int:
    """Exports the phases that the flags name."""
    refuse_arguments(arguments)
    values = flags.FLAGS
    own = settings_flags.named_code(values)
    return export(values.run_dir, values.data_dir, values.phase, own)


def export(
    run_dir: str, data_dir: str, phase_index: int, own: Mapping[str, str] | None = None
) -> int:
    """Makes exports that are missing or damaged; returns 1 if one can't be made, else 0.

    Args:
        run_dir: of the run.
        data_dir: where the data is, which tells how images are brought to one size; empty: where it
            was when the run learned from it.
        phase_index: which phase; -1 for all that are done.
        own: settings of the run that name code, which may be imported.

    Raises:
        UserError: if there is no such run or phase, another process works on it, the data has other
            classes or is not found, or the run would import code that was not named.
    """
    passing("reading the run and its data ...")
    opened = open_run(run_dir, data_dir, own or {}, "exporting it")
    passing("")
    source = opened.source
    if source.fit_image is None and source.fitting != DataSource.fitting:
        raise UserError(
            f"none of the data of {run_dir} is found, which tells how images are brought to one "
            "size: pass --data_dir"
        )
    chosen = opened.phases_done(phase_index)
    with opened.directory.locked():
        done = [_export(opened, phase, phase.index == phase_index) for phase in chosen]
        opened.exports.write_config()
    return 0 if all(done) else 1


def _export(opened: OpenedRun, phase: Phase, named: bool) -> bool:
    """Makes the export of a phase if it needs to be; returns whether nothing went wrong.

    Args:
        opened: the run.
        phase: which.
        named: whether it was asked for by its number.
    """
    path, trouble = opened.exports.path(phase), opened.exports.trouble(phase)
    learned = read_learned(opened.directory, phase.index)
    held_back = learned if learned and not learned.export else None
    if held_back and not named:
        print(f"phase {phase.index}: is held back; --phase={phase.index} exports it")
        return True
    if not trouble:
        print(f"phase {phase.index}: {path} is whole")
    else:
        passing(f"exporting phase {phase.index} ...")
        try:
            opened.export(phase)
        except UserError as error:
            passing("")
            print(f"phase {phase.index}: {path} {trouble}: it can't be made again: {error}")
            return False
        passing("")
        print(f"phase {phase.index}: {path} {trouble}: it is made{'' if held_back else ' again'}")
    if held_back:
        dataclasses.replace(held_back, export=True).write(opened.directory)
    return True


def command() -> None:
    """The console command `mnemonics-export`."""
    define_flags()
    start(main)


if __name__ == "__main__":
    command()
