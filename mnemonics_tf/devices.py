"""On which devices a run works, and how a batch is shared by them."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from mnemonics_tf.errors import UserError


def create_strategy(name: str) -> tf.distribute.Strategy:
    """Returns the distribution strategy that everything of a run goes through.

    Several workers must create theirs before TensorFlow does anything else.

    Args:
        name: `single`: one device; `mirrored`: all GPUs of this machine (without any, its logical
            CPUs); `multi_worker`: all GPUs of the machines in TF_CONFIG; `auto`: the one of these
            that uses all there is.

    Raises:
        UserError: if TF_CONFIG is missing, damaged or not one of workers.
    """
    if name == "auto":
        if len(_workers()) > 1:
            name = "multi_worker"
        else:
            name = "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "single"
    if name == "single":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
        if gpus:
            return tf.distribute.MirroredStrategy(gpus)
        cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
        if len(cpus) == 1:  # of one CPU nothing is mirrored, and XLA can't compile what mirrors
            return tf.distribute.get_strategy()
        return tf.distribute.MirroredStrategy(cpus, tf.distribute.ReductionToOneDevice())
    workers = _workers()
    if not workers:
        raise UserError(
            "--strategy=multi_worker: the environment variable TF_CONFIG names no workers; set it "
            'on every one of them, e.g. to {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
            '"task": {"type": "worker", "index": 0}}'
        )
    _check_task(len(workers))
    return tf.distribute.MultiWorkerMirroredStrategy()


def _workers() -> list[str]:
    """Returns the addresses of the workers that TF_CONFIG names, or nothing.

    Raises:
        UserError: if it can't be read, or has other tasks than workers.
    """
    cluster = _tf_config().get("cluster", {})
    workers = cluster.get("worker", []) if isinstance(cluster, dict) else None
    if not isinstance(workers, list) or not all(isinstance(one, str) for one in workers):
        raise UserError(
            "the environment variable TF_CONFIG is damaged: its cluster is "
            f'{json.dumps(cluster)}, expected {{"worker": [...]}} with the address of each'
        )
    others = set(cluster) - {"worker"}
    if others:
        raise UserError(
            f"the environment variable TF_CONFIG names tasks of kind {', '.join(sorted(others))}: "
            "all of them must be of kind worker; worker 0 is the chief"
        )
    return workers


def _check_task(num_workers: int) -> None:
    """Refuses a TF_CONFIG that does not say which of the workers this process is."""
    task: Any = _tf_config().get("task")
    try:
        is_worker = task["type"] == "worker" and 0 <= int(task["index"]) < num_workers
    except (KeyError, OverflowError, TypeError, ValueError):
        is_worker = False
    if not is_worker:
        raise UserError(
            "the environment variable TF_CONFIG says which worker this process is by the task "
            f'{json.dumps(task)}: expected {{"type": "worker", "index": i}}, i from 0 to '
            f"{num_workers - 1}, another on each"
        )


def _tf_config() -> dict[str, Any]:
    text = os.environ.get("TF_CONFIG", "")
    try:
        found = json.loads(text or "{}")
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except ValueError as error:
        raise UserError(
            f"the environment variable TF_CONFIG is damaged ({error}): {text}"
        ) from None
    return found


def spans_workers(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether replicas live in other processes too."""
    return strategy.extended._in_multi_worker_mode() and len(_workers()) > 1


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process is the one that writes what a run leaves."""
    resolver = strategy.cluster_resolver
    return not spans_workers(strategy) or resolver.task_id == 0


def compiles(jit_compile: str) -> bool:
    """Returns whether graphs are compiled by XLA; `auto` means where there are GPUs.

    On CPUs XLA's code is 1.5 to 11 times slower than TensorFlow's kernels.
    """
    if jit_compile == "auto":
        return bool(tf.config.list_physical_devices("GPU"))
    return jit_compile == "on"


def available_bytes() -> int | None:
    """Returns the bytes of the smallest GPU or, on a machine without any, those that are free.

    A container may have less than its machine.
    """
    if tf.config.list_logical_devices("GPU"):
        return _gpu_memory()
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    match = re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text("utf-8"))
    return min([int(match.group(1)) * 1024, *_left_to_groups()]) if match else None


def _left_to_groups(root: pathlib.Path = pathlib.Path("/")) -> list[int]:
    """Returns the bytes that control groups leave, this process's own and those around it.

    What of their files Linux keeps in memory it gives up for others, and is not counted.

    Args:
        root: below which Linux shows itself.
    """
    left = []
    for folder, limit, usage, kept in _memory_groups(root):
        with contextlib.suppress(OSError, ValueError):  # the outermost has no limit, others "max"
            most, used = (int((folder / name).read_text("ascii")) for name in (limit, usage))
            stat = (folder / "memory.stat").read_text("ascii")
            facts = dict(line.split() for line in stat.splitlines())
            left.append(max(0, most - used + sum(int(facts.get(name, 0)) for name in kept)))
    return left


def _memory_groups(
    root: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, str, str, tuple[str, str]]]:
    """Yields control groups: a folder, its files of limit and use, and what the files kept are."""
    mounted = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:  # NUMBER:CONTROLLERS:PATH; a container may show its own as the outermost
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            top, limit, usage, prefix = mounted, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            top, prefix = mounted / "memory", "total_"
            limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        own = top / path.lstrip("/")
        for folder in (own, *own.parents):
            if folder == top or top in folder.parents:
                yield folder, limit, usage, (f"{prefix}active_file", f"{prefix}inactive_file")


def _gpu_memory() -> int | None:
    """Returns all bytes of the smallest GPU: of those in use TensorFlow holds most itself.

    The machine may have others, which TensorFlow does not see; nvidia-smi numbers them otherwise.
    """
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    seen = {told.get("device_name") for told in details}
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = [line.rpartition(", ") for line in told.splitlines()]
        chosen = [line for line in lines if line[0] in seen] or lines
        return min(int(size) for _, _, size in chosen) * 2**20
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None  # no check is better than a wrong one


def iterate(strategy: tf.distribute.Strategy, batches: tf.data.Dataset) -> Iterator[Any]:
    """Iterates over batches of which each replica gets its part, as `part_of` describes it.

    The parts are cut from whole batches, so that what a batch holds (its images, their
    augmentation) does not depend on the number of devices. Ask for no more batches than there are.

    Args:
        strategy: whose replicas share.
        batches: dicts of tensors with the batch's axis first, `weight` among them.
    """
    total = strategy.num_replicas_in_sync
    if total == 1:
        return iter(batches)

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = total // context.num_input_pipelines
        first = context.input_pipeline_id * local

        def parts(batch):
            replicas = tf.data.Dataset.range(first, first + local)
            return replicas.map(lambda replica: part_of(batch, replica, total))

        # A cardinality that claims no end spares the workers asking each other, before every step,
        # whether one of them has any data left.
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return batches.flat_map(parts).prefetch(2 * local).apply(endless)

    return iter(strategy.distribute_datasets_from_function(of_worker))


def part_of(
    batch: dict[str, tf.Tensor], replica: int | tf.Tensor, replicas: int
) -> dict[str, tf.Tensor]:
    """Returns the consecutive part of a batch that is one replica's.

    Parts differ in size by one at most. Where a batch has fewer rows than there are replicas, some
    get a copy of another's row with weight 0: TensorFlow's CPU convolution (2.21) returns wrong
    shapes for empty batches.

    Args:
        batch: tensors with the batch's axis first, `weight` among them.
        replica: which part.
        replicas: how many parts there are.
    """
    count = tf.shape(batch["weight"], tf.int64)[0]
    replica_id = tf.cast(replica, tf.int64)
    start, stop = count * replica_id // replicas, count * (replica_id + 1) // replicas
    part = {name: tensor[start : tf.maximum(stop, start + 1)] for name, tensor in batch.items()}
    return part | {"weight": part["weight"] * tf.cast(stop > start, part["weight"].dtype)}


def gathered(strategy: tf.distribute.Strategy, parts: Any) -> tf.Tensor:
    """Returns what all replicas computed, one after the other along the first axis; in a graph."""
    if spans_workers(strategy):
        return strategy.gather(parts, axis=0)
    return tf.concat(strategy.experimental_local_results(parts), axis=0)
