"""Signals: collected while a run can be saved, and given back afterwards."""

import os
import signal

import pytest
from helpers import needs

from rmaat_np.command import signals
from rmaat_np.command.signals import exit_code, handle_stops, number_of, stop_at_once, stop_requests

HANGUP = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
NUMBERS = (signal.SIGINT, signal.SIGTERM, *HANGUP)


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


@needs.signals
@pytest.mark.parametrize("first", NUMBERS)
def test_a_second_hangup_is_no_impatience(first):
    """A terminal that is closed makes the shell send one, and the system another."""
    with stop_requests() as received:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGHUP)
        assert received == [first, signal.SIGHUP]


@needs.signals
def test_a_hangup_that_is_ignored_stays_ignored():
    """As `nohup` starts a process."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handle_stops()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with stop_requests() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == [] and signal.getsignal(signal.SIGTERM) is not stop_at_once
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is stop_at_once
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_platform_without_hangup(monkeypatch):
    """Windows."""
    monkeypatch.setattr(signals, "_STOPS", [signal.SIGINT, signal.SIGTERM])
    monkeypatch.setattr(signals, "_HANGUP", None)
    with stop_requests() as received:
        assert received == [] and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


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
    assert [exit_code(number) for number in HANGUP] == [129] * len(HANGUP)
