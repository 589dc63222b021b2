"""What importing the package does."""

import ast
import importlib
import os
import pathlib
import subprocess
import sys

import pytest

import mnemonics_tf

PACKAGE = pathlib.Path(mnemonics_tf.__file__).parent


@pytest.mark.parametrize("name", mnemonics_tf.__all__)
def test_a_public_name_is_what_its_module_has(name):
    value = getattr(mnemonics_tf, name)
    assert name in dir(mnemonics_tf)
    home = importlib.import_module("mnemonics_tf" if name == "bilevel" else value.__module__)
    assert getattr(home, name) is value
    assert value.__doc__


def test_other_names_there_are_none():
    with pytest.raises(AttributeError, match="no attribute 'teach'"):
        _ = mnemonics_tf.teach


def test_type_checkers_are_told_the_same_names():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text("utf-8"))
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    modules = {**mnemonics_tf._MODULES, "bilevel": "mnemonics_tf"}
    assert told == {name: f"{module}.{name}" for name, module in modules.items()}
    assert sorted(told) == mnemonics_tf.__all__


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [None, "0"])
def test_tensorflow_starts_as_the_user_chose_or_better(chosen):
    """With oneDNN's kernels, and without errors of CUDA where there is no GPU."""
    names = ("TF_ENABLE_ONEDNN_OPTS", "TF_CPP_MIN_LOG_LEVEL")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= dict.fromkeys(names, chosen) if chosen is not None else {}
    program = (
        "import os, sys, mnemonics_tf.methods.base; assert 'tensorflow' in sys.modules;"
        "import mnemonics_tf, tensorflow as tf; tf.config.list_physical_devices();"
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'], mnemonics_tf._HAS_GPU,"
        "os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    )
    onednn, has_gpu, level = run.stdout.split()
    assert onednn == (chosen or "1")
    assert level == (chosen or ("2" if has_gpu == "True" else "3"))
    if chosen is None and has_gpu == "False":
        assert "CUDA error" not in run.stderr
