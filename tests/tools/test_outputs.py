"""Tools that measure for hours refuse first what their figures can't be written to."""

import types

import pytest
from absl import flags

from mnemonics_tf.errors import UserError
from tools import benchmark_phases, chaos


@pytest.mark.parametrize("tool", [benchmark_phases, chaos])
def test_an_output_that_can_t_be_written_is_refused_before_work(tool, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    values = types.SimpleNamespace(output=str(tmp_path / "file" / "figures"))
    monkeypatch.setattr(flags, "FLAGS", values)
    with pytest.raises(UserError, match="--output=.*/file is no folder"):
        tool.main.__wrapped__(["tool"])  # without what commands have in common, which asks FLAGS
