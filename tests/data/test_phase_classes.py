import dataclasses
import json
import os

import pytest

from mnemonics_tf.data import phase_classes
from mnemonics_tf.data.phase_classes import ids_of_phases, settled
from mnemonics_tf.data.protocol import ClassIncrementalProtocol
from mnemonics_tf.errors import UserError
from mnemonics_tf.phases.asked_for import settle
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_json
from mnemonics_tf.run.resume import read_settings
from mnemonics_tf.settings import ProtocolSettings, Settings

NAMES = ("cat", "dog", "New York", "owl")


def write_phases(folder, text: str) -> str:
    (folder / "phases.txt").write_text(text, "utf-8")
    return str(folder / "phases.txt")


def test_phases_may_name_their_classes(tmp_path):
    path = write_phases(tmp_path, "# first\nowl, New York\n\n dog,\ncat\n")
    phases = ids_of_phases(path, NAMES, range(4))
    assert phases == [[3, 2], [1], [0]]
    protocol = ClassIncrementalProtocol.from_phases([[3, 2], [1, 0]])
    assert protocol.order == (3, 2, 1, 0)
    assert [phase.new_classes for phase in protocol.phases] == [range(2), range(2, 4)]
    uneven = ClassIncrementalProtocol.from_phases([[3], [1, 2], [0]])
    assert [phase.seen_classes for phase in uneven.phases] == [range(1), range(3), range(4)]
    assert (uneven.base_classes, uneven.num_phases) == (1, 2)
    other = ClassIncrementalProtocol.from_phases([[3], [1], [2, 0]])
    assert other.order_hash != uneven.order_hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,dog\nowl", "missing: New York"),
        ("cat,dog,New York\nowl,cat", "named twice: cat"),
        ("cat,dog,New York\nowl,cow", "unknown: cow"),
    ],
)
def test_phases_must_name_every_class_once(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        ids_of_phases(write_phases(tmp_path, text), NAMES, range(4))


def test_a_file_of_phases_that_is_not_there():
    with pytest.raises(UserError, match="can't be read"):
        settled("no/such/file")


def test_ids_are_those_of_the_data(tmp_path):
    path = write_phases(tmp_path, "owl, New York\ndog, cat")
    assert ids_of_phases(path, NAMES, [10, 20, 30, 40]) == [[40, 30], [20, 10]]


def test_names_with_commas_and_quotes(tmp_path):
    names = ("tench, Tinca tinca", '5" disk', "#1")
    path = write_phases(tmp_path, '"tench, Tinca tinca", 5" disk\n"#1"\n')
    assert ids_of_phases(path, names, range(3)) == [[0, 1], [2]]
    with pytest.raises(UserError, match='double quotes: "tench, Tinca tinca"'):
        ids_of_phases(write_phases(tmp_path, 'tench, Tinca tinca, 5" disk'), names, range(3))
    with pytest.raises(UserError, match="line 2: .*double quotes"):
        ids_of_phases(write_phases(tmp_path, 'a\n"tench, b\n'), names, range(3))


def test_marks_that_editors_put_in_front(tmp_path):
    path = write_phases(tmp_path, "\ufeffcat, dog\r\nNew York, owl\r\n")
    assert ids_of_phases(path, NAMES, range(4)) == [[0, 1], [2, 3]]
    (tmp_path / "phases.txt").write_text("cat", "utf-16")
    with pytest.raises(UserError, match="--phase_classes=.*not UTF-8"):
        settled(path)


def test_what_is_no_text_file(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match="no regular file"):
            settled(str(path))
    monkeypatch.setattr(phase_classes, "_MAX_BYTES", 10)
    with pytest.raises(UserError, match="at most 10 are read"):
        settled(write_phases(tmp_path, "cat, dog, owl"))
    with pytest.raises(UserError, match="a NUL"):
        settled("a\0b")


@pytest.mark.parametrize("value", ["[", "[1]", '["cat"]', '[["cat"], []]', '[["cat", 1]]'])
def test_phases_that_are_not_of_the_form(value):
    with pytest.raises(UserError, match="--phase_classes="):
        settled(value)


def test_settings_keep_the_phases_and_not_the_path(tmp_path):
    path = write_phases(tmp_path, 'cat, "a, b"\nNew York, owl\n')
    settings = settle(Settings(protocol=ProtocolSettings(phase_classes=path)))
    os.unlink(path)
    assert json.loads(settings.protocol.phase_classes) == [["cat", "a, b"], ["New York", "owl"]]
    assert settle(settings) == settings
    assert "\n--phase_classes=[[" in settings.flag_lines()


def test_older_runs_that_kept_the_path(tmp_path):
    """The phases come from classes.json, never from the file that a stranger's settings name."""
    directory = RunDirectory(tmp_path)
    secret = write_phases(tmp_path, "secret")
    protocol = dataclasses.asdict(ProtocolSettings(phase_classes=secret))
    write_json(directory.settings, {"protocol": protocol})
    write_json(directory.classes, {"phases": [["cat"], ["dog"]]})
    found = read_settings(directory)["protocol"]
    assert json.loads(found["phase_classes"]) == [["cat"], ["dog"]]
    # Settings are read by name, so that the group where a stranger puts it makes no difference.
    write_json(directory.settings, {"any": protocol})
    assert read_settings(directory)["any"] == found
    write_json(directory.classes, {"phases": 3})
    with pytest.raises(UserError, match="classes.json is damaged .*phases: expected a list"):
        read_settings(directory)
