"""The tables and the picture that the demonstration ends with."""

import numpy as np
import pytest
from PIL import Image

from mnemonics_tf.errors import UserError
from tests.reporting.report_runs import contents, write_run
from tools import show_learning


@pytest.fixture
def show(tmp_path, capsys):
    """Shows runs; returns what was printed and the picture."""

    def shown(*arguments):
        picture = tmp_path / "picture.png"
        show_learning.show([str(argument) for argument in arguments], str(picture))
        printed = capsys.readouterr()
        image = np.asarray(Image.open(picture)) if picture.exists() else None
        return printed.out, image

    return shown


def test_both_tables_and_a_picture_with_exemplars(tmp_path, show):
    herding = write_run(tmp_path / "h", contents(0, (0.9, 0.6)))
    run = contents(0, (0.9, 0.7), exemplar__exemplars="mnemonics")
    learned = write_run(tmp_path / "l", run, moved=20)
    printed, alone = show(f"herding={herding.root}")
    assert "herding, seed 0\nphase  classes" in printed
    printed, both = show(f"herding={herding.root}", f"learned={learned.root}")
    assert "70.00%" in printed.split("learned, seed 0")[1]
    assert both.shape[0] > 1.5 * alone.shape[0]  # exemplars that never moved are no picture


def test_what_is_no_run_is_told(tmp_path, show):
    with pytest.raises(UserError, match="does not exist"):
        show(f"a={tmp_path / 'nothing'}")
    with pytest.raises(UserError, match="pass runs, as NAME=RUN"):
        show()
    assert not list(tmp_path.iterdir())
