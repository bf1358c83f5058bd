"""Signals: the one place of the program with signal handlers."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# what asks a process to end, on this platform: SIGHUP when its terminal is closed or its connection breaks; SIGUSR1
# before a batch system's time is over, and from Open MPI's mpiexec; SIGBREAK from another process of Windows
_STOPS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)
]
_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


def handle_stops() -> None:
    """Let what asks a process to end do so in an orderly way, from here on. For a program's own process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _heeded()[1:]:
        signal.signal(number, stop_at_once)


def _heeded() -> list[int]:
    """The signals to act on, SIGINT first. Started by `nohup`, a process ignores SIGHUP, and goes on doing so."""
    return [number for number in _STOPS if number != _HANGUP or signal.getsignal(number) is not signal.SIG_IGN]


def stop_at_once(number: int, frame) -> None:
    """The handler while there is nothing to save: SIGTERM and SIGHUP act as Ctrl-C does."""
    raise KeyboardInterrupt(number)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Inside the `with` block, collect the signals that ask to end in a list instead of dying of them.

    A second signal raises KeyboardInterrupt(number). SIGHUP as a second one does not: where a terminal is closed, the
    shell sends one and the system another, and both mean the same.
    """
    received: list[int] = []

    def remember(number: int) -> None:
        if received and number != _HANGUP:
            raise KeyboardInterrupt(number)
        received.append(number)

    with stops_answered(remember):
        yield received


@contextmanager
def stops_answered(answer: Callable[[int], object]) -> Iterator[None]:
    """Inside the `with` block, each signal that asks to end calls answer(number)."""

    def handler(number: int, frame) -> None:
        answer(number)

    previous = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def exit_code(number: int | None) -> int:
    """What a shell reports of a process that a signal ended. None: Python's own KeyboardInterrupt, which names none."""
    return 128 + (signal.SIGINT if number is None else number)


def number_of(stop: KeyboardInterrupt) -> int | None:
    """The signal behind a KeyboardInterrupt, if it names one."""
    return stop.args[0] if stop.args else None
