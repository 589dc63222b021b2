"""What a request asks of a run, by its names, budget and settings; nothing is trained."""

import dataclasses
import os

import numpy as np
import pytest

from mnemonics_tf.data.measured import MeasuredSource
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.budget import make_budget
from mnemonics_tf.extension import wanted as wanted_module
from mnemonics_tf.extension.wanted import Request, Wanted, find_wanted
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import write_arrays
from mnemonics_tf.run.history import History
from mnemonics_tf.settings import RunSettings
from tests.extension import tiny_runs
from tests.extension.tiny_runs import OWN_DATASET, save, settings_for

ACCENT_OF_ITS_OWN, COMPOSED = "cafe\u0301", "caf\u00e9"


@pytest.fixture
def history(tmp_path) -> History:
    settings = settings_for(tmp_path / "run", "base.npz")
    names, ids = (("Cat", "dog", COMPOSED), ("owl",)), ((0, 2, 5), (7,))
    return History(RunDirectory(tmp_path / "run"), settings, names, ids, (), None)


def wanted(history: History, data_dir: str = "", **values) -> Wanted:
    own = {name: values.pop(name) for name in ("skip_known", "export") if name in values}
    run = {"run_dir": history.settings.run.run_dir, "data_dir": data_dir}
    passed = {name: value for name, value in run.items() if value}
    return find_wanted(history, Request({**passed, **values}, **own))


def named(folder, *names: str) -> str:
    return save(folder / "named.npz", range(20, 20 + len(names)), names)


# Budgets


@pytest.mark.parametrize(
    ("before", "passed"),
    [
        ("exemplars_total", "exemplars_per_class"),
        ("exemplars_per_class", "exemplar_bytes_total"),
        ("exemplar_bytes_per_class", "exemplars_total"),
    ],
)
def test_a_budget_of_another_kind_takes_the_place_of_the_last(history, tmp_path, before, passed):
    settings = history.settings.changed(**{"exemplars_per_class": 20, before: 3000})
    history = dataclasses.replace(history, settings=settings)
    found = wanted(history, named(tmp_path, "new"), **{passed: 5000}).settings.exemplar
    assert make_budget(found).flag == f"--{passed}=5000"
    found = wanted(history, named(tmp_path, "new"), epochs=3).settings.exemplar
    assert make_budget(found).flag == f"--{before}=3000"


# Methods


@pytest.mark.parametrize(
    ("arrays", "fitting", "others"),
    [
        (("bias",), "lwf", ("lucir", "bic")),
        (("scale",), "lucir", ("lwf",)),
        (("bias", "gain"), "bic", ("icarl",)),
    ],
)
def test_a_method_of_one_s_own_is_followed_by_one_that_fits_its_model(
    history, tmp_path, arrays, fitting, others
):
    """Its code is not asked: the run's last model tells."""
    history = dataclasses.replace(history, settings=history.settings.changed(method="mine:Mine"))
    paths = {"bias": "classifier/bias", "scale": "classifier/scale", "gain": "correction/gain"}
    model = {paths[name]: np.zeros(4, np.float32) for name in arrays}
    path = history.directory.model(1)
    path.parent.mkdir(parents=True)
    write_arrays(path, model)
    data_dir = named(tmp_path, "new")
    assert wanted(history, data_dir, method=fitting).settings.training.method == fitting
    for name in others:
        told = f"--method={name} has another classifier than .*: pass --method=mine:Mine, or"
        with pytest.raises(UserError, match=told):
            wanted(history, data_dir, method=name)


# Names


@pytest.mark.parametrize(
    ("names", "told"), [((1, 2), "1 is no text"), (("a", "a"), "'a' stands for two")]
)
def test_classes_of_ones_own_source_have_a_text_each(history, tmp_path, monkeypatch, names, told):
    images = {c: np.zeros((3, 2, 2, 1), np.uint8) for c in range(2)}
    source = MeasuredSource("own", images, images, names)
    monkeypatch.setattr(wanted_module, "create", lambda *_: source)
    with pytest.raises(UserError, match=f"the class name {told}"):
        wanted(history, str(tmp_path), dataset="npz")


@pytest.mark.parametrize("name", [ACCENT_OF_ITS_OWN, "dog ", "Cat"])
def test_a_known_class_is_known_however_it_is_written(history, tmp_path, name):
    data_dir = named(tmp_path, name, "new")
    with pytest.raises(UserError, match="1 class that the run knows already"):
        wanted(history, data_dir)
    assert wanted(history, data_dir, skip_known=True).phase.classes == ["new"]
    with pytest.raises(UserError, match="no class that the run does not know already"):
        wanted(history, named(tmp_path, name), skip_known=True)


def test_new_classes_that_nobody_could_tell_apart(history, tmp_path):
    names = (ACCENT_OF_ITS_OWN.upper(), COMPOSED.upper())
    with pytest.raises(UserError, match=r"'CAFE\\u0301' and 'CAF\\xc9', differ by"):
        wanted(history, named(tmp_path, *names))


def test_a_name_that_differs_by_case_is_another_class_and_warned_of(history, tmp_path, caplog):
    assert wanted(history, named(tmp_path, "cat")).phase.classes == ["cat"]
    assert "the new class cat differs from the known class Cat in upper and" in caplog.text
    caplog.clear()
    wanted(history, named(tmp_path, "cats"))
    assert not caplog.text


# Numbers


def test_new_classes_are_numbered_within_32_bits(history, tmp_path):
    largest = 2**31 - 2
    history = dataclasses.replace(history, ids=((0, 2, 5), (largest,)))
    assert wanted(history, named(tmp_path, "new")).phase.original_ids == [2**31 - 1]
    told = "2 new classes would be numbered from 2147483647 up, .* 2147483647 at most: train a run"
    with pytest.raises(UserError, match=told):
        wanted(history, named(tmp_path, "new", "newer"))


# Phases that were begun, or are held back


def test_what_was_begun_as_held_back_stays_so_until_it_is_done(history, tmp_path):
    begun = wanted(history, named(tmp_path, "new"), epochs=3, export=False).phase
    unfinished = dataclasses.replace(history, unfinished=begun)
    assert wanted(unfinished).phase == begun
    done = dataclasses.replace(history, learned=(begun,))
    found = wanted(done)
    assert found.is_done
    assert found.phase == dataclasses.replace(begun, export=True)
    with pytest.raises(UserError, match="--data_dir is missing"):
        wanted(dataclasses.replace(history, learned=(found.phase,)))
    with pytest.raises(UserError, match="phase 2, which .* is held back: leave --data_dir and"):
        wanted(done, begun.data_dir)  # without its --epochs


def test_a_source_of_one_s_own_may_need_no_directory(history, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_runs, "OWN_PLACE", named(tmp_path, "new"))
    begun = wanted(history, dataset=OWN_DATASET).phase
    assert (begun.classes, begun.data_dir, begun.place) == (["new"], "", OWN_DATASET)
    unfinished = dataclasses.replace(history, unfinished=begun)
    assert wanted(unfinished, dataset=OWN_DATASET).phase == begun
    with pytest.raises(UserError, match=f"pass --dataset={OWN_DATASET} too"):
        wanted(unfinished)
    with pytest.raises(UserError, match="other settings than --dataset=no.such:Source: leave"):
        wanted(unfinished, dataset="no.such:Source")
    held_back = dataclasses.replace(begun, export=False)
    assert wanted(dataclasses.replace(history, learned=(held_back,)), dataset=OWN_DATASET).is_done
    done = dataclasses.replace(history, learned=(begun,))
    assert wanted(done, dataset=OWN_DATASET).is_done
    monkeypatch.setattr(tiny_runs, "OWN_PLACE", save(tmp_path / "newer.npz", [40], ["newer"]))
    assert wanted(done, dataset=OWN_DATASET).phase.classes == ["newer"]
    monkeypatch.setattr(tiny_runs, "OWN_PLACE", save(tmp_path / "old.npz", [0], ["dog"]))
    with pytest.raises(UserError, match=f"{OWN_DATASET} holds no class that"):
        wanted(done, dataset=OWN_DATASET)


def test_a_phase_that_was_begun_otherwise_tells_how(history, tmp_path):
    data_dir = named(tmp_path, "new")
    begun = wanted(history, data_dir, epochs=3).phase
    unfinished = dataclasses.replace(history, unfinished=begun)
    with pytest.raises(UserError, match="with --epochs=3 instead of --epochs=1: go on with that"):
        wanted(unfinished, data_dir)
    with pytest.raises(UserError, match="learn new from .*, other classes than these: go on with"):
        wanted(unfinished, named(tmp_path, "other"), epochs=3)
    os.replace(save(tmp_path / "changed.npz", [30], ["new"]), data_dir)
    with pytest.raises(UserError, match="others than those found now: put them back, or give it"):
        wanted(unfinished)


def test_fixed_settings_are_told_as_they_are_passed(history, tmp_path):
    run = RunSettings(run_dir=history.settings.run.run_dir)
    settings = dataclasses.replace(history.settings, run=run)
    history = dataclasses.replace(history, settings=settings.changed(class_order=(5, 0, 2, 7)))
    with pytest.raises(UserError, match="--class_order=1,2: the run was begun with .*=5,0,2,7,"):
        wanted(history, named(tmp_path, "new"), class_order=(1, 2))
