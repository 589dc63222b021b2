"""Tests of exports read back: damage is noticed, said on one line, and mended."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf.errors import UserError
from mnemonics_tf.serving.loading import Export, damage
from tests.serving.serving_support import learn

pytestmark = pytest.mark.slow

SHAPE = (8, 8, 1)
WARMUP = "assets.extra/tf_serving_warmup_requests"


@pytest.fixture(scope="module")
def learned():
    return learn(image_shape=SHAPE)


@pytest.fixture(scope="module")
def whole(learned, tmp_path_factory):
    return learned.export(tmp_path_factory.mktemp("export") / "net", 1)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "net" / "1")


def flip(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def a_file_instead(path):
    shutil.rmtree(path)
    path.write_text("")


def variables_of_nothing(path):
    shutil.rmtree(path / "variables")


DAMAGES = {
    "missing": shutil.rmtree,
    "is no folder": a_file_instead,
    "lost saved_model.pb": lambda path: (path / "saved_model.pb").unlink(),
    "changed.*: saved_model.pb": lambda path: cut(path / "saved_model.pb"),
    "changed since.*: saved_model.pb": lambda path: flip(path / "saved_model.pb"),
    "lost variables/": variables_of_nothing,
    "lost variables/variables.index": lambda path: (path / "variables/variables.index").unlink(),
    "variables.data": lambda path: cut(path / "variables/variables.data-00000-of-00001"),
    "labels.txt": lambda path: (path / "assets.extra/labels.txt").write_text(""),
    "tf_serving_warmup_requests": lambda path: (path / WARMUP).write_bytes(b""),
    "can't be read": lambda path: cut(path / "assets.extra/digests.json"),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_damage_is_said_on_one_line_and_mended(learned, copy, said):
    DAMAGES[said](copy)
    with pytest.raises(UserError, match=said) as raised:
        Export(copy, SHAPE)
    assert "\n" not in str(raised.value)
    assert learned.export(copy.parent, 1) == copy
    assert damage(copy) == ""
    assert copy.with_name(".damaged-1").exists() == ("missing" not in said)


def test_what_is_whole_is_not_loaded_to_find_out(whole, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "load", lambda path: pytest.fail("loaded"))
    assert damage(whole) == ""


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (None, ""),
        ("saved_model.pb", "can't be loaded"),
        ("variables/variables.index", "can't be loaded"),
    ],
)
def test_an_export_of_an_earlier_version_is_loaded_to_find_out(copy, broken, said):
    (copy / "assets.extra" / "digests.json").unlink()
    if broken:
        cut(copy / broken)
    assert damage(copy).startswith(said)
    assert bool(damage(copy)) == bool(broken)
    (copy / "assets.extra" / "labels.txt").write_text("")
    assert "labels.txt" in damage(copy)


def test_an_export_for_other_images_or_without_a_signature_is_refused(learned, whole):
    with pytest.raises(UserError, match=r"takes images \[8, 8, 1\], and the data has \[8, 8, 3\]"):
        Export(whole, (8, 8, 3))
    with pytest.raises(UserError, match="no signature other"):
        Export(whole, SHAPE).class_ids("other", learned.images)


@pytest.mark.parametrize("name", ["lwf[seed=0]", "a*b?", "back\\slash", "{a,b}"])
def test_characters_of_patterns_in_a_path_stand_for_themselves(learned, tmp_path, name):
    path = learned.export(tmp_path / name / "net", 1)
    labels = learned.predict(learned.images).logits.numpy().argmax(axis=1)
    ids = Export(path, SHAPE).class_ids("serving_default", learned.images)
    assert ids.tolist() == np.array(learned.classes.original_ids)[labels].tolist()
    # A resumed run finds the same model there.
    assert learned.export(tmp_path / name / "net", 1) == path
