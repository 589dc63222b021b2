"""Whether data are those of a run: by names, numbers and digests."""

import copy

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.data_facts import (
    OtherDataError,
    note_digests,
    noted_digests,
    refuse_other_classes,
    refuse_other_data,
    refuse_other_phase0,
)
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_json

FACTS = {
    "phases": [["cat", "dog"], ["emu"]],
    "training_images": [5, 6, 7],
    "data_digests": {"training": "files-aa", "test": "files-bb"},
}


def changed(**digests) -> dict:
    facts = copy.deepcopy(FACTS)
    facts["data_digests"] |= digests
    return facts


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    write_json(directory.classes, FACTS)
    return directory


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (FACTS | {"phases": [["ant", "dog"], ["emu"]]}, "not found: cat; found and new: ant"),
        (FACTS | {"phases": [["dog", "cat"], ["emu"]]}, "were cat, dog / emu, now they are dog"),
        (FACTS | {"training_images": [5, 6, 9]}, "class emu it had 7 training images, 9 are"),
        (changed(training="files-cc"), "training images are others .* files-aa, is files-cc"),
        (changed(test="files-cc"), "the test images are others .* files-bb, is files-cc"),
    ],
)
def test_other_data_is_refused_with_what_was_noted_and_found(directory, found, message):
    refuse_other_data(directory, FACTS, "start anew")
    with pytest.raises(OtherDataError, match=f"on other data: .*{message}.*: start anew"):
        refuse_other_data(directory, found, "start anew")


def test_what_an_earlier_version_noted_is_compared_and_the_rest_warned_of(directory, caplog):
    older = {name: FACTS[name] for name in ("phases", "training_images")}
    write_json(directory.classes, older)
    refuse_other_data(directory, FACTS, "")
    assert "notes no digest of the images" in caplog.text
    with pytest.raises(OtherDataError):
        refuse_other_data(directory, FACTS | {"training_images": [1, 1, 1]}, "")
    caplog.clear()
    directory.classes.unlink()
    refuse_other_data(directory, FACTS, "")
    assert "notes no digest of the images" in caplog.text


@pytest.mark.parametrize("begun", [{"phases": FACTS["phases"]}, None])
def test_a_run_without_digests_notes_them_once_it_has_learned(directory, tmp_path, begun, caplog):
    directory.classes.unlink()
    if begun:
        write_json(directory.classes, begun)
    note_digests(directory, FACTS, phase=1)
    refuse_other_data(directory, FACTS, "")
    assert not caplog.text
    with pytest.raises(OtherDataError, match="training images are others"):
        refuse_other_data(directory, changed(training="files-cc"), "")
    with pytest.raises(OtherDataError, match="emu it had 7 training images"):
        refuse_other_data(directory, FACTS | {"training_images": [5, 6, 9]}, "")
    note_digests(directory, changed(training="files-cc"), phase=2)
    refuse_other_data(directory, FACTS, "")
    # Of phase 0 nobody can tell.
    assert noted_digests(directory) is None
    mine = RunDirectory(tmp_path / "mine")
    write_json(mine.classes, changed(training="files-cc"))
    refuse_other_phase0(mine, directory, "")
    assert "notes no digest" in caplog.text


def test_digests_of_two_kinds_are_not_compared(directory, caplog):
    refuse_other_data(directory, changed(training="records-cc"), "")
    assert "were read as files and now are as records" in caplog.text


def test_scoring_other_test_images_is_warned_of(directory, caplog):
    parts = {"parts": (), "may_differ": ("test",)}
    refuse_other_data(directory, changed(training="files-cc"), "", **parts)
    assert not caplog.text
    refuse_other_data(directory, changed(test="files-cc"), "", **parts)
    assert "the test images are others" in caplog.text


def test_classes_are_compared_in_any_order(directory):
    refuse_other_classes(directory, ["emu", "dog", "cat"], "")
    with pytest.raises(OtherDataError, match="not found: emu; found and new: none: pass it"):
        refuse_other_classes(directory, ["dog", "cat"], "pass it")


def test_phase_0_of_other_training_images_is_refused(directory, tmp_path, caplog):
    mine = RunDirectory(tmp_path / "mine")
    write_json(mine.classes, FACTS | {"phases": [["cat", "dog"], ["gnu"]]})
    refuse_other_phase0(mine, directory, "--phase0_from")
    assert not caplog.text
    write_json(mine.classes, changed(test="files-cc"))
    refuse_other_phase0(mine, directory, "--phase0_from")
    assert "the test images are others" in caplog.text
    write_json(mine.classes, changed(training="files-cc"))
    with pytest.raises(OtherDataError, match="training images are others .*--phase0_from"):
        refuse_other_phase0(mine, directory, "--phase0_from")
    write_json(mine.classes, FACTS | {"phases": [["cat", "cow"], ["emu"]]})
    with pytest.raises(OtherDataError, match="not found: dog; found and new: cow"):
        refuse_other_phase0(mine, directory, "--phase0_from")
    caplog.clear()
    directory.classes.unlink()
    refuse_other_phase0(mine, directory, "--phase0_from")
    assert "notes no digest" in caplog.text


@pytest.mark.parametrize(
    "noted", [[1], {"phases": 3}, FACTS | {"data_digests": ["a"]}, FACTS | {"training_images": "x"}]
)
def test_damaged_notes(directory, noted):
    write_json(directory.classes, noted)
    with pytest.raises(UserError, match="classes.json is damaged"):
        refuse_other_data(directory, FACTS, "")
