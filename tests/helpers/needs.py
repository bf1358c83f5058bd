"""What some tests need of their platform. Where it is missing, they are skipped."""

import os
import signal

import pytest

signals = pytest.mark.skipif(os.name == "nt", reason="on Windows a signal to a process just ends it")
sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
sessions = pytest.mark.skipif(not hasattr(os, "getsid"), reason="needs sessions")
full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
MEASURES_MEMORY = os.path.exists("/proc/self/clear_refs")  # else a run's peak_memory_bytes is None
