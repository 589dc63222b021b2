import logging

import pytest

from mnemonics_tf.monitoring import plan


@pytest.mark.parametrize(
    ("tracing", "seconds", "time"),
    [
        (1, [9.0, 2.5, 7.0, 7.0], "an outer step takes 2.50 s, the 2 left about 5 s"),
        (2, [9.0, 9.0, 50.0, 7.0], "an outer step takes 50.00 s, the 1 left about 50 s"),
        (1, [9.0, 2.5], "the last outer step took 2.50 s"),
        (1, [9.0], "the last outer step took 9.00 s, graphs traced in it"),
        (4, [9.0, 8.0], "the last outer step took 8.00 s, graphs traced in it"),
    ],
)
def test_the_cost_is_told_once_from_a_step_that_traced_no_graphs(
    caplog, monkeypatch, tracing, seconds, time
):
    monkeypatch.setattr(plan, "_peak_memory", lambda: 3 * 2**29)
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        told = plan.Plan("exemplars", len(seconds), tracing)
        told.announce(200, 100)
        for value in seconds:
            told.step_done(value)
    assert caplog.messages == [
        f"exemplars: 200 exemplars, 100 in a step; outer steps ahead: {len(seconds)}",
        f"exemplars: {time}; peak memory so far 1.5 GiB",
    ]


def test_what_takes_time_beside_the_steps_is_named(caplog):
    with caplog.at_level(logging.INFO, "mnemonics_tf"):
        told = plan.Plan("exemplars", 3, 1, beside="rehearsals")
        for value in (9.0, 2.5):
            told.step_done(value)
    assert "an outer step takes 2.50 s, the 1 left about 2 s, rehearsals apart;" in caplog.text
