"""pytest rewrites the asserts of test modules; here it is asked to do the same for the checks that they share."""

import pytest

import run_lra

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
