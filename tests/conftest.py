"""pytest rewrites the asserts of test modules; here it is asked to do the same for the checks that they share."""

import builtins

import pytest

import run_lra
from rmaat_np import segments

pytest.register_assert_rewrite("helpers")


@pytest.fixture
def call(capsys):
    """Call the command in this process. -> exit code, stdout, stderr"""

    def call(*arguments):
        try:
            code = run_lra.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        except KeyboardInterrupt:  # would end pytest itself
            pytest.fail("KeyboardInterrupt came out of the command")
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def cut_for_workers(monkeypatch):
    """Every worker has a shard, however small the batch is: tests of several shards are quick that way."""
    monkeypatch.setattr(segments, "LEAST_ROWS_PER_SHARD", 0)


@pytest.fixture
def without_proc(monkeypatch):
    """A system without /proc, as macOS."""
    real_open = builtins.open

    def refuse(path, *rest, **options):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real_open(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", refuse)
