"""What importing the package does."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("chosen", "expected"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_user_chose(chosen, expected):
    environment = {k: v for k, v in os.environ.items() if k != "TF_ENABLE_ONEDNN_OPTS"}
    if chosen is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = chosen
    program = (
        "import os, sys, mnemonics_tf.methods.base as module; assert 'tensorflow' in sys.modules;"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    assert printed.stdout.strip() == expected


@pytest.mark.parametrize("chosen", [None, "0"])
def test_without_a_gpu_no_error_tells_of_cuda_unless_asked_for(chosen):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    if chosen is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = chosen
    program = (
        "import os, mnemonics_tf, tensorflow as tf; tf.config.list_physical_devices();"
        "print(mnemonics_tf._HAS_GPU, os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    has_gpu, level = run.stdout.split()
    assert level == (chosen or ("2" if has_gpu == "True" else "3"))
    if chosen is None and has_gpu == "False":
        assert "CUDA error" not in run.stderr
