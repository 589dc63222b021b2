"""What is noted of phases that a run learned after its last one."""

import dataclasses

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_json, write_json, write_text
from mnemonics_tf.run.learned import (
    LearnedPhase,
    learned_phases,
    read_learned,
    recorded_data_dir,
    remove_export,
    remove_phase,
    unfinished_phase,
)
from mnemonics_tf.settings import RunSettings

PHASE = LearnedPhase(
    index=3,
    dataset="folder",
    data_dir="/new",
    classes=["owl"],
    original_ids=[9],
    training_images=[5],
    data_digests={"training": "files-a", "test": "files-b"},
    settings={"training": {"epochs": 3}},
    export=True,
)


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path)
    PHASE.write(directory)
    return directory


def test_a_phase_belongs_to_the_run_once_its_record_is_there(directory):
    assert (learned_phases(directory), unfinished_phase(directory)) == ([], PHASE)
    write_json(directory.record(3), {})
    assert (learned_phases(directory), unfinished_phase(directory)) == ([PHASE], None)
    dataclasses.replace(PHASE, index=4).write(directory)
    assert unfinished_phase(directory).index == 4
    dataclasses.replace(PHASE, index=6).write(directory)
    with pytest.raises(UserError, match=r"phases 3, 4, 6, of which one .* is lost \(4\)"):
        learned_phases(directory)


def test_where_images_lie_and_what_is_exported_makes_no_other_phase():
    assert PHASE.is_the_same_as(dataclasses.replace(PHASE, data_dir="/moved", export=False))
    younger = {"training": {"epochs": 3, "momentum": 0.9}}  # at its default
    assert PHASE.is_the_same_as(dataclasses.replace(PHASE, settings=younger))
    for values in ({"classes": ["emu"]}, {"training_images": [6]}, {"settings": {}}):
        assert not PHASE.is_the_same_as(dataclasses.replace(PHASE, **values))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("classes", "owl", "/?classes: expected a list"),
        ("classes", ["owl", "emu"], "differ in length"),
        ("original_ids", ["9"], "expected a whole number"),
        ("original_ids", [2**31], "a whole number from -2147483648 to 2147483647"),
        ("settings", {"training": {"epochs": {}}}, "expected"),
        ("export", 1, "expected true or false"),
    ],
)
def test_damaged_notes(directory, name, value, message):
    facts = read_json(directory.learned(3))
    write_json(directory.learned(3), facts | {name: value})
    with pytest.raises(UserError, match=f"learned.json is damaged .*{message}"):
        read_learned(directory, 3)


def test_settings_that_this_version_does_not_have():
    phase = dataclasses.replace(PHASE, settings={"training": {"epochs": "many"}})
    with pytest.raises(UserError, match="phases/03/learned.json of run is not .*--epochs=many"):
        phase.settings_with(RunSettings(run_dir="run"))


def test_a_phase_and_its_export_go_as_a_whole(directory):
    export = directory.export / "folder" / "4"
    (export / "variables").mkdir(parents=True)
    (export.with_name(".undone-4")).mkdir()  # a killed process left it
    for _ in range(2):  # once more does no harm
        remove_export(export)
        remove_phase(directory, 3)
        assert not directory.phase(3).exists()
        assert list(export.parent.iterdir()) == []
    assert read_learned(directory, 3) is None


@pytest.mark.parametrize("leads", ["somewhere", "nowhere"])
def test_an_export_that_is_a_link_goes_and_what_it_leads_to_stays(directory, tmp_path, leads):
    export, kept = directory.export / "folder" / "4", tmp_path / "kept"
    export.parent.mkdir(parents=True)
    kept.mkdir()
    export.symlink_to(kept if leads == "somewhere" else tmp_path / "gone")
    export.with_name(".undone-4").symlink_to(kept)  # a killed process left it
    remove_export(export)
    assert list(export.parent.iterdir()) == []
    assert kept.is_dir()


def test_where_the_data_of_a_run_was(directory):
    assert recorded_data_dir(directory) == ""
    write_text(directory.flags, "--run_dir=a\n--data_dir=some/where=1\n--nodownload\n")
    assert recorded_data_dir(directory) == "some/where=1"


@pytest.mark.parametrize("character", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_where_the_data_was_may_hold_what_is_no_newline(directory, character):
    place = f"some{character}--data_dir=where"
    write_text(directory.flags, f"--data_dir={place}\n--seed=1\n")
    assert recorded_data_dir(directory) == place
