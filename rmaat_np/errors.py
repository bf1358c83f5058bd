"""The one exception that means "the input is wrong", as opposed to a bug in this package."""


class InputError(ValueError):
    """A file, row, option or field that cannot be used; the message is one line and names the remedy.

    `run_lra.py` prints it and exits with code 2, without a traceback.
    """
