"""Runs without what takes longer than their training and has tests of its own."""

import contextlib
from collections.abc import Iterator

import pytest

from mnemonics_tf import experiment
from mnemonics_tf.phases.exports import PhaseExports


@contextlib.contextmanager
def nothing_to_look_at(*, exports: bool = False) -> Iterator[None]:
    """Within it runs show no pictures in TensorBoard, and export nothing unless asked to.

    Args:
        exports: whether phases are exported.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "show_phase", lambda *arguments: None)
        if not exports:
            patch.setattr(PhaseExports, "write", lambda *arguments: None)
        yield
