"""The picture of a table."""

import pytest

from mnemonics_tf.errors import UserError
from tests.tools.reproduce_grid import grid, named, write_local
from tools import reproduce_picture
from tools.reproduce_cells import cells
from tools.reproduce_picture import refuse_no_difference, write_picture
from tools.reproduce_results import Run


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The groups of each picture that is drawn."""
    groups_drawn = []
    monkeypatch.setattr(
        reproduce_picture,
        "paired_differences",
        lambda groups, path, label: groups_drawn.append(groups),
    )
    return groups_drawn


def test_rows_stand_under_their_method_and_kernels(tmp_path, drawn):
    runs = grid(tmp_path, "bytes", methods=["lwf"], seeds=(0, 1, 2))
    for seed in (0, 1, 2):
        write_local(named(runs, "lwf all kernels herding", seed), 0.5)
        write_local(named(runs, "lwf all kernels JPEG herding", seed), 0.5 + 0.01 * (seed + 1))
    write_local(named(runs, "lwf frozen herding"), 0.5)
    write_local(named(runs, "lwf frozen learned"), 0.49)
    write_picture(tmp_path / "picture.png", runs)
    ((all_kernels, frozen_kernels),) = (groups.items() for groups in drawn)
    assert all_kernels[0] == "lwf, all kernels, N = 5"
    ((name, (values, half_width)),) = all_kernels[1].items()
    assert (name, values) == ("JPEG herding", pytest.approx((1, 2, 3)))
    assert half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)  # Student's t
    assert frozen_kernels[0] == "lwf, frozen, N = 5"
    assert frozen_kernels[1] == {"learned": (pytest.approx((-1,)), None)}


def test_a_ceiling_says_of_how_many(tmp_path, drawn):
    place = grid(tmp_path)[0].place
    wanted = "all kernels (herding|ceiling)"
    runs = [Run(place, cell, 5, 0) for cell in cells("bytes", ["lwf"], True, wanted)]
    for run in runs:
        write_local(run, 0.5)
    write_picture(tmp_path / "picture.png", runs)
    ((group,),) = (groups.values() for groups in drawn)
    assert list(group) == ["ceiling (4 x)", "ceiling 127"]


@pytest.mark.parametrize("name", ["picture.png", "picture.svg"])
def test_a_picture_is_written(tmp_path, name):
    runs = grid(tmp_path, methods=["lwf"])
    write_local(named(runs, "lwf w/ herding"), 0.5)
    write_local(named(runs, "lwf w/ ours"), 0.6)
    write_picture(tmp_path / name, runs)
    assert (tmp_path / name).stat().st_size > 1000
    if name.endswith(".svg"):  # which tells, beside its outlines, what was written
        text = (tmp_path / name).read_text("utf-8")
        assert "<!-- lwf, frozen, N = 5 -->" in text
        assert "<!-- lwf w/ ours -->" in text


def test_nothing_to_draw(tmp_path):
    runs = grid(tmp_path, methods=["lwf"])
    with pytest.raises(UserError, match="no row is done whose herding's is done too"):
        write_picture(tmp_path / "picture.png", runs)
    refuse_no_difference(runs, [])
    herding = [named(runs, "lwf w/ herding")]
    with pytest.raises(UserError, match="--picture .* lwf w/ herding is compared with no other"):
        refuse_no_difference(herding, [])
