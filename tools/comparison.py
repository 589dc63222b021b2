"""What a comparison of exemplars is asked for, refused before it trains for hours in vain."""

from collections.abc import Sequence

from mnemonics_tf.errors import UserError, printable
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.paths import user_path
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import check_output, check_path
from mnemonics_tf.run.resume import codec_in_words
from mnemonics_tf.settings import ExemplarSettings, RunSettings, Settings

#: settings of a run that a comparison, which neither stops nor exports, would not heed
_IN_VAIN = ("last_phase", "model_name")

#: what may become of kernels in the next phase
NEXT_PHASES = ("transfer", "plain")


def check_comparison(
    wanted: Settings,
    output: str,
    next_phases: Sequence[str],
    exemplars_from: str,
) -> None:
    """Refuses what can't be compared, or would be lost.

    Args:
        wanted: the settings.
        output: value of --output.
        next_phases: value of --next_phase.
        exemplars_from: value of --exemplars_from.

    Raises:
        UserError: tells what is wrong.
    """
    run = wanted.run
    if not run.run_dir:
        raise UserError("--run_dir is missing: pass a new directory for the comparison")
    named = {name: getattr(run, name) for name in ("run_dir", "data_dir", "phase0_from")}
    for name, path in {**named, "exemplars_from": exemplars_from}.items():
        check_path(f"--{name}", path)
    directory = user_path(run.run_dir)
    if directory.exists():
        raise UserError(
            f"--run_dir={printable(directory)}: exists already; pass a new one for each comparison"
        )
    _check_heeded(run)
    check_output("--output", user_path(output))
    unknown = [name for name in next_phases if name not in NEXT_PHASES]
    if unknown:
        raise UserError(
            f"--next_phase={','.join(next_phases)}: {unknown[0]!r} is unknown; known are "
            f"{', '.join(NEXT_PHASES)}"
        )
    if exemplars_from and not RunDirectory(exemplars_from).exemplars(0).is_file():
        raise UserError(
            f"--exemplars_from={exemplars_from} has no exemplars of phase 0 "
            "(phases/00/exemplars.npz): pass the directory of a run or comparison that made some"
        )
    if exemplars_from:
        _check_codec(wanted.exemplar, exemplars_from)


def _check_heeded(run: RunSettings) -> None:
    """Refuses flags that a comparison would pass over."""
    defaults = RunSettings()
    for name in _IN_VAIN:
        if getattr(run, name) != getattr(defaults, name):
            raise UserError(
                f"--{name}={getattr(run, name)} is in vain: a comparison neither stops nor exports "
                "anything: leave it out"
            )
    if run.strategy not in ("auto", "single"):
        raise UserError(f"--strategy={run.strategy}: a comparison uses one device: leave it out")


def _check_codec(wanted: ExemplarSettings, exemplars_from: str) -> None:
    """Refuses exemplars of another codec, or quality, than flags say: a next phase would."""
    path = RunDirectory(exemplars_from).exemplars(0)
    memory = ExemplarMemory.load(path, wanted.codec)
    found = codec_in_words(memory.codec, memory.quality)
    asked_for = codec_in_words(wanted.codec, wanted.jpeg_quality)
    if found != asked_for:
        raise UserError(
            f"--exemplars_from={exemplars_from} holds exemplars stored as {found}, and flags say "
            f"{asked_for}: pass --codec and --jpeg_quality as that run had them"
        )


def check_next_phase(next_phases: Sequence[str], num_phases: int) -> None:
    """Refuses to measure a next phase that there is not.

    Args:
        next_phases: value of --next_phase.
        num_phases: of the protocol, phase 0 among them.

    Raises:
        UserError: if phase 0 is the only one.
    """
    if next_phases and num_phases < 2:
        raise UserError(
            f"--next_phase={','.join(next_phases)}: there is no phase after phase 0: pass a "
            "protocol that has one, or leave the flag out"
        )
