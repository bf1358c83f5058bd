"""For the tests of hostile files: ways of damaging them, and a watch on what reading them does."""

import io
import os
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from rmaat_np.data.dataset import Dataset
from rmaat_np.errors import InputError

ROOT = Path(__file__).parents[2]

pytest.importorskip("hypothesis")
from hypothesis import Phase, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

MIB = 2**20
NO_SHRINKING = (Phase.explicit, Phase.generate)  # it takes minutes, and the bytes of the first failure say enough
bounded = settings(max_examples=40, derandomize=True, deadline=None, database=None, phases=NO_SHRINKING)
EXECUTES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "ctypes.dlopen")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
watched = {"folder": None, "seen": []}


def audit(event, arguments):
    """Note what leaves the folder. Audit hooks stay for good, so this one rests while no folder is watched."""
    folder = watched["folder"]
    if folder is None:
        return
    if event in EXECUTES:
        watched["seen"].append((event, str(arguments)[:200]))
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in CHANGES) and not str(arguments[0]).startswith(str(folder)):
        watched["seen"].append((event, str(arguments)[:200]))


sys.addaudithook(audit)


@contextmanager
def nothing_else(folder):
    """Within it nothing is executed, and nothing written but below the folder."""
    watched.update(folder=folder, seen=[])
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        watched["folder"], sys.dont_write_bytecode = None, before
    assert watched["seen"] == []


def read_or_refused(load, folder, allowed=Dataset):
    """The result of load(), which may be of that type; or None for an InputError of one printable line."""
    tracemalloc.start()
    try:
        with nothing_else(folder):
            result = load()
        assert isinstance(result, allowed)
        return result
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 1500
        return None
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * MIB, "the files have a few kB"


@st.composite
def damaged(draw, content: bytes):
    """The content, wrong in one of the ways that disks, networks and people know."""
    kind = draw(st.sampled_from(["noise", "cut", "flip", "insert", "repeat", "number"]))
    place = draw(st.integers(0, len(content) - 1))
    end = min(len(content), place + draw(st.integers(1, 64)))
    if kind == "noise":
        return content[: draw(st.integers(0, 16))] + draw(st.binary(max_size=300))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
        return bytes(changed)
    if kind == "number":  # what a length or a count is read from
        number = draw(st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"99999999", b"-1", b"\x00" * 8]))
        return content[:place] + number + content[place + len(number) :]
    inserted = draw(st.binary(max_size=40)) if kind == "insert" else content[place:end] * draw(st.integers(2, 50))
    return content[:place] + inserted + content[place:]


def small_memory(code: str, *arguments) -> str:
    """Run Python with at most 400 MiB of address space above what it needs to start. -> stdout"""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs Linux")
    limit = (
        "import resource; used = int(open('/proc/self/statm').read().split()[0]) * 4096;"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)\n"
    )
    prepare = "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
    prepare += "from rmaat_np.errors import InputError\nfrom rmaat_np.training import run as runs\n"
    prepare += "from rmaat_np.data import image, pathfinder, text\n"
    command = [sys.executable, "-c", prepare + limit + code, str(ROOT), *map(str, arguments)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


REFUSED = """
for path in sys.argv[2:]:
    try:
        {call}
        print("read", path)
    except InputError as error:
        print(error)
"""


def npy_header(descr, shape) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()
