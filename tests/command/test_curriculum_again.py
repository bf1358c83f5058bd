"""A curriculum whose folders were changed between two calls: a stage that went on, a lost result, a divergence."""

import shlex
import shutil
from pathlib import Path

import pytest
from helpers.calls import assert_refused
from helpers.curricula import FILE, FIRST, SECOND, assert_equal_curricula, extend_first_stage, words

from rmaat_np.step import loss_and_grads
from rmaat_np.training import loop, validation
from rmaat_np.training import run as runs


def test_a_stage_that_started_from_another_checkpoint_is_refused(call):
    """The first stage went on by hand, and has a better checkpoint now; the second one did not start from that."""
    assert call(*words())[0] == 0
    start = runs.load_run("out/2-stage").start
    before = Path("out/1-stage/best.npz").read_bytes()
    extend_first_stage(30)
    assert runs.load_run("out/1-stage/best.npz").progress.step > 6
    folder, second, best = (Path("out", *parts) for parts in (["1-stage"], ["2-stage"], ["1-stage", "best.npz"]))
    said = f"steps is 6, but {folder} has 30; change it back, or move {folder} and the stages after it away"
    assert_refused(call(*words()), f"lengths.toml: stage 1: {said}")
    longer = FILE.replace("steps = 6", "steps = 30")
    said = f"{second} did not start from {best} as that is now; bring that checkpoint back, or move {second} and the"
    assert_refused(call(*words(longer)), f"lengths.toml: stage 2: {said}")
    after = best.read_bytes()
    best.write_bytes(before)
    assert call(*words(longer))[0] == 0
    best.write_bytes(after)
    second.rename("away")
    assert call(*words(longer))[0] == 0
    assert runs.load_run("out/2-stage").start not in (0, start)


def test_a_stage_whose_checkpoint_is_the_same_may_go_on(call, monkeypatch):
    """And so may one of an older program, which does not know its start, or one whose start was deleted."""
    assert call(*words())[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(validation, "is_better", lambda *_: False)
        extend_first_stage(8)
    longer = FILE.replace("steps = 6", "steps = 8")
    code, out, _ = call(*words(longer))
    assert code == 0 and out.count("finished before") == 2
    best = Path("out/1-stage/best.npz")
    run = runs.load_run("out/2-stage")
    run.start += 1
    run.write("last.npz")
    assert_refused(call(*words(longer)), f"did not start from {best} as that is now")
    best.rename("best.npz")
    assert call(*words(longer))[0] == 0
    Path("best.npz").rename(best)
    run.start = 0
    run.write("last.npz")
    assert "start" not in run.record() and call(*words(longer))[0] == 0


@pytest.mark.parametrize("damage", [b"{", b"[]", b"", b'{"peak_memory_bytes": "much"}', None], ids=repr)
def test_a_damaged_result_is_made_anew_by_a_test_alone(call, monkeypatch, damage):
    """Nothing is trained again, and the stages after it stay."""
    assert call(*words())[0] == 0
    shutil.copytree("out", "whole")
    result = Path("out/1-stage/result.json")
    result.write_bytes(damage) if damage is not None else result.unlink()
    monkeypatch.setattr(loop, "train_step", None)
    code, out, err = call(*words())
    assert (code, err) == (0, "") and f"{Path('out/1-stage')}: is trained, and tested again" in out
    assert f"{Path('out/2-stage')}: finished before" in out
    assert_equal_curricula("out", "whole")
    assert call(*words())[1].count("finished before") == 2


def test_a_damaged_result_before_the_last_step(call):
    assert call(*words(FIRST))[0] == 0
    extend_first_stage(9, finish=False)
    result = Path("out/1-stage/result.json")
    result.write_bytes(b"{")
    longer = FIRST.replace("steps = 6", "steps = 9")
    said = f"lengths.toml: stage 1: {result}: is not readable; remove that file, and the stage goes on"
    assert_refused(call(*words(longer)), said)
    result.unlink()
    code, out, _ = call(*words(longer))
    assert code == 0 and f"{result.parent}: goes on" in out


def test_a_stage_that_diverges_is_told_and_kept(call):
    code, _, err = call(*words(FILE + "lr = 1e30\n"))
    assert code == 1 and err.count("\n") == 1 and "2-stage" in err
    assert Path("out/1-stage/result.json").exists() and not Path("out/2-stage/result.json").exists()
    said = f"; write a lower lr into stage 2 of lengths.toml, move {Path('out/2-stage')} away, and go on with: "
    advice, _, again = err.partition(said)
    assert advice.startswith("run_lra.py: step ") and "--detect-anomaly names the operation" in advice
    Path("out/2-stage").rename("away")
    Path("lengths.toml").write_text(FILE, encoding="utf-8")
    assert call(*shlex.split(again)[2:])[0] == 0


def test_a_stage_that_diverges_by_the_rate_of_the_command_line(call, monkeypatch):
    """The rate of the command line would win over the one in the file."""
    rate = ["--lr", "0.01"]
    text = FILE.replace("lr = 0.01\n", "")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "loss_and_grads", infinite_in_stage_2)
        code, _, err = call(*words(text), *rate)
    said = "; write lr = 0.01 into the stages of lengths.toml, and a lower one into stage 2, move "
    said += f"{Path('out/2-stage')} away, and without the lr of the command line go on with: "
    assert code == 1 and err.count("\n") == 1
    again = shlex.split(err.partition(said)[2])[2:]
    del again[again.index("--lr") : again.index("--lr") + 2]
    Path("out/2-stage").rename("away")
    Path("lengths.toml").write_text(f"{FIRST}{SECOND}lr = 0.001\n", encoding="utf-8")
    assert call(*again)[0] == 0
    assert runs.load_run("out/2-stage").settings.train.lr == 0.001


def infinite_in_stage_2(params, cfg, *args, **options):
    loss, grads, stats = loss_and_grads(params, cfg, *args, **options)
    return (loss * float("inf") if cfg.num_segments == 4 else loss), grads, stats
