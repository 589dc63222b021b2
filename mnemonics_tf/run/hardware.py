"""What ran a run: packages and machine, for results.json."""

import contextlib
import importlib.metadata
import os
import pathlib
import platform
import re

import tensorflow as tf

from mnemonics_tf import __version__

_PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets")


def describe_packages() -> dict[str, str]:
    """Returns the versions that results may depend on."""
    versions = {"mnemonics_tf": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an extra's
            versions[name] = importlib.metadata.version(name)
    return versions


def describe_hardware() -> dict[str, object]:
    """Returns processor, number of cores and accelerators."""
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpus": [tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus],
    }


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text("utf-8"))
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()
