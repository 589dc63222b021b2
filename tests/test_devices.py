"""Several devices: which ones, and that their number changes nothing."""

import pathlib
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
import tensorflow as tf

from mnemonics_tf import devices
from mnemonics_tf.errors import UserError
from tests.two_devices import LONGER_TASKS, TASKS

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> dict[str, np.ndarray]:
    return compute(tmp_path_factory.mktemp("two_devices") / "arrays.npz", TASKS)


@pytest.fixture(scope="module")
def computed_longer(tmp_path_factory) -> dict[str, np.ndarray]:
    return compute(tmp_path_factory.mktemp("two_devices") / "longer.npz", LONGER_TASKS)


def compute(path: pathlib.Path, tasks: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns what one device and two computed, by `task:one|two:name`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.two_devices", str(path), *tasks],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.slow
def test_two_devices_compute_what_one_does(computed, task):
    compare(computed, task)


@pytest.mark.slow
def test_two_devices_train_and_freeze_the_same_classes(computed):
    for count in ("one", "two"):
        for name, expected in (("frozen", [0] * 3), ("within", [1] * 3), ("afterwards", [0] * 3)):
            assert computed[f"trained:{count}:{name}"].tolist() == [*expected, 1, 1]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_devices_differentiate_statistics_alike(computed_longer):
    compare(computed_longer, "meta_step_statistics")


def compare(computed: dict[str, np.ndarray], task: str) -> None:
    names = [key.split(":", 2)[2] for key in computed if key.startswith(f"{task}:one:")]
    assert names
    for name in names:
        one, two = (computed[f"{task}:{count}:{name}"] for count in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_devices_scale_the_loss_together(computed_longer):
    """In float16 rounding differs much more; which steps are left out must not differ."""
    one, two = (
        {
            key.split(":", 2)[2]: value
            for key, value in computed_longer.items()
            if key.startswith(f"train_float16:{count}:")
        }
        for count in ("one", "two")
    )
    for name in ("optimizer/loss_scale", "optimizer/good_steps"):
        np.testing.assert_array_equal(two[name], one[name])
    for epoch in range(2):
        np.testing.assert_allclose(two[f"loss{epoch}"], one[f"loss{epoch}"], rtol=0.02)


def test_parts_hold_every_row_once_and_weigh_alike():
    batch = {"row": tf.range(11), "weight": tf.fill([11], 1 / 11)}
    parts = [devices.part_of(batch, replica, 4) for replica in range(4)]
    assert [len(part["row"]) for part in parts] == [2, 3, 3, 3]
    np.testing.assert_array_equal(tf.concat([part["row"] for part in parts], 0), np.arange(11))
    np.testing.assert_allclose(sum(tf.reduce_sum(part["weight"]) for part in parts), 1, rtol=1e-6)


def test_a_replica_without_a_row_gets_one_that_does_not_count():
    batch = {"row": tf.range(2), "weight": tf.fill([2], 0.5)}
    parts = [devices.part_of(batch, replica, 4) for replica in range(4)]
    assert [part["row"].numpy().tolist() for part in parts] == [[0], [0], [1], [1]]
    assert [part["weight"].numpy().tolist() for part in parts] == [[0], [0.5], [0], [0.5]]


def test_one_cpu_is_a_single_device(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert devices.create_strategy("auto") is tf.distribute.get_strategy()
    assert devices.is_chief(tf.distribute.get_strategy())


TWO_WORKERS = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": %s}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no workers; set it on every one of them"),
        ("{", "TF_CONFIG is damaged"),
        ("[]", "TF_CONFIG is damaged"),
        ('{"cluster": []}', r"damaged: its cluster is \[\], expected"),
        ('{"cluster": null}', "damaged: its cluster is null, expected"),
        ('{"cluster": {"worker": "a:1"}}', "damaged: its cluster is .*, expected"),
        ('{"cluster": {"worker": [1]}}', "damaged: its cluster is .*, expected"),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', "tasks of kind ps"),
        (TWO_WORKERS % "null", "by the task null: expected .*, i from 0 to 1, another on each"),
        (TWO_WORKERS % '{"type": "worker"}', "by the task .*: expected"),
        (TWO_WORKERS % '{"type": "evaluator", "index": 0}', "by the task .*: expected"),
        (TWO_WORKERS % '{"type": "worker", "index": 2}', "by the task .*: expected"),
        (TWO_WORKERS % '{"type": "worker", "index": -1}', "by the task .*: expected"),
        (TWO_WORKERS % "[0]", "by the task .*: expected"),
    ],
)
def test_mistakes_in_tf_config(monkeypatch, text, message):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=message):
        devices.create_strategy("multi_worker")


def test_cpus_are_not_compiled_for_unless_asked():
    gpus = bool(tf.config.list_physical_devices("GPU"))
    assert [devices.compiles(value) for value in ("auto", "on", "off")] == [gpus, True, False]


def test_this_machine_has_some_available_memory():
    assert devices.available_bytes() is None or devices.available_bytes() > 2**20


def group(folder: pathlib.Path, version: int, limit: str, used: int, files: int = 0) -> None:
    """A control group of memory; half of its files were used lately."""
    names = ("memory.max", "memory.current", "") if version == 2 else _VERSION_1
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in ((names[0], limit), (names[1], used)):
        (folder / name).write_text(f"{value}\n")
    kinds = "".join(f"{names[2]}{kind}_file {files // 2}\n" for kind in ("active", "inactive"))
    (folder / "memory.stat").write_text(f"anon {used - files}\n{kinds}")


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_s_limit_counts_and_files_in_its_memory_do_not(tmp_path, monkeypatch, version):
    top = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    listed = "5:cpu:/other\n4:memory:/a/b\n0::/\n" if version == 1 else "0::/a/b\n"
    own = tmp_path / "proc/self/cgroup"
    own.parent.mkdir(parents=True)
    own.write_text(listed)
    assert devices._left_to_groups(tmp_path) == []
    group(top / "a/b", version, "max" if version == 2 else str(2**63 - 4096), 2**20)
    group(top / "a", version, str(3 * 2**20), 2 * 2**20, files=2**20)
    assert min(devices._left_to_groups(tmp_path)) == 2 * 2**20
    group(top / "a/b", version, str(2**20), 2**21)  # a limit that was lowered
    assert min(devices._left_to_groups(tmp_path)) == 0
    monkeypatch.setattr(devices, "_left_to_groups", lambda: [4096, 2**62])
    if pathlib.Path("/proc/meminfo").exists() and not tf.config.list_physical_devices("GPU"):
        assert devices.available_bytes() == 4096


def test_without_control_groups_the_machine_s_memory_counts(tmp_path):
    assert devices._left_to_groups(tmp_path) == []


@pytest.mark.parametrize(
    ("told", "seen", "expected"),
    [
        ("A, 143771\nA, 81559\n", ["A", "A"], 81559 * 2**20),
        ("Quadro, 4096\nA, 81559\n", ["A"], 81559 * 2**20),
        ("Quadro, [N/A]\nA, 81559\n", ["A"], 81559 * 2**20),
        ("A, 143771\nB, 81559\n", ["A, in parts"], 81559 * 2**20),
        ("[N/A]\n", ["A"], None),
        ("", ["A"], None),
        (None, ["A"], None),
    ],
)
def test_with_gpus_the_smallest_one_that_is_seen_counts(monkeypatch, told, seen, expected):
    def run(command, **_):
        assert command[0] == "nvidia-smi"
        if told is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0, stdout=told)

    config = devices.tf.config
    monkeypatch.setattr(config, "list_logical_devices", lambda kind: ["GPU:0", "GPU:1"])
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: seen)
    monkeypatch.setattr(
        config.experimental, "get_device_details", lambda name: {"device_name": name}
    )
    monkeypatch.setattr(devices.subprocess, "run", run)
    assert devices.available_bytes() == expected
