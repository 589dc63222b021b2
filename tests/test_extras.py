"""Packages that an extra brings: what needs them says which."""

import importlib
import re
import sys

import pytest

from mnemonics_tf.data import digits, prepared
from mnemonics_tf.errors import UserError
from mnemonics_tf.monitoring import pictures
from mnemonics_tf.reporting import embedding


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("sklearn", digits.load_digits, "demo"),
        ("sklearn.manifold", embedding.check_installed, "report"),
        ("threadpoolctl", embedding.check_installed, "report"),
        ("matplotlib", lambda: pictures.accuracy_matrix([[1]]), "report"),
        ("tensorflow_datasets", lambda: prepared.open_prepared("nowhere"), "tfds"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch, package, use, extra):
    monkeypatch.setitem(sys.modules, package, None)  # an import of it fails
    command = re.escape(
        f"needs {package}, which is not installed: pip install 'mnemonics-tf[{extra}]'"
    )
    with pytest.raises(UserError, match=command):
        use()


def test_without_matplotlib_nothing_is_drawn(monkeypatch):
    assert pictures.can_draw()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not pictures.can_draw()


def test_a_matplotlib_that_can_not_be_imported_is_found_to_fail_by_who_draws(monkeypatch):
    def fail(name):
        raise ValueError("Key backend: 'nonsense' is not a valid value")  # of MPLBACKEND

    monkeypatch.setattr(importlib, "import_module", fail)
    assert pictures.can_draw()
