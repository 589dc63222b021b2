"""Phase 0 of another run: when it is taken over, and when refused."""

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.methods import METHODS
from mnemonics_tf.methods.lwf import LwF
from mnemonics_tf.phases import phase0
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_arrays, write_json
from tests.digit_runs import SETTINGS, changed, make, other_pixels


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"protocol": {"class_order_seed": 1}}, "class_order_seed was 1993 there and is 1 here"),
        ({"training": {"base_epochs": 5}}, "base_epochs was 4 there and is 5 here"),
        ({"training": {"weight_decay": 1e-4}}, "weight_decay was 0.0005 there and is 0.0001 here"),
        (
            {"training": {"method": "lucir"}},
            "=lwf has a linear .* and --method=lucir has a cosine classifier",
        ),
    ],
)
def test_phase_0_of_other_settings_is_refused(finished, tmp_path, changes, told):
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(finished.directory.root)}
    settings = changed(SETTINGS, run=run, **changes)
    message = f"--phase0_from=.* other settings, data or class order .--.*{told}.; leave the flag"
    with pytest.raises(UserError, match=message):
        make(settings).run()
    assert not RunDirectory(tmp_path / "run").settings.exists()  # nothing was begun


@pytest.mark.parametrize("method", ["mnemonics_tf.methods.lwf:LwF", "registered"])
def test_phase_0_of_a_method_of_one_s_own_is_its_own(finished, tmp_path, monkeypatch, method):
    """Its loss may be another one, where all of the project's train phase 0 alike."""
    monkeypatch.setitem(METHODS, "registered", LwF)  # as the guide to a new method has it
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(finished.directory.root)}
    with pytest.raises(UserError, match=f"--method was .lwf. there and is .{method}. here"):
        make(changed(SETTINGS, run=run, training={"method": method})).run()


def test_what_a_stranger_s_settings_say_of_phase_0_is_cut_short(finished, tmp_path):
    donor = finished.copied_to(tmp_path / "donor").directory
    told = read_json(donor.settings)
    told["protocol"]["class_order"] = list(range(1000))
    told["training"]["method"] = ["lwf"]
    write_json(donor.settings, told)
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(donor.root)}
    with pytest.raises(UserError, match="--class_order was .0, 1, 2.*[.]{3} there") as error:
        make(changed(SETTINGS, run=run, training={"base_epochs": 5})).run()
    assert len(str(error.value)) < 500


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_phase_0_of_another_seed_or_precision_is_taken(finished, tmp_path):
    """Also by a run that takes it from one that took it."""
    donor, taken = finished.directory, []
    for seed, precision in ((1, "off"), (2, "bfloat16")):
        run = {
            "run_dir": str(tmp_path / f"{seed}"),
            "phase0_from": str(donor.root),
            "last_phase": 0,
        }
        changes = {"protocol": {"seed": seed}, "training": {"mixed_precision": precision}}
        taker = make(changed(SETTINGS, run=run, **changes))
        contents = taker.run()
        assert (contents["phase0_seed"], contents["protocol"]["seed"]) == (0, seed)
        assert contents["phase0_mixed_precision"] == "off"
        donor = taker.directory
        taken.append(read_arrays(donor.base_model))
    assert finished.contents["phase0_seed"] == 0
    first = read_arrays(finished.directory.base_model)
    for arrays in taken:
        for name, array in first.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_another_model_than_that_of_a_phase_0_that_is_done_is_told_of(finished, tmp_path, caplog):
    """The same command again is silent, and so is it where the model is gone by now."""
    donor = finished.copied_to(tmp_path / "donor").directory
    phase0.tell_of_another(finished.directory, donor)
    phase0.tell_of_another(finished.directory, RunDirectory(tmp_path / "none"))
    torn = finished.copied_to(tmp_path / "torn").directory
    torn.base_model.write_bytes(torn.base_model.read_bytes()[:1000])
    phase0.tell_of_another(finished.directory, torn)
    assert not caplog.text
    arrays = read_arrays(donor.base_model)
    name = next(name for name in arrays if name.endswith("kernel"))
    write_arrays(donor.base_model, arrays | {name: arrays[name] + 1})
    run = {"phase0_from": str(donor.root)}
    taker = finished.copied_to(tmp_path / "taker")
    make(changed(taker.settings, run=run)).run()
    assert f"--phase0_from={donor.root} is not used: " in caplog.text


def test_phase_0_of_no_run(tmp_path):
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(tmp_path / "none")}
    told = "--phase0_from=.*none holds no trained model of phase 0 .*base_model.npz is missing"
    with pytest.raises(UserError, match=told):
        make(changed(SETTINGS, run=run)).run()
    assert not RunDirectory(tmp_path / "run").settings.exists()


def test_phase_0_is_not_taken_from_other_pixels(finished, tmp_path, monkeypatch):
    copy = finished.copied_to(tmp_path / "copy")
    """That is told, and not that their mean is another, as that of other pixels is."""
    other_pixels(copy.directory, "training")
    monkeypatch.setattr(
        phase0, "refuse_other_preprocessing", lambda *_: pytest.fail("the mean was told first")
    )
    run = {"run_dir": str(tmp_path / "taker"), "phase0_from": str(copy.directory.root)}
    with pytest.raises(UserError, match="training images are others .*--phase0_from"):
        make(changed(SETTINGS, run=run)).run()


@pytest.mark.parametrize("arrays", [{}, {"fingerprint": np.array("x")}, {"fingerprint": 1}])
def test_phase_0_of_a_hostile_file(tmp_path, arrays):
    write_arrays(RunDirectory(tmp_path / "other").base_model, arrays)
    run = {"run_dir": str(tmp_path / "run"), "phase0_from": str(tmp_path / "other")}
    with pytest.raises(UserError, match="--phase0_from=.* other settings, data or class order"):
        make(changed(SETTINGS, run=run)).run()
