"""What settings ask for, wherever they were passed: settled settings, and the protocol."""

import os
from collections.abc import Sequence

from mnemonics_tf.data.layout import TEST_FOLDERS, TRAINING_FOLDERS
from mnemonics_tf.data.phase_classes import ids_of_phases, settled
from mnemonics_tf.data.protocol import ClassIncrementalProtocol, Phase, class_order
from mnemonics_tf.errors import UserError
from mnemonics_tf.paths import user_path
from mnemonics_tf.run.naming import default_run_dir
from mnemonics_tf.settings import Settings


def settle(settings: Settings) -> Settings:
    """Returns settings that do not depend on where and how they were passed.

    They hold the phases of `--phase_classes` themselves, not a file's path; where the data is, from
    the root; and the run's directory.

    Raises:
        UserError: if the file can't be read, or the run would lie among the classes of its data.
    """
    phases, data_dir = settings.protocol.phase_classes, settings.run.data_dir
    if phases:
        settings = settings.changed(phase_classes=settled(phases))
    if data_dir and "://" not in data_dir:
        settings = settings.changed(data_dir=os.path.abspath(user_path(data_dir)))
    if not settings.run.run_dir:
        settings = settings.changed(run_dir=default_run_dir(settings))
    _check_apart(settings)
    return settings


def _check_apart(settings: Settings) -> None:
    """Refuses a run directory in a folder of classes: the next start would take it for one."""
    data_dir = settings.run.data_dir
    if settings.protocol.dataset != "folder" or not data_dir:
        return
    root = user_path(data_dir).resolve()
    try:
        first = user_path(settings.run.run_dir).resolve().relative_to(root).parts[:1]
    except ValueError:
        return  # it lies elsewhere
    parts = [name for name in (*TRAINING_FOLDERS, *TEST_FOLDERS) if (root / name).is_dir()]
    if not parts or set(first) & set(parts):
        raise UserError(
            f"--run_dir={settings.run.run_dir} lies in --data_dir={data_dir}, where each folder is "
            "a class: pass a --run_dir elsewhere"
        )


def make_protocol(
    settings: Settings,
    num_classes: int,
    class_names: Sequence[str] = (),
    original_ids: Sequence[int] | None = None,
) -> ClassIncrementalProtocol:
    """Returns the protocol that settings ask for: explicit phases, or a class order split evenly.

    Args:
        settings: of the run.
        num_classes: how many there are.
        class_names: in the order of the original ids; needed where settings name the classes of
            each phase.
        original_ids: the data's own class ids, ascending; 0..K-1 where they are not given.

    Raises:
        UserError: if settings and classes do not agree.
    """
    wanted = settings.protocol
    ids = original_ids or range(num_classes)
    if wanted.phase_classes:
        phases = ids_of_phases(wanted.phase_classes, class_names, ids)
        return ClassIncrementalProtocol.from_phases(phases, ids)
    shuffled = [ids[place] for place in class_order(num_classes, wanted.class_order_seed)]
    order = wanted.class_order or shuffled
    if len(order) != num_classes:
        raise UserError(
            f"--class_order names {len(order)} classes, but {wanted.dataset} has {num_classes}"
        )
    return ClassIncrementalProtocol(order, wanted.base_classes, wanted.num_phases, original_ids=ids)


def phases_to_run(settings: Settings, protocol: ClassIncrementalProtocol) -> tuple[Phase, ...]:
    """Returns the phases up to the last one that is asked for."""
    last = settings.run.last_phase
    return protocol.phases[: last + 1 if last >= 0 else None]
