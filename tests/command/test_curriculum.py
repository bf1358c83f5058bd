"""--curriculum: stages of a file as one command, which goes on to the same bits, and refuses what it could not end."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import needs
from helpers.calls import COMMAND, assert_refused
from helpers.curricula import (
    FIELDS,
    FILE,
    FIRST,
    SECOND,
    STAGES,
    TINY,
    assert_equal_curricula,
    extend_first_stage,
    words,
)
from helpers.runs import assert_equal_runs, at_step

import rmaat_np as rn
import run_lra
from rmaat_np import Config
from rmaat_np.command import options
from rmaat_np.data import pathfinder_generator
from rmaat_np.params import param_shapes
from rmaat_np.system import files
from rmaat_np.training import loop
from rmaat_np.training import run as runs
from rmaat_np.training.curriculum import read_stages


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a curriculum that nothing interrupted; in `renames` the files that it wrote, one after another."""
    folder, renames = tmp_path_factory.mktemp("whole"), []

    def replace(source, target):
        renames.append(f"{Path(target).parent.name}/{Path(target).name}")
        os.replace(source, target)

    (folder / "lengths.toml").write_text(FILE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "draw_curve", lambda folder: None)
        patch.setattr(files, "os", SimpleNamespace(**vars(os) | {"replace": replace}))
        command = [*TINY, "--curriculum", str(folder / "lengths.toml"), "--out", str(folder / "out")]
        assert run_lra.main(command) == 0
    return SimpleNamespace(out=folder / "out", renames=renames)


# what works


def test_what_it_says(call):
    code, out, err = call(*words())
    assert (code, err) == (0, "")
    lines = out.splitlines()
    starts = [line for line in lines if line.startswith("stage ")]
    best = Path("out/1-stage/best.npz")
    assert starts == [
        f"stage 1 of 2, {Path('out/1-stage')}: starts from its seed",
        f"stage 2 of 2, {Path('out/2-stage')}: starts from {best}; segments 3 to 4 with the embedding of segment 2",
    ]
    results = [json.loads((Path("out") / name / "result.json").read_text(encoding="utf-8")) for name in STAGES]
    expected = [
        f"{name}: {steps} steps, validation accuracy {result['val_accuracy']:.3f}, "
        f"test accuracy {result['test_accuracy']:.3f}"
        for name, steps, result in zip(STAGES, (6, 7), results, strict=True)
    ]
    assert lines[-3:] == [*expected, "out/: curriculum.json, and a folder for each stage"]
    record = json.loads(Path("out/curriculum.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["folder"] for stage in record] == [*STAGES]
    for stage, result in zip(record, results, strict=True):
        assert stage["result"] == {name: value for name, value in result.items() if name != "test"}
        assert runs.load_run(Path("out") / stage["folder"]).settings.to_json() == stage["settings"]


def test_a_stage_is_the_run_that_starts_by_hand(call, whole):
    """From the best checkpoint of the one before, with more segments too."""
    best = whole.out / "1-stage" / "best.npz"
    changes = ("steps=7", "length=32", "num_segments=4", f"init={best}")
    assert call(*TINY, *(part for change in changes for part in ("--set", change)), "--out", "alone")[0] == 0
    assert_equal_runs(Path("alone"), whole.out / "2-stage")
    assert runs.load_run(whole.out / "2-stage").settings.train.init == str(best)


def test_stages_are_ordinary_runs(call, whole):
    stage = whole.out / "2-stage"
    code, out, _ = call("--eval", stage)
    result = json.loads((stage / "result.json").read_text(encoding="utf-8"))
    assert code == 0 and json.loads(out)["test_accuracy"] == result["test_accuracy"]
    params, cfg, _ = rn.load(stage)
    assert cfg.num_segments == 4 and params["embed.segment"].shape == (4, 16)
    assert call("--resume", stage)[0] == 0


def test_options_of_all_stages_are_checked_before_anything_is_drawn(call, monkeypatch):
    monkeypatch.setattr(pathfinder_generator, "generate", lambda *_, **__: pytest.fail("drawn"))
    stage = "[[stage]]\nsteps = 1\nimages = 20\nheight = 8\ncontour_length = {}\n"
    Path("late.toml").write_text(stage.format(2) + stage.format(9), encoding="utf-8")
    said = "late.toml: stage 2: contour_length is 9, but snakes of 2 to 5 paddles"
    assert_refused(call("--task", "pathfinder", "--curriculum", "late.toml", "--out", "out"), said)
    assert os.listdir() == ["late.toml"]


def test_the_command_line_wins_in_all_stages(call):
    assert call(*words(), "--steps", 2, "--set", "lr=0.5")[0] == 0
    train = [runs.load_run(Path("out") / name).settings.train for name in STAGES]
    assert [(stage.steps, stage.lr) for stage in train] == [(2, 0.5)] * 2


def test_init_is_where_the_first_stage_starts_from(call, whole):
    start = whole.out / "1-stage" / "last.npz"
    assert call(*words(), "--steps", 1, "--set", f"init={start}")[0] == 0
    inits = [runs.load_run(Path("out") / name).settings.train.init for name in STAGES]
    assert inits == [str(start), str(Path("out/1-stage/best.npz"))]


def test_a_preset_and_a_default_folder(call):
    code, _, err = call(*words('[[stage]]\npreset = "quick"\nsteps = 1\nlength = 16\nnum_segments = 2\n')[:-2])
    (folder,) = Path("runs").iterdir()
    assert (code, err) == (0, "") and folder.name.startswith("curriculum-recall-")
    assert (folder / "1-stage" / "result.json").exists() and (folder / "curriculum.json").exists()


# going on


@needs.sigkill
@pytest.mark.parametrize("moment", ["in stage 2", "1-stage/result.json", "out/curriculum.json", "2-stage/last.npz"])
def test_killed_it_goes_on_to_the_same_bits(call, whole, moment):
    """In a step of the second stage, and while each of the files between the two stages is written."""
    event, count = "step", 6 + 5
    if moment != "in stage 2":
        first = whole.renames.index("1-stage/result.json")
        event, count = "rename", whole.renames.index(moment, first) + 1
    code = "import sys; from helpers import interrupted_run; from rmaat_np.training import loop; import run_lra; "
    code += "loop.draw_curve = lambda folder: None; "
    code += f"interrupted_run.plant({event!r}, {count}, '0'); run_lra.main(sys.argv[1:])"
    root = Path(run_lra.__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests")))}
    command = [sys.executable, "-c", code, *words()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    code, out, err = call(*words())
    assert (code, err) == (0, "")
    assert_equal_curricula("out", whole.out)
    finished = moment != "1-stage/result.json"
    assert (f"{Path('out/1-stage')}: finished before" in out) == finished


@needs.signals
def test_interrupted_it_says_how_to_go_on(call, whole, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))  # only the second stage has so many
        code, _, err = call(*words())
    said, _, again = err.partition("go on with: ")
    assert code == 130 and said == f"{Path('out/2-stage')}: stopped after step 7, saved; "
    assert again.startswith(f"{COMMAND} ") and again.endswith(" --curriculum lengths.toml --out out\n")
    assert not Path("out/2-stage/result.json").exists()
    assert call(*shlex.split(again)[2:])[0] == 0
    assert_equal_curricula("out", whole.out)


def test_its_time_is_up_and_it_goes_on(call, whole, monkeypatch):
    now, step = [1000.0], loop.train_step

    def train_step(*arguments):
        now[0] += 10
        return step(*arguments)

    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(options, "time", SimpleNamespace(monotonic=lambda: now[0]))
    code, _, err = call(*words(), "--stop-after", "75s")
    assert code == 0 and err.startswith(f"{Path('out/2-stage')}: stopped after step 2, saved; go on with: ")
    assert call(*words())[0] == 0
    assert_equal_curricula("out", whole.out)


def test_what_is_finished_is_not_done_again(call, whole, monkeypatch):
    assert call(*words())[0] == 0
    monkeypatch.setattr(loop, "train_step", None)
    before = {path: path.stat().st_mtime_ns for path in Path("out").glob("*/*")}
    code, out, _ = call(*words())
    assert code == 0 and out.count("finished before") == 2 and out.count("test accuracy") == 2
    assert {path: path.stat().st_mtime_ns for path in Path("out").glob("*/*")} == before


def test_a_stage_that_was_not_begun_may_change(call):
    assert call(*words(FIRST))[0] == 0
    assert call(*words(FIRST + SECOND.replace("7", "2")))[0] == 0
    assert runs.load_run("out/2-stage").progress.step == 2


def test_from_another_folder_it_is_the_same_curriculum(call, monkeypatch):
    """The checkpoint that a stage started from is then written another way."""
    assert call(*words())[0] == 0
    here = Path.cwd()
    monkeypatch.chdir(here.parent)
    name = here.name
    assert call(*TINY, "--curriculum", f"{name}/lengths.toml", "--out", f"{name}/out")[0] == 0


# what is refused

CHANGED = "lengths.toml: stage 1: {}; change it back, or move {} and the stages after it away"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("steps = 6", "steps = 8", "steps is 8, but {} has 6"),
        ("lr = 0.01", "seed = 3", "lr is 0.002, but {} has 0.01"),
        ("length = 16", "length = 12", "length is 12, but {} has 16"),
        ("num_segments = 2", "num_segments = 3", "num_segments is 3, but {} has 2"),
    ],
)
def test_a_stage_that_was_begun_keeps_its_settings(call, old, new, said):
    assert call(*words())[0] == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*.*")}
    folder = Path("out/1-stage")
    assert_refused(call(*words(FILE.replace(old, new))), CHANGED.format(said.format(folder), folder))
    assert {path: path.read_bytes() for path in Path("out").rglob("*.*")} == before


def test_stages_that_are_gone(call):
    assert call(*words())[0] == 0
    assert_refused(call(*words(FIRST)), f"lengths.toml: {Path('out/2-stage')} was begun, but its stage is gone")
    extend_first_stage(9, finish=False)
    said = f"{Path('out/2-stage')} was begun, but {Path('out/1-stage')} is not finished"
    assert_refused(call(*words(FILE.replace("steps = 6", "steps = 9"))), f"lengths.toml: stage 2: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lengths.toml: has no stages; write a table for each, under [[stage]]"),
        ("stage = []", "has no stages"),
        ("stage = 5", "has no stages"),
        ("stage = [1]", "has no stages"),
        ("[stage]\nsteps = 5", "in double brackets"),
        ("steps = 5\n" + FILE, "lengths.toml: steps: unknown; there are [[stage]] tables alone"),
        ("[[stage]]\nsteps = ", "lengths.toml: no TOML file in UTF-8"),
        ("stage = " + "[" * 100_000, "lengths.toml: no TOML file"),
        (f"[[stage]]\nsteps = {'9' * 5000}", "lengths.toml: no TOML file"),
        (f"[[stage]]\nsteps = {'9' * 30}", "lengths.toml: stage 1: steps is 9999"),
        (FIRST + SECOND.replace("steps = 7", ""), "lengths.toml: stage 2: steps is missing"),
        (FIRST + "[[stage]]", "lengths.toml: stage 2: steps is missing"),
        (FIRST + "lenght = 5", "lengths.toml: stage 1: lenght: unknown for task recall (--task); did you mean length"),
        (FIRST + '"a\\nb" = 5', "lengths.toml: stage 1: a\\nb: unknown"),
        (FIRST + 'preset = "none"', "lengths.toml: stage 1: preset none: task recall has quick"),
        (FIRST + "preset = 1", "lengths.toml: stage 1: preset 1: task"),
        (FILE.replace("7", '"7"'), "lengths.toml: stage 2: steps is '7', but it must be a whole number"),
        (FILE.replace("7", "0"), "lengths.toml: stage 2: steps is 0, but it must be at least 1"),
        (FILE.replace("7", "7.5"), "lengths.toml: stage 2: steps is 7.5"),
        (FIRST + "seed = [1, 2]", "lengths.toml: stage 1: seed is a list; give a number, true, false or text"),
        (FIRST + "seed = 2026-01-01", "lengths.toml: stage 1: seed is a date"),
        (FIRST + "seed.a = 1", "lengths.toml: stage 1: seed is a dict"),
        (FIRST + "patience = -1", "lengths.toml: stage 1: patience is -1"),
        (FIRST + "clip_norm = nan", "lengths.toml: stage 1: clip_norm is nan"),
        (FIRST + 'init = "nowhere.npz"', "lengths.toml: stage 1: nowhere.npz: no such checkpoint"),
        (FILE + 'init = "nowhere.npz"', "lengths.toml: stage 2: init: it starts from stage 1; leave it out"),
        (FILE.replace("32", "40"), "lengths.toml: stage 2: recall, train split: row 1 is longer than the model"),
        (FILE + "class_within = 0", "lengths.toml: stage 2: class_within is 0"),
    ],
)
def test_a_wrong_file_is_one_line(call, text, said):
    chosen = words(text)
    if "class_within" in text:  # the command line would win
        place = chosen.index("class_within=8")
        chosen[place - 1 : place + 1] = []
    assert_refused(call(*chosen), said)
    assert not Path("out").exists()


def test_a_task_that_was_forgotten_is_named(call):
    Path("lengths.toml").write_text(FILE, encoding="utf-8")
    said = "lengths.toml: stage 1: length: unknown for task listops (--task); did you mean "
    assert_refused(call("--curriculum", "lengths.toml", "--out", "out"), said)


def test_a_file_of_a_windows_editor(call):
    begin = words()
    Path("lengths.toml").write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode())
    assert call(*begin, "--steps", 1)[0] == 0


def test_rows_that_agree_after_cutting_may_grow_instead(call):
    """The other way to short rows first, and it works."""
    Path("data").mkdir()
    for number, name in enumerate(("train", "val", "test")):
        rows = [f"{label}\t{label * 6}{number}{row:02d}\n" for label in "ab" for row in range(6)]
        Path(f"data/{name}.tsv").write_text("label\ttext\n" + "".join(rows), encoding="utf-8")
    tiny = ["--task", "own", "--workers", "1", "--out", "out", "--set", "cut=true"]
    tiny += [part for field in FIELDS if "class_within" not in field for part in ("--set", field)]
    Path("lengths.toml").write_text("[[stage]]\nsteps = 2\nnum_segments = 1\nsegment_length = 4\n", encoding="utf-8")
    tiny[tiny.index("segment_length=8")] = "seed=0"
    said = "were cut to 4 tokens", "; or let the rows grow within one run: --set grow=0.5"
    assert_refused(call(*tiny, "--curriculum", "lengths.toml"), "lengths.toml: stage 1: ", *said)
    assert (
        call(*tiny, "--steps", "2", "--set", "segment_length=4", "--set", "num_segments=3", "--set", "grow=0.5")[0] == 0
    )


def test_files_that_cannot_be_read(call, tmp_path):
    begin = [*TINY, "--out", "out", "--curriculum"]
    assert_refused(call(*begin, "none.toml"), "none.toml: cannot be read (", "name a TOML file with [[stage]] tables")
    assert_refused(call(*begin, tmp_path), f"{tmp_path}: no regular file")
    Path("bytes.toml").write_bytes(b"\xff\xfe\x00")
    assert_refused(call(*begin, "bytes.toml"), "bytes.toml: no TOML file in UTF-8")
    assert_refused(call(*begin, ""), "argument --curriculum: is empty")
    if hasattr(os, "mkfifo"):
        os.mkfifo("pipe")
        assert_refused(call(*begin, "pipe"), "pipe: no regular file")
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("num_memory = 3", "num_memory is 3, but the stage before has 2; all stages train the same parameters"),
        ("num_heads = 4", "num_heads is 4, but the stage before has 2"),
        ("d_model = 32", "d_model is 32, but the stage before has 16"),
        ("d_ff = 8", "d_ff is 8, but the stage before has 16"),
        ("segment_length = 16", "segment_length is 16, but the stage before has 8"),
        ("use_astro = false", "use_astro is False, but the stage before has True"),
        ('attention = "softmax"', "attention is 'softmax', but the stage before has 'astromorphic'"),
        (
            'norm = "post"',
            "norm is 'post', but the stage before has 'pre'; all stages read the parameters in the same way",
        ),
        ('retention = "learned"', "retention is 'learned', but the stage before has 'integrate'"),
        ("segment_embedding = false", "segment_embedding is False, but the stage before has True"),
        ("num_segments = 1\nlength = 8", "num_segments is 1, but the stage before has 2; give that or more"),
    ],
)
def test_a_model_that_cannot_start_from_the_stage_before(call, change, said):
    second = "[[stage]]\nsteps = 2\nlength = 16\n" + ("" if "num_segments" in change else "num_segments = 2\n")
    second = second.replace("length = 16\n", "") if "\nlength" in change else second
    chosen = words(FIRST + second + change)
    for field in FIELDS:  # what the command line says would win
        if field.split("=")[0] == change.split(" ")[0]:
            chosen[chosen.index(field)] = "seed=0"
            name, value = field.split("=")
            Path("lengths.toml").write_text(f"{FIRST}{name} = {value}\n{second}{change}", encoding="utf-8")
    assert_refused(call(*chosen), f"lengths.toml: stage 2: {said}")
    assert not Path("out").exists()


def test_what_keeps_the_parameters_may_change(call):
    changes = 'retention = "online"\nposition_scale = 1.0\nmethod = "bptt"\nseed = 4\ndtype = "float64"\n'
    code, out, _ = call(*words(FILE + changes))
    told = "embedding of segment 2; position_scale 1.0 instead of 0.05; retention online instead of integrate\n"
    assert code == 0 and told in out
    run = runs.load_run("out/2-stage")
    assert run.cfg.retention == "online" and run.params["head.weight"].dtype == "float64"


@pytest.mark.parametrize(
    "more",
    [("--resume", "x"), ("--check-data",), ("--trace",), ("--compare", "rmaat"), ("--eval", "x"), ("--predict", "x")],
    ids=str,
)
def test_options_that_do_not_go_with_it(call, more):
    chosen = words()[:-2] + [*more, *(("--input", "x") if "--predict" in more else ())]
    assert_refused(call(*chosen), "--curriculum", more[0])
    assert not Path("runs").exists()


def test_a_curriculum_is_no_run(call, whole):
    assert_refused(call("--resume", whole.out), "a curriculum, not a run; the command that began it goes on")
    assert_refused(call(*TINY, "--out", whole.out), "holds a curriculum; choose another --out")
    assert_refused(call(*TINY, "--compare", "rmaat", "--out", whole.out), "holds a curriculum; choose another --out")
    assert_refused(call(*words(out=str(whole.out / "1-stage"))), "already holds a run")


def test_a_damaged_record_is_written_anew(call):
    assert call(*words())[0] == 0
    record = Path("out/curriculum.json")
    before = record.read_bytes()
    record.write_bytes(b"[" * 100_000)
    assert call(*words())[0] == 0 and record.read_bytes() == before


def test_the_ready_files_are_read():
    """Every stage has settings, and all train the same parameters."""
    paths = sorted((Path(run_lra.__file__).parent / "lessons" / "results" / "curricula").glob("*.toml"))
    assert paths
    for path in paths:
        stages = read_stages(path, path.stem.split("_")[0])
        configs = [Config(vocab_size=20, num_classes=10, **stage.fields) for stage in stages]
        assert len(configs) > 1 and all(param_shapes(cfg) == param_shapes(configs[0]) for cfg in configs)
        assert {cfg.num_heads for cfg in configs} == {configs[0].num_heads}


def test_the_second_stage_starts_from_the_best_of_the_first(whole):
    """The new segments begin with the row of the last one."""
    start, run = runs.load_run(whole.out / "1-stage" / "best.npz"), runs.load_run(whole.out / "2-stage")
    first = runs.first_params(run.cfg, run.settings.train)
    rows = start.params["embed.segment"]
    assert (first["embed.segment"][:2] == rows).all() and (first["embed.segment"][2:] == rows[-1]).all()
    assert all((first[name] == array).all() for name, array in start.params.items() if name != "embed.segment")
