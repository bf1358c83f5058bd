"""Calls of the command in this process, as small as they can be."""

import shlex
import sys
from pathlib import Path

import run_lra

SCRIPT = Path(run_lra.__file__)
COMMAND = shlex.join([sys.executable, str(SCRIPT)])  # how printed commands begin outside the folder of the script
FIELDS = ("d_model=16", "num_heads=2", "num_layers=1", "d_ff=16", "segment_length=8", "num_segments=2", "num_memory=2")
FIELDS += ("class_within=8", "length=16")
TINY = ["--task", "recall", "--workers", "1", "--steps", "6", "--batch-size", "8", "--set", "eval_every=3"]
TINY += [part for field in FIELDS for part in ("--set", field)]


def assert_refused(outcome, *fragments, code=2):
    """Exit code 2 and one line on stderr that holds the fragments."""
    found, _, err = outcome
    assert found == code
    assert err.startswith("run_lra.py: ") and err.endswith("\n") and err.count("\n") == 1, err
    for fragment in fragments:
        assert str(fragment) in err, err
