import os
import signal

import pytest

from mnemonics_tf.run.interruption import StopRequest


@pytest.fixture
def handlers():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.usefixtures("handlers")
def test_a_signal_is_remembered_and_the_program_goes_on(number, capfd):
    stop = StopRequest()
    stop.listen()
    assert not stop.requested
    os.kill(os.getpid(), number)
    assert stop.requested
    assert number.name in capfd.readouterr().out


@pytest.mark.usefixtures("handlers")
def test_a_second_interrupt_stops_at_once(capsys):
    stop = StopRequest()
    stop.listen()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_who_goes_on_was_not_asked_to_stop(capfd):
    """As in a notebook, which has one experiment and runs it again after an interrupt."""
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.agreed()
    assert "SIGINT" in capfd.readouterr().out
    with stop.listening():
        assert not stop.agreed()
