"""What a run says of itself before it begins."""

import types

import numpy as np
import pytest

from mnemonics_tf.data.digits import load_digits
from mnemonics_tf.methods import METHODS
from mnemonics_tf.phases import opening
from mnemonics_tf.phases.asked_for import make_protocol
from mnemonics_tf.run.directory import RunDirectory
from mnemonics_tf.settings import Settings


@pytest.mark.parametrize("name", ["lwf", "joint"])
def test_the_outlook_counts_what_a_method_sees(name, monkeypatch):
    """All data so far, or the new classes' and the exemplars of the old ones."""
    chosen = {"method": name, "base_classes": 5, "num_phases": 5, "base_epochs": 3, "epochs": 2}
    settings = Settings().changed(**chosen)
    source = load_digits()
    protocol = make_protocol(settings, 10)
    method = METHODS[name](settings.training)
    counts = source.training_counts()[list(protocol.order)]
    so_far, new = np.cumsum(counts)[4:], np.array([counts[:5].sum(), *counts[5:]])
    old = 20 * np.array([0, 5, 6, 7, 8, 9])
    expected = {"lwf": new + old, "joint": so_far}[name] * [3, 2, 2, 2, 2, 2]
    monkeypatch.setattr(opening, "Outlook", dict)
    images = opening.outlook_of(settings, method, protocol, source)
    assert [images["train", phase] for phase in range(6)] == expected.tolist()
    first = opening.outlook_of(settings.changed(last_phase=1), method, protocol, source)
    assert first == {("train", phase): expected[phase] for phase in range(2)}


@pytest.mark.parametrize(
    ("kinds", "told"),
    [(["CPU"], "on 1 x CPU with 3.0 GiB free"), (["GPU"] * 2, "on 1 x GPU with 3.0 GiB, in ")],
)
def test_devices_are_counted_once(kinds, told, monkeypatch, caplog):
    """As README says that the log tells them."""
    devices = [types.SimpleNamespace(device_type=kind) for kind in kinds]
    monkeypatch.setattr(opening.tf.config, "list_logical_devices", lambda: devices)
    monkeypatch.setattr(opening, "available_bytes", lambda: 3 * 2**30)
    settings = Settings()
    model = types.SimpleNamespace(backbone=types.SimpleNamespace(variables=[]))
    strategy = types.SimpleNamespace(num_replicas_in_sync=1)
    with caplog.at_level("INFO", logger="mnemonics_tf"):
        opening.tell_plan(
            settings, make_protocol(settings, 10), model, strategy, RunDirectory("run")
        )
    assert told in caplog.text
