"""Signals: collected while a run can be saved, and given back afterwards."""

import os
import signal

import pytest
from helpers import needs

from rmaat_np.command.signals import exit_code, number_of, stop_at_once, stop_requests

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@needs.signals
@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_is_collected(number):
    with stop_requests() as received:
        assert received == []
        os.kill(os.getpid(), number)
        assert received == [number]


@needs.signals
def test_second_signal_stops_at_once():
    with pytest.raises(KeyboardInterrupt) as stop, stop_requests() as received:
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGINT)
    assert number_of(stop.value) == signal.SIGINT


def test_signals_are_handed_back():
    before = [signal.getsignal(number) for number in NUMBERS]
    with pytest.raises(ZeroDivisionError), stop_requests():
        assert [signal.getsignal(number) for number in NUMBERS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_exit_codes():
    with pytest.raises(KeyboardInterrupt) as stop:
        stop_at_once(signal.SIGTERM, None)
    assert exit_code(number_of(stop.value)) == 143
    assert exit_code(number_of(KeyboardInterrupt())) == 130
