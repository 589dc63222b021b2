"""How versions of an export are published beside each other, and never overwritten."""

import os

import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.serving.export import export_folder
from tests.serving.serving_support import ServedModel, learn


@pytest.fixture(scope="module")
def learned():
    return learn()


def versions(directory):
    return sorted(path.name for path in directory.iterdir() if path.name.isdecimal())


@pytest.mark.parametrize("where", ["saved_model.save", "warm-up", "os.replace"])
@pytest.mark.slow
def test_interrupted_export_leaves_no_version(learned, tmp_path, monkeypatch, where):
    class Killed(BaseException):
        pass

    def kill(*arguments, **keywords):
        raise Killed

    directory = tmp_path / "net"
    with monkeypatch.context() as patch:
        if where == "saved_model.save":
            patch.setattr("mnemonics_tf.serving.export.tf.saved_model.save", kill)
        elif where == "warm-up":
            patch.setattr("mnemonics_tf.serving.export.write_warmup_requests", kill)
        else:
            replace = os.replace

            def kill_at_publication(source, target):
                if os.path.isdir(source):
                    kill()
                replace(source, target)

            patch.setattr("os.replace", kill_at_publication)
        with pytest.raises(Killed):
            learned.export(directory, 2)
    assert versions(directory) == []
    assert not (tmp_path / "models.config").exists()
    assert [path.name for path in directory.iterdir()] == [".tmp-2"]

    learned.export(directory, 1)
    assert [path.name for path in directory.iterdir()] == ["1"]
    ServedModel(directory / "1").close()


def fingerprint(path):
    return {
        file.relative_to(path): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in path.rglob("*")
    }


def test_complete_version_of_the_same_model_is_kept(learned, tmp_path):
    path = learned.export(tmp_path / "net", 1)
    before = fingerprint(path)
    (tmp_path / "models.config").unlink()  # the run was killed between the two
    assert learned.export(tmp_path / "net", 1) == path
    assert fingerprint(path) == before
    assert (tmp_path / "models.config").exists()


@pytest.mark.parametrize("other", ["classes", "weights", "class means", "architecture"])
@pytest.mark.slow
def test_version_of_another_model_is_never_overwritten(learned, tmp_path, other):
    directory = tmp_path / "net"
    if other == "classes":
        path = learn(seed=1).export(directory, 1, class_means=learned.class_means)
    elif other == "weights":
        path = learn(seed=1).export(directory, 1, classes=learned.classes)
    elif other == "class means":
        path = learned.export(directory, 1, class_means=-learned.class_means)
    else:
        path = learn(classifier="linear").export(directory, 1)
    before = fingerprint(path)
    with pytest.raises(UserError, match="never overwritten"):
        learned.export(directory, 1)
    assert fingerprint(path) == before


def test_exports_keep_the_name_they_have(tmp_path):
    root = tmp_path / "export"
    assert export_folder(root, "tfds:cats/small") == root / "tfds_cats_small"
    assert export_folder(root, "folder", "cats-2.0") == root / "cats-2.0"
    assert export_folder(root, "folder", "", "dogs") == root / "dogs"
    assert export_folder(root, "folder", "cats", "dogs") == root / "cats"
    assert export_folder(root, "folder", "", "../dogs") == root / "folder"
    (root / "cats" / "1").mkdir(parents=True)
    assert export_folder(root, "folder", "", "dogs") == root / "cats"
    assert export_folder(root, "folder") == root / "cats"
    assert export_folder(root, "folder", "cats") == root / "cats"
    with pytest.raises(UserError, match="exported as cats: leave the flag out, or rename"):
        export_folder(root, "folder", "dogs")


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "a b", "-x", "ä"])
def test_what_no_server_can_be_asked_for_is_no_name(tmp_path, name):
    with pytest.raises(UserError, match="is no name that servers and paths agree on"):
        export_folder(tmp_path, "digits", name)


def test_a_link_that_leads_nowhere_makes_way_for_a_version(learned, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "1").symlink_to("gone")
    path = learned.export(tmp_path / "net", 1)
    assert path.is_dir()
    assert not path.is_symlink()
