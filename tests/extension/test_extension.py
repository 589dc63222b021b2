"""A finished run learns further classes, and nothing else of it changes."""

import dataclasses
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import pytest

from mnemonics_tf import devices
from mnemonics_tf import experiment as experiment_module
from mnemonics_tf.errors import UserError
from mnemonics_tf.evaluate import evaluate
from mnemonics_tf.export import export
from mnemonics_tf.extension import further_phase
from mnemonics_tf.extension.images import find_base
from mnemonics_tf.extension.reopened import undo
from mnemonics_tf.phases import backbone
from mnemonics_tf.phases.exports import PhaseExports
from mnemonics_tf.report import report
from mnemonics_tf.run import learned as learned_module
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_json
from mnemonics_tf.run.history import read_history
from mnemonics_tf.run.interruption import RunInterruptedError
from mnemonics_tf.run.learned import learned_phases, unfinished_phase
from mnemonics_tf.run.results import table, without_times
from mnemonics_tf.settings import RunSettings
from tests.extension.tiny_runs import (
    OWN_DATASET,
    extension,
    files_of,
    learn,
    save,
    settings_for,
    train,
)
from tests.small_network import in_place_of_resnets

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Place:
    """A run's directory and the data around it."""

    root: pathlib.Path
    base: str
    one: str

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(self.root)


#: digests of no images that there are
OTHER = {"training": "pixels-0", "test": "pixels-0"}
SHOW_PHASE = experiment_module.show_phase


@pytest.fixture(autouse=True, scope="module")
def quick_ends():
    """Exports and pictures have tests of their own; here a folder stands for an export."""
    with in_place_of_resnets(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "show_phase", lambda *arguments: None)
        patch.setattr(
            PhaseExports,
            "write",
            lambda exports, phase, *_: exports.path(phase).mkdir(parents=True, exist_ok=True),
        )
        patch.setattr(PhaseExports, "write_config", lambda _: None)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Place:
    folder = tmp_path_factory.mktemp("finished")
    base = save(folder / "base.npz", [0, 2, 5, 7])
    train(settings_for(folder / "run", base))
    return Place(folder / "run", base, save(folder / "one.npz", [3], ["three"]))


def copy_of(place: Place, folder: pathlib.Path) -> Place:
    root = shutil.copytree(place.root, folder / "run")
    return dataclasses.replace(place, root=root)


@pytest.fixture(scope="module")
def extended(finished, tmp_path_factory) -> Place:
    place = copy_of(finished, tmp_path_factory.mktemp("extended"))
    learn(place.root, place.one, exemplars_per_class=6)
    return place


@pytest.fixture
def mine(finished, tmp_path) -> Place:
    return copy_of(finished, tmp_path)


@pytest.fixture
def mine_extended(extended, tmp_path) -> Place:
    return copy_of(extended, tmp_path)


# What is learned


def test_one_class_becomes_one_phase_more(finished, extended):
    contents = read_json(extended.directory.results)
    assert contents["protocol"]["num_phases"] == 2
    assert contents["class_names"][-1] == "three"
    assert contents["class_order"][-1] == 8  # after the largest
    record = contents["phases"][-1]
    assert (record["num_seen"], record["new_classes"]) == (5, [8])
    heads = record["heads"]["nme"]
    assert np.sum(heads["confusion_matrix"], axis=1).tolist() == [4] * 5  # old ones are tested
    assert len(heads["group_accuracies"]) == 3
    average = np.mean(contents["summary"]["nme"]["phase_accuracies"])
    assert contents["summary"]["nme"]["average_accuracy"] == pytest.approx(average)
    assert contents["phases"][:2] == read_json(finished.directory.results)["phases"]


def test_a_learned_phase_tells_where_it_came_from(extended):
    told = read_json(extended.directory.record(2))["learned"]
    assert told["data_dir"] == extended.one
    assert (told["dataset"], told["classes"], told["training_images"]) == ("npz", ["three"], [9])
    assert told["settings"]["exemplar"]["exemplars_per_class"] == 6
    digests = read_json(extended.directory.results)["data_digests"]
    assert digests["training of phase 2"] == told["data_digests"]["training"]


def test_a_larger_budget_serves_new_classes(extended, mine, caplog):
    memory = read_arrays(extended.directory.exemplars(2))
    assert np.bincount(memory["labels"]).tolist() == [4, 4, 4, 4, 6]
    old = read_arrays(extended.directory.exemplars(1))["images"]
    np.testing.assert_array_equal(memory["images"][:16], old)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        extension(mine.root, mine.one, exemplars_per_class=6)
        assert "of old ones 4 are kept, and what was trimmed" in caplog.text
        extension(mine.root, mine.one, exemplars_per_class=2)
        assert "leaves fewer of old classes" in caplog.text
        caplog.clear()
        extension(mine.root, mine.one)
        assert "budget" not in caplog.text


def test_what_old_classes_have_is_counted_and_not_estimated(mine, tmp_path, caplog):
    """Each has four exemplars until the phase ends with the smaller budget that it is given."""
    adjusts = {
        **{"adjust_old_exemplars": True, "adjust_steps": 2},
        **{"skip_adjustment_if_too_few": False},
    }
    learn(mine.root, mine.one, exemplar_bytes_per_class=64, **adjusts)
    memory = read_arrays(mine.directory.exemplars(2))
    assert np.bincount(memory["labels"]).tolist() == [1] * 5
    assert "adjust" in read_json(mine.directory.record(2))["stages"]

    more = save(tmp_path / "more.npz", [4], ["four"])
    same = {"adjust_old_exemplars": False}
    caplog.clear()
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        extension(mine.root, more, **same)
        assert "budget" not in caplog.text  # it is the last phase's
        extension(mine.root, more, exemplar_bytes_per_class=128, **same)
        assert "is 128 bytes a class, and was 64 bytes a class" in caplog.text


def test_new_images_are_normalised_as_the_run_has_it(finished):
    noted = read_json(finished.directory.classes)["preprocessing"]
    used = extension(finished.root, finished.one).experiment.workshop.pipeline.normalization
    assert [list(used.mean), list(used.std)] == [noted["channel_mean"], noted["channel_std"]]


def test_all_else_of_the_run_is_as_it_was(finished, extended):
    before, after = files_of(finished.root), files_of(extended.root)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"results.json"}
    assert {name.partition("/")[0] for name in after.keys() - before.keys()} == {"phases"}
    assert (extended.root / "export" / "npz" / "3").is_dir()


def test_the_next_phase_goes_on_from_the_last_one(mine_extended, tmp_path):
    two = save(tmp_path / "two.npz", [7, 8, 9])
    contents = learn(mine_extended.root, two, skip_known=True, export=False)
    assert contents["class_order"][-2:] == [9, 10]
    assert contents["class_names"][-2:] == ["8", "9"]
    told = contents["phases"][-1]["learned"]["settings"]
    assert told["exemplar"]["exemplars_per_class"] == 6  # as the phase before
    assert contents["settings"]["exemplar"]["exemplars_per_class"] == 4  # the run's own
    exports = mine_extended.root / "export" / "npz"
    assert not (exports / "4").exists()
    same = learn(mine_extended.root, two, skip_known=True)  # now they may have it
    assert same["phases"] == contents["phases"]
    assert (exports / "4").is_dir()
    assert evaluate(str(mine_extended.root), mine_extended.base, -1, False) == 0


# Doing it again, and taking it back


def test_the_same_command_again_changes_nothing(mine_extended, caplog):
    before = files_of(mine_extended.root)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        learn(mine_extended.root, mine_extended.one, exemplars_per_class=6)
    assert "phase 2, of these classes, is learned already" in caplog.text
    assert files_of(mine_extended.root) == before


def test_results_that_a_kill_left_behind_are_made_again(finished, mine_extended):
    after = mine_extended.directory.results.read_bytes()
    shutil.copy(finished.directory.results, mine_extended.directory.results)
    learn(mine_extended.root, mine_extended.one, exemplars_per_class=6)
    assert mine_extended.directory.results.read_bytes() == after


def test_a_phase_that_is_held_back_is_exported_where_it_is_named(mine_extended, tmp_path, capsys):
    """Also once the run has learned more, when no learn command means it any more."""
    directory = mine_extended.directory
    exported = directory.export / "npz" / "3"
    shutil.rmtree(exported)
    write_json(directory.learned(2), read_json(directory.learned(2)) | {"export": False})
    learn(mine_extended.root, save(tmp_path / "two.npz", [11], ["eleven"]))
    run = str(mine_extended.root), mine_extended.base
    export(*run, -1)
    assert "phase 2: is held back; --phase=2 exports it" in capsys.readouterr().out
    assert not exported.exists()
    assert export(*run, 2) == 0
    assert exported.exists()
    assert learned_phases(directory)[0].export


def test_training_an_extended_run_changes_nothing_and_says_so(mine_extended, caplog):
    before = files_of(mine_extended.root)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        contents = train(settings_for(mine_extended.root, mine_extended.base))
    assert "has learned 1 further phase since: it stays as it is" in caplog.text
    assert contents == read_json(mine_extended.directory.results)
    assert files_of(mine_extended.root) == before


@pytest.mark.parametrize("state", ["lost", "damaged", "without a phase"])
def test_training_an_extended_run_makes_its_results_again(finished, mine_extended, state, caplog):
    before, results = files_of(mine_extended.root), mine_extended.directory.results
    if state == "lost":
        results.unlink()
        with pytest.raises(UserError, match="all its phases are done: start its train command, or"):
            report([str(mine_extended.root)], mine_extended.root / "report.html", "")
    elif state == "damaged":
        results.write_bytes(results.read_bytes()[:-40])
    else:
        shutil.copy(finished.directory.results, results)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        contents = train(settings_for(mine_extended.root, mine_extended.base, last_phase=0))
    assert "results.json is made again from the records of all phases" in caplog.text
    assert contents == read_json(results)
    assert files_of(mine_extended.root) == before


def test_a_phase_is_taken_back(finished, mine_extended):
    undo(RunSettings(run_dir=str(mine_extended.root)))
    assert files_of(mine_extended.root) == files_of(finished.root)
    exports = [path.name for path in (mine_extended.root / "export" / "npz").iterdir()]
    assert sorted(exports) == ["1", "2"]
    with pytest.raises(UserError, match="has learned no further phase"):
        undo(RunSettings(run_dir=str(mine_extended.root)))


def test_what_a_kill_leaves_of_a_phase_that_is_taken_back(finished, mine_extended, caplog):
    """Called again, --undo does not take the phase before as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned_module, "remove_tree", lambda path: None)
        undo(RunSettings(run_dir=str(mine_extended.root)))
    assert (mine_extended.root / ".undone-2").exists()
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        undo(RunSettings(run_dir=str(mine_extended.root)))
    assert "phase 2 had been taken back by a call that was stopped" in caplog.text
    assert files_of(mine_extended.root) == files_of(finished.root)


def test_a_phase_that_can_not_be_taken_back_stays_whole(mine_extended):
    before = files_of(mine_extended.root)
    with pytest.raises(UserError, match="has been exported as"):
        undo(RunSettings(run_dir=str(mine_extended.root), model_name="other"))
    assert files_of(mine_extended.root) == before


def test_results_of_a_finished_run_stay_whole(mine):
    """Where it is started again for its first phases alone."""
    before = files_of(mine.root)
    contents = train(settings_for(mine.root, mine.base, last_phase=0))
    assert len(contents["phases"]) == 2
    assert files_of(mine.root) == before


def test_scores_go_on(extended, capsys):
    assert evaluate(str(extended.root), extended.base, -1, False) == 0
    assert capsys.readouterr().out.count("recorded") == 3 * 2
    # Where the run's flags say its data were, they still are.
    assert evaluate(str(extended.root), "", 2, False) == 0


def test_a_report_goes_on(extended, tmp_path):
    assert report([str(extended.root)], tmp_path / "report.html", extended.base) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Phase 2: 5 classes known" in page  # the t-SNE, of old images and new ones


@pytest.fixture(params=["base", "one"])
def moved(request, extended) -> Iterator[str]:
    """Some of what the run learned from is no longer where it was."""
    place = pathlib.Path(getattr(extended, request.param))
    place.rename(place.with_suffix(".moved"))
    yield request.param
    place.with_suffix(".moved").rename(place)


def test_images_that_have_moved_are_a_clear_line(extended, moved, tmp_path, capsys):
    """No score is made up, and a report has all but the t-SNE."""
    # The phase that can't be scored, and where the images are looked for.
    first, place = {
        "base": (0, "that the run began with back where they were, or pass --data_dir$"),
        "one": (2, "of phase 2 back where they were, /.*/one.npz$"),
    }[moved]
    for phase in range(first, 3):
        with pytest.raises(UserError, match=f"are not found: put those {place}"):
            evaluate(str(extended.root), "", phase, False)
    assert report([str(extended.root)], tmp_path / "report.html", "") == 0
    assert "t-SNE left out" in capsys.readouterr().err
    assert "Phase 2: 5 classes known" not in (tmp_path / "report.html").read_text()


def test_what_code_of_one_s_own_read_is_scored_where_it_is_named(mine_extended):
    """Also by a run that began with other data."""
    path = mine_extended.directory.learned(2)
    write_json(path, read_json(path) | {"dataset": OWN_DATASET})
    run = str(mine_extended.root), mine_extended.base, 2, False
    with pytest.raises(UserError, match=f"1 are not found: pass --dataset={OWN_DATASET}, if you"):
        evaluate(*run)
    assert evaluate(*run, {"dataset": OWN_DATASET}) == 0
    write_json(path, read_json(path) | {"data_dir": "", "data_digests": OTHER})
    with pytest.raises(UserError, match=f"{OWN_DATASET} gives other test images of phase 2"):
        evaluate(*run, {"dataset": OWN_DATASET})
    told = f"--dataset=no.such:Source: .* --dataset=npz and --dataset={OWN_DATASET}$"
    with pytest.raises(UserError, match=told):
        evaluate(*run, {"dataset": "no.such:Source"})


# Interruptions


def stop_at(patch, stage: str) -> None:
    save_snapshot = PhaseCheckpoints.save

    def save_and_stop(checkpoints, snapshot):
        save_snapshot(checkpoints, snapshot)
        if snapshot.stage == stage:
            raise RunInterruptedError

    patch.setattr(PhaseCheckpoints, "save", save_and_stop)


@pytest.fixture
def begun(finished, mine) -> Place:
    """A run that was stopped while it learned one class more."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "exemplars")
        with pytest.raises(RunInterruptedError):
            learn(mine.root, mine.one, exemplars_per_class=6)
    return mine


def test_an_interrupted_phase_leaves_the_run_as_it_was_and_goes_on(finished, begun, extended):
    before, after = files_of(finished.root), files_of(begun.root)
    assert {name: after[name] for name in before} == before
    assert unfinished_phase(begun.directory).classes == ["three"]
    assert learned_phases(begun.directory) == []
    assert train(settings_for(begun.root, begun.base)) == read_json(finished.directory.results)
    assert evaluate(str(begun.root), begun.base, -1, False) == 0
    with pytest.raises(UserError, match="other settings than --epochs=2"):
        extension(begun.root, "", epochs=2)
    with pytest.raises(UserError, match="has begun to learn three .*--undo"):
        extension(begun.root, begun.one, exemplars_per_class=5)
    contents = learn(begun.root, "")  # as it was begun
    assert without_times(contents) == without_times(read_json(extended.directory.results))
    for kind in (RunDirectory.model, RunDirectory.exemplars, RunDirectory.predictions):
        ours, theirs = (read_arrays(kind(p.directory, 2)) for p in (begun, extended))
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_the_same_request_goes_on(mine, extended):
    """As in a notebook, which holds it."""
    request = extension(mine.root, mine.one, exemplars_per_class=6)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, "exemplars")
        with pytest.raises(RunInterruptedError):
            request.run()
    contents = request.run()
    assert without_times(contents) == without_times(read_json(extended.directory.results))


def test_a_setting_that_this_version_does_not_have_is_refused(begun):
    path = begun.directory.learned(2)
    noted = read_json(path)
    noted["settings"]["training"]["sharpness"] = 0.5
    write_json(path, noted)
    with pytest.raises(UserError, match="learned.json"):
        extension(begun.root, "")


def test_a_phase_that_was_begun_is_given_up(finished, begun):
    undo(RunSettings(run_dir=str(begun.root)))
    assert files_of(begun.root) == files_of(finished.root)


def test_a_kill_before_the_record_leaves_the_phase_unfinished(mine):
    write = experiment_module.write_json

    def write_or_die(path, value):
        if path == mine.directory.record(2):
            raise KeyboardInterrupt
        write(path, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "write_json", write_or_die)
        with pytest.raises(KeyboardInterrupt):
            learn(mine.root, mine.one)
    assert learned_phases(mine.directory) == []
    assert len(learn(mine.root, mine.one)["phases"]) == 3


def leave_checkpoints(directory: RunDirectory, *phases: int) -> None:
    for phase in phases:
        PhaseCheckpoints(directory.phase(phase), "a run").save(Snapshot("test", 0, {}))


def test_checkpoints_that_a_kill_left_beside_a_record_go(mine_extended):
    before = files_of(mine_extended.root)
    leave_checkpoints(mine_extended.directory, 0, 1, 2)
    learn(mine_extended.root, mine_extended.one, exemplars_per_class=6)
    assert files_of(mine_extended.root) == before
    leave_checkpoints(mine_extended.directory, 0, 1)
    train(settings_for(mine_extended.root, mine_extended.base))
    assert files_of(mine_extended.root) == before


def test_training_a_finished_run_clears_what_a_kill_left_too(mine):
    before = files_of(mine.root)
    leave_checkpoints(mine.directory, 0, 1)
    train(settings_for(mine.root, mine.base))
    assert files_of(mine.root).keys() == before.keys()


# Test images that are not found


@pytest.fixture(scope="module")
def untested(finished, tmp_path_factory) -> Place:
    place = copy_of(finished, tmp_path_factory.mktemp("untested"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment_module, "show_phase", SHOW_PHASE)  # it has pictures of no number
        learn(place.root, place.one, run_data_dir=str(place.root / "nowhere.npz"))
    return place


def test_what_was_not_tested_is_null(untested, extended):
    contents = read_json(untested.directory.results)
    mine, theirs = (read_arrays(p.directory.predictions(2)) for p in (untested, extended))
    assert mine["labels"].tolist() == [4] * 4  # the new class's images alone
    assert theirs["labels"].tolist() == np.repeat(range(5), 4).tolist()
    for head, values in contents["phases"][2]["heads"].items():
        assert values["accuracy"] is None
        assert values["group_accuracies"][:2] == [None, None]
        assert 0 <= values["group_accuracies"][2] <= 1
        summary = contents["summary"][head]
        for name in ("average_accuracy", "forgetting", "mean_forgetting", "backward_transfer"):
            assert summary[name] is None, name
        assert summary["old_accuracies"][2] is None
        assert summary["new_accuracies"][2] == values["group_accuracies"][2]
        assert None not in summary["phase_accuracies"][:2]
    assert "untested" in table(contents)


def test_reports_and_scores_without_numbers(untested, tmp_path, capsys):
    assert report([str(untested.root)], tmp_path / "report.html", "") == 0
    page = (tmp_path / "report.html").read_text()
    assert "nan" not in page.lower().split("</style>")[1].replace("finance", "")
    assert evaluate(str(untested.root), untested.base, 2, False) == 0
    assert "of the new classes alone" in capsys.readouterr().out


def test_images_that_were_tested_and_are_gone(extended, tmp_path):
    with pytest.raises(UserError, match="5 classes, of which 4 are not found"):
        evaluate(str(extended.root), str(tmp_path / "gone.npz"), 2, False)


# What is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "joint"}, "--method=joint learns from all data so far.*--method=lwf"),
        ({"method": "lucir"}, "--method=lucir has another classifier than --method=lwf"),
        ({"depth": 14}, "--depth=14: the run was begun with --depth=8"),
        ({"num_phases": 3}, "begun with --num_phases=1"),
        ({"codec": "webp"}, "begun with --codec=pixels"),
        ({"last_phase": 1}, "--last_phase=1 is for training"),
        ({"exemplars_total": 4}, "leaves no exemplar for each of 5 classes"),
    ],
)
def test_settings_that_do_not_fit(finished, values, message):
    with pytest.raises(UserError, match=message):
        extension(finished.root, finished.one, **values)


def test_batch_statistics_with_a_wrong_second_gradient(finished, begun, monkeypatch):
    """A phase that an earlier version began with them goes on."""
    monkeypatch.setattr(backbone, "wrong_batch_statistics", lambda model: ["one"])
    statistics = {"inner_scope": "all", "inner_batch_statistics": True}
    with pytest.raises(UserError, match="these layers: one; pass --noinner_batch_statistics"):
        extension(finished.root, finished.one, exemplars="mnemonics", **statistics)
    noted = read_json(begun.directory.learned(2))
    noted["settings"]["exemplar"]["exemplars"] = "mnemonics"
    noted["settings"]["inner"] |= statistics
    write_json(begun.directory.learned(2), noted)
    assert extension(begun.root, "")


def test_more_new_images_than_a_code_holds(finished, begun, monkeypatch):
    """They are asked for before a phase, and not of one that has begun."""

    def refuse(settings, method, protocol, source, phases):
        raise UserError(f"phases {[phase.index for phase in phases]}")

    monkeypatch.setattr(further_phase, "check_coded_share", refuse)
    with pytest.raises(UserError, match=r"phases \[2\]"):
        extension(finished.root, finished.one)
    assert extension(begun.root, "")


def test_a_phase_without_the_memory(finished, begun, monkeypatch):
    """Old exemplars, of which there are four a class, would be adjusted in two halves."""
    monkeypatch.setattr(devices, "available_bytes", lambda: 10**5)
    wanted = {"inner_scope": "all", "adjust_old_exemplars": True}
    with pytest.raises(UserError, match="GiB are there: lower --inner_batch_size"):
        extension(finished.root, finished.one, **wanted)
    assert not finished.directory.learned(2).exists()
    noted = read_json(begun.directory.learned(2))
    noted["settings"]["inner"]["inner_scope"] = "all"
    noted["settings"]["adjustment"]["adjust_old_exemplars"] = True
    write_json(begun.directory.learned(2), noted)
    assert extension(begun.root, "")


def test_a_run_on_all_data(mine):
    settings = read_json(mine.directory.settings)
    settings["training"]["method"] = "joint"
    write_json(mine.directory.settings, settings)
    with pytest.raises(UserError, match="pass another one .*--method=lwf"):
        extension(mine.root, mine.one)
    assert extension(mine.root, mine.one, method="icarl")


def test_data_that_do_not_fit(finished, tmp_path):
    both = save(tmp_path / "both.npz", [2, 3])
    with pytest.raises(UserError, match="1 class that the run knows already: 2: pass --skip_kno"):
        extension(finished.root, both)
    known = save(tmp_path / "known.npz", [2, 7])
    with pytest.raises(UserError, match="no class that the run does not know already: 2, 7"):
        extension(finished.root, known, skip_known=True)
    larger = save(tmp_path / "larger.npz", [3], side=9)
    with pytest.raises(UserError, match=r"one size, 9 x 9 x 1\) than the run's .*8 x 8 x 1"):
        extension(finished.root, larger)
    with pytest.raises(UserError, match="--data_dir is missing"):
        extension(finished.root, "")


def test_a_run_that_is_not_finished(mine):
    mine.directory.record(1).unlink()
    with pytest.raises(UserError, match="phase 1 of 1 is not done.*mnemonics_tf.train first"):
        extension(mine.root, mine.one)


def test_files_that_number_classes_otherwise(mine_extended):
    path = mine_extended.directory.learned(2)
    write_json(path, read_json(path) | {"original_ids": [50]})
    with pytest.raises(UserError, match="phase.json numbers its classes otherwise than .*learned"):
        evaluate(str(mine_extended.root), mine_extended.base, -1, False)


def test_code_that_a_run_names(mine):
    settings = read_json(mine.directory.settings)
    settings["outer"]["objective"] = "no.such:Objective"
    write_json(mine.directory.settings, settings)
    with pytest.raises(UserError, match="pass --objective=no.such:Objective too"):
        extension(mine.root, mine.one)


def test_another_data_set_names_no_code_of_the_run(mine, caplog):
    """Code runs where it is passed, and not where its flag has another value."""
    history = read_history(mine.directory, RunSettings(run_dir=str(mine.root)))
    protocol = dataclasses.replace(history.settings.protocol, dataset="no.such:Source")
    history = dataclasses.replace(
        history, settings=dataclasses.replace(history.settings, protocol=protocol)
    )
    assert find_base(history, mine.base, {"dataset": "npz"}) is None
    assert "they need code of the run's own, --dataset=no.such:Source" in caplog.text
    caplog.clear()
    find_base(history, mine.base, {"dataset": "no.such:Source"})
    assert "they need code" not in caplog.text


def test_a_run_of_an_earlier_version(mine):
    facts = read_json(mine.directory.classes)
    del facts["preprocessing"]
    write_json(mine.directory.classes, facts)
    with pytest.raises(UserError, match="did not note how images are normalised: .*--run_data_dir"):
        extension(mine.root, mine.one, run_data_dir=str(mine.root / "nowhere.npz"))
    legacy = extension(mine.root, mine.one).experiment.preprocessing
    assert legacy.channel_mean == extension(mine.root, mine.one).experiment.source.channel_mean
    images = np.load(mine.base)["x_train"]
    assert legacy.channel_mean == pytest.approx((images.mean() / 255,))
