import pathlib

import numpy as np
import pytest

from mnemonics_tf.errors import UserError
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot, newest_whole
from mnemonics_tf.run.files import read_arrays, write_arrays


def snapshot(stage: str, position: int) -> Snapshot:
    model = {"stem/kernel": np.full((2, 3), position, np.float32), "a:b": np.array(stage)}
    return Snapshot(stage, position, {"model": model, "optimizer": {"0000": np.arange(position)}})


def check_equal(ours: Snapshot, expected: Snapshot):
    assert (ours.stage, ours.position) == (expected.stage, expected.position)
    assert ours.groups.keys() == expected.groups.keys()
    for group, arrays in expected.groups.items():
        assert ours.groups[group].keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(ours.groups[group][name], array)
            assert ours.groups[group][name].dtype == array.dtype


def files(directory: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_nothing_saved_is_nothing_found(tmp_path):
    assert PhaseCheckpoints(tmp_path / "none", "run").latest() is None


def test_the_newest_comes_back_as_it_was(tmp_path):
    for position in (3, 1, 2):
        PhaseCheckpoints(tmp_path, "run").save(snapshot("exemplars", position))
    check_equal(PhaseCheckpoints(tmp_path, "run").latest(), snapshot("exemplars", 2))


def test_two_are_kept(tmp_path):
    checkpoints = PhaseCheckpoints(tmp_path, "run")
    for position in range(5):
        checkpoints.save(snapshot("train", position))
    assert len(files(tmp_path)) == 2


def test_who_does_not_write_goes_on_from_what_others_wrote(tmp_path):
    reader = PhaseCheckpoints(tmp_path, "run", writes=False)
    reader.save(snapshot("train", 1))
    assert files(tmp_path) == []
    PhaseCheckpoints(tmp_path, "run").save(snapshot("train", 2))
    reader.save(snapshot("train", 3))
    check_equal(reader.latest(), snapshot("train", 2))


def test_where_none_is_whole_workers_are_sent_the_newest_to_fail_alike(tmp_path):
    assert newest_whole(tmp_path) is None
    for position in (1, 2):
        PhaseCheckpoints(tmp_path, "run").save(snapshot("train", position))
    older, newer = files(tmp_path)
    assert newest_whole(tmp_path) == newer
    newer.write_bytes(newer.read_bytes()[:-40])
    assert newest_whole(tmp_path) == older
    older.write_bytes(b"")
    assert newest_whole(tmp_path) == newer


@pytest.mark.parametrize("damage", [b"", b"no zip at all", None])
def test_a_damaged_one_falls_back_to_the_one_before(tmp_path, damage, caplog):
    checkpoints = PhaseCheckpoints(tmp_path, "run")
    for position in (1, 2):
        checkpoints.save(snapshot("train", position))
    newest = files(tmp_path)[-1]
    contents = newest.read_bytes()
    newest.write_bytes(contents[: len(contents) // 2] if damage is None else damage)
    check_equal(checkpoints.latest(), snapshot("train", 1))
    assert newest.name in caplog.text
    checkpoints.save(snapshot("train", 3))
    check_equal(checkpoints.latest(), snapshot("train", 3))


def test_a_flipped_byte_is_noticed(tmp_path):
    checkpoints = PhaseCheckpoints(tmp_path, "run")
    for position in (1, 2):
        checkpoints.save(snapshot("train", position))
    newest = files(tmp_path)[-1]
    contents = bytearray(newest.read_bytes())
    at = contents.index(np.full((2, 3), 2, np.float32).tobytes())
    contents[at] ^= 1
    newest.write_bytes(contents)
    check_equal(checkpoints.latest(), snapshot("train", 1))


def test_a_damaged_one_does_not_count_among_the_two_that_are_kept(tmp_path):
    for position in (1, 2):
        PhaseCheckpoints(tmp_path, "run").save(snapshot("train", position))
    files(tmp_path)[-1].write_bytes(b"x")
    checkpoints = PhaseCheckpoints(tmp_path, "run")
    checkpoints.latest()
    checkpoints.save(snapshot("train", 3))
    files(tmp_path)[-1].write_bytes(b"x")
    check_equal(PhaseCheckpoints(tmp_path, "run").latest(), snapshot("train", 1))


def test_one_of_another_run_is_refused(tmp_path):
    PhaseCheckpoints(tmp_path, "run").save(snapshot("train", 1))
    with pytest.raises(UserError, match="checkpoint-000000.npz belongs to another run or phase"):
        PhaseCheckpoints(tmp_path, "other run").latest()


@pytest.mark.parametrize("position", [np.array(["a", "b"]), np.zeros((2, 2)), np.array("x")])
def test_one_without_a_position_counts_as_damaged(tmp_path, position):
    PhaseCheckpoints(tmp_path, "run").save(snapshot("train", 1))
    path = files(tmp_path)[0]
    arrays = read_arrays(path) | {"position": position}
    write_arrays(path.with_name("checkpoint-000001.npz"), arrays)
    check_equal(PhaseCheckpoints(tmp_path, "run").latest(), snapshot("train", 1))


def test_one_of_an_earlier_version_is_refused(tmp_path):
    """It counted stages; going on from it would begin the wrong one."""
    PhaseCheckpoints(tmp_path, "run").save(snapshot("train", 1))
    arrays = read_arrays(files(tmp_path)[0])
    del arrays["stage"], arrays["position"]
    write_arrays(tmp_path / "checkpoint-000001.npz", arrays | {"moment": np.array([0, 1])})
    with pytest.raises(UserError, match=f"earlier version.*remove {tmp_path}"):
        PhaseCheckpoints(tmp_path, "run").latest()


def test_all_damaged_says_what_to_remove(tmp_path):
    checkpoints = PhaseCheckpoints(tmp_path, "run")
    for position in (1, 2):
        checkpoints.save(snapshot("train", position))
    for path in files(tmp_path):
        path.write_bytes(b"x")
    with pytest.raises(UserError, match=f"remove {tmp_path}"):
        checkpoints.latest()


def test_clearing_leaves_other_files(tmp_path):
    checkpoints = PhaseCheckpoints(tmp_path, "run")
    checkpoints.save(snapshot("train", 1))
    (tmp_path / "exemplars.npz").write_bytes(b"")
    (tmp_path / ".tmp-checkpoint-000001.npz").write_bytes(b"left by a kill")
    checkpoints.clear()
    assert checkpoints.latest() is None
    assert [path.name for path in files(tmp_path)] == ["exemplars.npz"]
