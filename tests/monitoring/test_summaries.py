import pytest
import tensorflow as tf

from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring.summaries import Summaries


def test_a_full_disk_is_a_clear_line(tmp_path, monkeypatch):
    summaries = Summaries(tmp_path)
    summaries.scalars("train", {"loss": 1.0}, 0)
    summaries.flush()

    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.summary, "scalar", fail)
        with pytest.raises(UserError, match="the disk is full"):
            summaries.scalars("train", {"loss": 1.0}, 1)
    (event_file,) = tmp_path.iterdir()
    assert event_file.stat().st_size > 0
