"""The rows of the tables."""

import inspect

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.base import Method
from tests.tools.reproduce_grid import grid, named
from tools.reproduce_cells import OWN_TABLES, TRAINED_AS, cells


@pytest.mark.parametrize(
    ("table", "count"),
    [("1", 17), ("2", 6), ("ablation", 8), ("bytes", 36), ("shift", 28), ("jpeg", 28)],
)
def test_every_row_stands_once(table, count):
    names = [cell.name for cell in cells(table)]
    assert len(names) == len(set(names)) == count


@pytest.mark.parametrize("method", ["lwf", "icarl", "bic", "lucir"])
def test_rows_of_table_1_add_the_plug_in_in_two_steps(method):
    plain, herding, unadjusted, ours = cells("1", [method])
    assert (plain.exemplars, plain.transfer, plain.adjust, plain.finetune) == ("herding", *3 * [0])
    assert "--noweight_transfer" in plain.flags()
    assert "--finetune_epochs=0" in plain.flags()
    assert (herding.exemplars, herding.transfer, herding.adjust) == ("herding", True, False)
    assert (ours.exemplars, ours.transfer, ours.adjust) == ("mnemonics", True, True)
    assert (unadjusted.exemplars, unadjusted.transfer, unadjusted.adjust) == ("mnemonics", True, 0)
    for cell in (herding, unadjusted, ours):
        assert "--weight_transfer" in cell.flags()
        assert "--finetune_epochs=0" not in cell.flags()
    assert plain.published("cifar100", 5) is not None
    assert ours.published("cifar100", 5) is not None
    # The paper has these steps for LUCIR only, in its Table 2.
    for cell in (herding, unadjusted):
        assert (cell.published("cifar100", 5) is not None) == (method == "lucir")


def test_methods_choose_rows():
    assert {cell.method for cell in cells("1", ["lwf", "joint"])} == {"lwf", "joint"}
    with pytest.raises(UserError, match="--methods=lwf,bic: table 2 has no row of 'lwf'.*lucir"):
        cells("2", ["lwf", "bic"])


def test_names_choose_rows():
    chosen = cells("bytes", ["lwf"], ceiling=True, wanted="frozen (herding|ceiling)$")
    assert [cell.name for cell in chosen] == ["lwf frozen herding", "lwf frozen ceiling"]
    with pytest.raises(UserError, match="--rows=frozn: table 2 has no such row; it has 'random w/"):
        cells("2", wanted="frozn")
    with pytest.raises(UserError, match=r"--rows=\( is no regular expression"):
        cells("2", wanted="(")


@pytest.mark.parametrize("table", OWN_TABLES)
def test_own_tables_compare_within_method_and_kernels(table):
    chosen = cells(table, ceiling=True)
    for cell in chosen:
        kernels = "frozen" if cell.transfer else "all kernels"
        herding = f"{cell.method} {kernels} herding"
        compared = [other.name for other in chosen if cell.compares_with(other)]
        assert compared == ([] if cell.name == herding else [herding])
        assert cell.published("cifar100", 5) is None


def test_own_tables_share_runs_and_name_them_shortly(tmp_path):
    by_table = {
        table: {run.cell.name: run for run in grid(tmp_path, table, methods=["lwf"])}
        for table in OWN_TABLES
    }
    for table, rows in {
        "shift": {"herding", "learned"},
        "jpeg": {"herding", "JPEG herding", "JPEG 95 herding"},
    }.items():
        shared = by_table["bytes"].keys() & by_table[table].keys()
        kernels = ("all kernels", "frozen")
        assert shared == {f"lwf {kernel} {row}" for kernel in kernels for row in rows}
        for name in shared:
            ours, theirs = by_table["bytes"][name], by_table[table][name]
            assert ours.name == theirs.name
            assert list(ours.choices()) == list(theirs.choices())
    anchored = by_table["bytes"]["lwf all kernels JPEG anchored"]
    assert anchored.name == "lwf_all_kernels_jpeg_anchored_N5_seed0"
    assert by_table["shift"]["lwf frozen learned 0.5"].name == "lwf_frozen_learned_0.5_N5_seed0"
    all_coded = by_table["jpeg"]["lwf frozen JPEG herding, 1 coded"]
    assert all_coded.name == "lwf_frozen_jpeg_herding_1_coded_N5_seed0"


@pytest.mark.parametrize(("method", "other"), TRAINED_AS.items())
def test_methods_that_share_runs_train_the_same(method, other):
    """Every member but the head is the very same; it is what the rows of iCaRL rest on."""
    members = {name for name in vars(Method) if not name.startswith("__")} - {"prediction_head"}
    assert members >= {"loss_parts", "freezes_old_classes", "classifier", "after_training"}
    for name in members:
        mine, theirs = (inspect.getattr_static(METHODS[key], name) for key in (method, other))
        assert mine is theirs, name


def test_icarl_shares_the_runs_of_lwf(tmp_path):
    runs = grid(tmp_path)
    for suffix in ("", " w/ herding", " w/ ours w/o adj.", " w/ ours"):
        lwf, icarl = (named(runs, f"{method}{suffix}") for method in ("lwf", "icarl"))
        assert icarl.directory.root == lwf.directory.root
        assert "--method=lwf" in icarl.choices()
    assert len({run.name for run in runs}) == 17 - 4
