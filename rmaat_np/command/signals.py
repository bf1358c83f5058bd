"""Signals: the one place of the program with signal handlers."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

# what asks a process to end, on this platform; SIGBREAK is the one that Windows sends from process to process, SIGUSR1
# the one that batch systems send before a job's time is over, and the one that Open MPI's mpiexec hands on in peace
_STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)]


def handle_stops() -> None:
    """Let what asks a process to end do so in an orderly way, from here on. For a program's own process."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in _STOPS[1:]:
        signal.signal(number, stop_at_once)


def stop_at_once(number: int, frame) -> None:
    """The handler while there is nothing to save: SIGTERM acts as Ctrl-C does."""
    raise KeyboardInterrupt(number)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Inside the `with` block, collect the signals that ask to end in a list instead of dying of them.

    A second signal raises KeyboardInterrupt(number).
    """
    received: list[int] = []

    def remember(number: int, frame) -> None:
        if received:
            raise KeyboardInterrupt(number)
        received.append(number)

    previous = {number: signal.signal(number, remember) for number in _STOPS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def exit_code(number: int | None) -> int:
    """What a shell reports of a process that a signal ended. None: Python's own KeyboardInterrupt, which names none."""
    return 128 + (signal.SIGINT if number is None else number)


def number_of(stop: KeyboardInterrupt) -> int | None:
    """The signal behind a KeyboardInterrupt, if it names one."""
    return stop.args[0] if stop.args else None
