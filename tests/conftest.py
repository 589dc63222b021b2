"""Fixtures that several test files share."""

import os

import mnemonics_tf  # isort: skip  # noqa: F401 (first: it chooses TensorFlow's kernels, as in runs)
import keras
import pytest
from absl import flags
from absl.testing import flagsaver

from mnemonics_tf.monitoring.progress import stop_logging

#: What takes longest goes first, the longest of it at the start: who gets one of these last is
#: waited for.
LONGEST = (
    "test_workers.py",
    "test_every_flag.py",
    "test_one_trace.py",
    "test_extension.py",
    "test_going_on.py",
    "test_python_page.py",
    "test_reproduce.py",
    "test_chaos.py",
    "test_install.py",
    "test_folder_run.py",
    "test_devices.py",
    "test_own_code.py",
    "test_sweep.py",
    "test_compare_exemplars.py",
    "test_coded_run.py",
    "test_sweep_layers.py",
    "test_publication.py",
    "test_loading.py",
    "test_embedding.py",
    "test_train.py",
    "test_earlier_run.py",
    "test_temporary_model.py",
    "test_loop.py",
    "test_precision.py",
    "test_step.py",
)


def pytest_collection_modifyitems(items):
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keeps what tests learn of images out of the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk():
    """No test cuts the power, and a shared disk takes its time for hundreds of small files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _own_log():
    """No test hears of what a run before it, or a fixture's, did to the log."""
    stop_logging()
    yield
    stop_logging()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run on the digits, which no test changes."""
    from tests.digit_runs import SETTINGS, changed, run_watched

    directory = tmp_path_factory.mktemp("finished") / "run"
    return run_watched(changed(SETTINGS, run={"run_dir": str(directory)}))


@pytest.fixture
def quick_runs():
    """Runs without exports and pictures."""
    from tests.quick_runs import nothing_to_look_at

    with nothing_to_look_at():
        yield


@pytest.fixture(scope="module")
def small_networks():
    """Runs with two convolutions in place of a ResNet, where its depth plays no part."""
    from tests.small_network import in_place_of_resnets

    with in_place_of_resnets():
        yield


@pytest.fixture
def parse():
    """Parses arguments as the training command does, each time from the defaults."""
    from mnemonics_tf import train  # defines the flags

    assert train
    defaults = flagsaver.save_flag_values()

    def parse_arguments(*arguments: str) -> flags.FlagValues:
        flagsaver.restore_flag_values(defaults)
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["train", *arguments])
        return flags.FLAGS

    yield parse_arguments
    flagsaver.restore_flag_values(defaults)


@pytest.fixture
def double_precision():
    """Layers built within the test compute in float64; later ones do not."""
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)
