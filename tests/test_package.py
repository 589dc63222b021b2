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
