"""What workers are sent; and two on loopback: they finish as one does, and stop together."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mnemonics_tf import devices
from mnemonics_tf.run import workers
from mnemonics_tf.run.checkpoints import PhaseCheckpoints, Snapshot
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.run.files import read_arrays, read_json, write_arrays, write_json
from mnemonics_tf.run.interruption import EXIT_STATUS
from tests.small_network import NAME

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FLAGS = (
    f"--backbone={NAME}",
    *("--last_phase=1", "--base_epochs=1", "--epochs=1", "--finetune_epochs=1"),
    *("--batch_size=256", "--exemplars=mnemonics", "--exemplars_per_class=4"),
    *("--inner_steps=3", "--outer_steps=2", "--validation_every=2"),
)


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(tf_config: dict | None, temporary: pathlib.Path, *arguments: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TMPDIR": str(temporary)}
    if tf_config:
        environment["TF_CONFIG"] = json.dumps(tf_config)
    return subprocess.Popen(
        [sys.executable, "-m", "mnemonics_tf.train", *FLAGS, *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(temporary: pathlib.Path, *arguments: str) -> list[subprocess.Popen]:
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    return [
        start({"cluster": cluster, "task": {"type": "worker", "index": i}}, temporary, *arguments)
        for i in range(2)
    ]


def finish(*processes: subprocess.Popen) -> list[tuple[int, str, str]]:
    """Returns exit status and both outputs of each; ends them all if one takes too long."""
    try:
        outputs = [process.communicate(timeout=400) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(processes, outputs, strict=True)]


@dataclasses.dataclass
class Runs:
    """The same run by one process, and by two workers that were stopped once and went on."""

    one: RunDirectory
    two: RunDirectory
    stopped: list[tuple[int, str, str]]
    finished: list[tuple[int, str, str]]
    left_behind: list[pathlib.Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    root = tmp_path_factory.mktemp("workers")
    temporary = root / "tmp"
    temporary.mkdir()
    single = start(None, temporary, f"--run_dir={root / 'one'}")
    both = start_two(temporary, f"--run_dir={root / 'two'}")
    two = RunDirectory(root / "two")
    while not two.record(0).exists() and both[1].poll() is None:
        time.sleep(0.1)
    both[1].send_signal(signal.SIGTERM)
    stopped = finish(*both)
    ((status, _, errors),) = finish(single)
    assert status == 0, errors[-3000:]
    finished = finish(*start_two(temporary, f"--run_dir={root / 'two'}"))
    private = list(temporary.glob("mnemonics_tf_worker_*"))
    return Runs(RunDirectory(root / "one"), two, stopped, finished, private)


def test_workers_are_sent_what_it_takes_to_go_on_in_pieces(tmp_path, monkeypatch):
    """Of the phase in progress the newest whole checkpoint, of others none."""
    chief, other = RunDirectory(tmp_path / "chief"), RunDirectory(tmp_path / "other")
    write_json(chief.settings, {"seed": 1})
    for phase in (0, 1):
        write_json(chief.record(phase), {"phase": phase})
        for path in (chief.model(phase), chief.exemplars(phase)):
            write_arrays(path, {"values": np.arange(100 * phase)})
    for phase in (1, 2):
        for position in range(3):
            PhaseCheckpoints(chief.phase(phase), "run").save(Snapshot("train", position, {}))
    (chief.phase(2) / "checkpoint-000002.npz").write_bytes(b"damaged")
    monkeypatch.setattr(devices, "spans_workers", lambda strategy: True)
    monkeypatch.setattr(workers, "_PIECE_BYTES", 100)
    sent = []

    def share(directory, is_chief, message):
        monkeypatch.setattr(devices, "is_chief", lambda strategy: is_chief)
        monkeypatch.setattr(workers, "_sum_of_workers", lambda strategy, values: message(values))
        workers.share_state(None, directory)

    share(chief, True, lambda values: sent.append(values) or values)
    messages = iter(sent)

    def received(values):
        message = next(messages)
        assert message.shape == values.shape
        assert not values.any()
        return message

    share(other, False, received)
    assert list(messages) == []
    assert max(message.nbytes for message in sent[2:]) == 104
    files = sorted(path for path in other.root.rglob("*") if path.is_file())
    assert [str(path.relative_to(other.root)) for path in files] == [
        *("phases/00/phase.json", "phases/01/exemplars.npz", "phases/01/model.npz"),
        *("phases/01/phase.json", "phases/02/checkpoint-000001.npz", "settings.json"),
    ]
    for path in files:
        assert path.read_bytes() == (chief.root / path.relative_to(other.root)).read_bytes()


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_both(runs):
    for status, _, errors in runs.stopped:
        assert status == EXIT_STATUS, errors[-3000:]


@pytest.mark.slow
def test_both_go_on_to_the_end(runs):
    for status, _, errors in runs.finished:
        assert status == 0, errors[-3000:]
    chief, other = (output for _, output, _ in runs.finished)
    assert "phase 0 is done already" in chief
    assert "phase 1/5 done" in chief
    assert other == ""


@pytest.mark.slow
def test_the_chief_alone_leaves_files(runs):
    assert runs.left_behind == []
    assert read_json(runs.two.results)["hardware"]["replicas"] == 2
    assert sorted(path.name for path in (runs.two.export / "digits").iterdir()) == ["1", "2"]
    assert runs.two.log.read_text().count("phase 1/5 done") == 1


@pytest.mark.slow
def test_two_workers_agree_with_one(runs):
    """But for rounding, which grows with every step."""
    first, second = (read_arrays(run.model(0)) for run in (runs.one, runs.two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype
        np.testing.assert_allclose(second[name], value, atol=1e-2, err_msg=name)
    exemplars = [read_arrays(run.exemplars(0)) for run in (runs.one, runs.two)]
    difference = exemplars[0]["images"].astype(int) - exemplars[1]["images"]
    assert np.abs(difference).mean() < 0.5  # grey levels of 255
    for phase in (0, 1):
        heads = [read_json(run.record(phase))["heads"] for run in (runs.one, runs.two)]
        for head in ("classifier", "nme"):
            one, two = (values[head]["accuracy"] for values in heads)
            assert two == pytest.approx(one, abs=0.02), (phase, head)
