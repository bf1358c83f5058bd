"""Memory that NumPy's arrays take again, and gives back: what glibc is told, and what a process keeps."""

import ctypes
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import needs

import rmaat_np as rn
from rmaat_np import backend, processor
from rmaat_np.processor import KEPT, freed_memory_kept, keep_freed_memory

ROOT = Path(__file__).parents[2]
MMAP, TRIM = -3, -1
KEEP = [("mallopt", MMAP, KEPT // 2), ("mallopt", TRIM, 2**31 - 1)]
GIVE_BACK = [("mallopt", TRIM, KEPT), ("malloc_trim", 0)]


@pytest.fixture
def told(monkeypatch):
    """What a C library with more than KEPT bytes to spare is told. No block is running."""
    calls = []
    library = SimpleNamespace(
        mallopt=lambda *values: calls.append(("mallopt", *values)),
        malloc_trim=lambda *values: calls.append(("malloc_trim", *values)),
    )
    monkeypatch.setattr(processor, "_glibc", lambda: library)
    monkeypatch.setattr(processor, "_keepers", 0)
    monkeypatch.setattr(processor, "_base", 0)
    monkeypatch.setattr(processor, "_idle_bytes", lambda libc: KEPT + 1 if calls[-1] != ("malloc_trim", 0) else 0)
    return calls


def test_a_block_keeps_memory_and_its_end_gives_it_back(told):
    with freed_memory_kept():
        assert told == KEEP
    assert told == KEEP + GIVE_BACK


def test_only_the_outermost_of_blocks_gives_back(told):
    """Also where they are in several threads."""
    inside, leave = threading.Event(), threading.Event()

    def other():
        with freed_memory_kept():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with freed_memory_kept(), freed_memory_kept():
        pass
    assert told == KEEP
    leave.set()
    thread.join()
    assert told == KEEP + GIVE_BACK


def test_what_a_program_keeps_from_its_start_no_block_gives_back(told):
    keep_freed_memory()
    with freed_memory_kept():
        pass
    assert told == KEEP


def test_an_error_in_a_block_gives_back_and_comes_out(told):
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        raise ZeroDivisionError
    assert told == KEEP + GIVE_BACK


def test_little_memory_stays(told, monkeypatch):
    """To give it back would cost a small model more than it brings."""
    monkeypatch.setattr(processor, "_idle_bytes", lambda libc: KEPT)
    with freed_memory_kept():
        pass
    assert told == KEEP + GIVE_BACK[:1]


def test_an_older_glibc_and_a_system_without_proc_do_not_tell_what_is_free(without_proc):
    library = SimpleNamespace(mallinfo2=lambda: SimpleNamespace(size4=1, size7=2))
    assert processor._idle_bytes(library) is None and processor._idle_bytes(SimpleNamespace()) is None


@pytest.mark.parametrize(("base", "idle"), [(0, None), (None, 0), (None, None)])
def test_what_is_not_known_goes_back(told, monkeypatch, base, idle):
    monkeypatch.setattr(processor, "_base", base)
    monkeypatch.setattr(processor, "_idle_bytes", lambda libc: idle)
    with freed_memory_kept():
        pass
    assert told == KEEP + GIVE_BACK and processor._base == idle


def test_a_step_and_a_prediction_are_blocks_and_a_card_needs_none(told):
    cfg = rn.Config(8, 3, d_model=8, num_heads=2, num_layers=1, d_ff=8, segment_length=4)
    params, tokens = rn.init_params(cfg), np.ones((2, 8), dtype=int)
    rn.loss_and_grads(params, cfg, tokens, [0, 1])
    rn.predict(params, cfg, tokens)
    assert told == 2 * (KEEP + GIVE_BACK)
    with backend.using(np), freed_memory_kept():
        assert len(told) == 2 * len(KEEP + GIVE_BACK)


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    """macOS has no mallopt, Windows no library of that name."""

    def refuse(name):
        if error is AttributeError:
            return SimpleNamespace()
        raise error

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    processor._glibc.cache_clear()
    with freed_memory_kept():
        keep_freed_memory()
    processor._glibc.cache_clear()
    monkeypatch.setattr(processor, "_keepers", 0)


@pytest.mark.skipif(not needs.MEASURES_MEMORY or processor._glibc() is None, reason="needs Linux with glibc")
def test_a_process_does_not_stay_large():
    """Of 320 MiB in arrays that glibc keeps inside a block, hardly more than KEPT is left after it.

    In a process of its own: what other tests left in this one would be used again.
    """
    code = """
import numpy as np
from rmaat_np.processor import KEPT, freed_memory_kept
from rmaat_np.system.machine import _status_bytes
before = _status_bytes("VmRSS")
with freed_memory_kept():
    arrays = [np.ones(2**20) for _ in range(40)]
    del arrays
    inside = _status_bytes("VmRSS")
after = _status_bytes("VmRSS")
assert inside - before > 300 * 2**20 and after - before < KEPT, (before, inside, after)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not needs.MEASURES_MEMORY or processor._glibc() is None, reason="needs Linux with glibc")
def test_one_large_call_does_not_slow_down_the_calls_after_it():
    """What it needed goes back; what the later ones free is kept for them again, and they need no fresh pages."""
    code = """
import resource
import numpy as np
import rmaat_np as rn
cfg = rn.Config(16, 4, segment_length=128, num_segments=8)
params, tokens, labels = rn.init_params(cfg), np.ones((32, 1024), int), np.zeros(32, int)
def faults(length=512, method="amrb"):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    rn.loss_and_grads(params, cfg, tokens[:, :length], labels, method)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = [faults() for _ in range(4)]
faults(1024, "bptt")
again = [faults() for _ in range(4)]
assert max(first[2:] + again[2:]) < first[0] / 10, (first, again)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
