"""A curriculum from Python: stages of one's own rows, a Ctrl-C between the steps, codecs that must be the same."""

from dataclasses import replace
from functools import partial

import pytest
from helpers.runs import SIZES, assert_equal_runs, at_step

import rmaat_np as rn
from rmaat_np.data import recall
from rmaat_np.errors import InputError
from rmaat_np.training import Interrupted, loop
from rmaat_np.training.curriculum import plan_stages, read_stages, train_stages
from rmaat_np.training.settings import resolve, settings_of

TRAIN = {"steps": 6, "batch_size": 4, "eval_every": 3, "warmup_steps": 2}
SHAPE = {"d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 8, "segment_length": 4, "num_memory": 2}
WORDS = [f"{i:05d}" + "xyz"[i % 3] for i in range(60)]


def two(data, **second):
    """Settings and data of two stages of the recall probe."""
    return [resolve("recall", "quick", "rmaat", SIZES | {"steps": 6} | change) for change in ({}, second)], [data] * 2


def test_stages_of_rows_of_ones_own(tmp_path):
    """Short rows, then longer ones; what is reported; and a stage is read as any run."""
    short, long = (rn.dataset((rows, [row[-1] for row in rows]), 0.2, 0.2) for rows in (WORDS, [w * 2 for w in WORDS]))
    both = [
        settings_of(data, rn.Config(**data.sizes, **SHAPE, num_segments=number), TRAIN)
        for data, number in ((short, 2), (long, 3))
    ]
    lines: list[str] = []
    results = train_stages(plan_stages(tmp_path / "out", both, [short, long]), report=lines.append)
    assert [result["steps"] for result in results] == [6, 6] and len(lines) == 2
    params, cfg, codec = rn.load(tmp_path / "out" / "2-stage")
    assert cfg.num_segments == 3 and rn.predict_proba(params, cfg, codec.encode(["00001x00001x"])).shape == (1, 3)


def test_another_alphabet_is_another_language(tmp_path):
    labels, alphabets = [word[-1] for word in WORDS], ("0123456789xyz", "xyz0123456789")
    both = [rn.dataset((WORDS, labels), 0.2, 0.2, alphabet=letters) for letters in alphabets]
    stages = [settings_of(data, rn.Config(**data.sizes, **SHAPE, num_segments=2), TRAIN) for data in both]
    with pytest.raises(
        InputError, match=r"^curriculum: stage 2: the stage before: began with alphabet '0123456789xyz'"
    ):
        plan_stages(tmp_path / "out", stages, both)


def test_ctrl_c_and_on_to_the_same_bits(tmp_path, data, monkeypatch):
    alone = partial(rn.train, workers=1, replay_budget=0)
    train_stages(plan_stages(tmp_path / "whole", *two(data, steps=7)), alone)

    def train(run, dataset):
        asked = []
        at_step(patch, 7, lambda: asked.append(True))
        return loop.train(run, dataset, should_stop=lambda: bool(asked))

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
        train_stages(plan_stages(tmp_path / "out", *two(data, steps=7)), train)
    assert stopped.value.folder == tmp_path / "out" / "2-stage"
    assert len(train_stages(plan_stages(tmp_path / "out", *two(data, steps=7)), alone)) == 2
    for name in ("1-stage", "2-stage"):
        assert_equal_runs(tmp_path / "out" / name, tmp_path / "whole" / name)


def test_wrong_stages(tmp_path, data):
    with pytest.raises(InputError, match=r"^curriculum: has no stages"):
        plan_stages(tmp_path, [], [])
    with pytest.raises(InputError, match=r"^a curriculum has no stages"):
        train_stages([])
    for datasets in ([], [data]):
        with pytest.raises(InputError, match=f"^curriculum: has 2 stages, but {len(datasets)} datasets; give one for"):
            plan_stages(tmp_path, two(data)[0], datasets)
    with pytest.raises(InputError, match=r"^mine: stage 2: init: it starts from stage 1; leave it out"):
        plan_stages(tmp_path, *two(data, init="x.npz"), name="mine")
    first = [resolve("recall", "quick", "rmaat", SIZES | {"attention": "softmax", "use_astro": False})]
    second = [resolve("recall", "quick", "rmaat", SIZES)]
    with pytest.raises(InputError, match="stage 2: attention is 'astromorphic', but the stage before has 'softmax'"):
        plan_stages(tmp_path, first + second, [data] * 2)  # neither field alone makes other parameters
    first[0], second[0] = (replace(one, fields=one.fields | {"use_astro": False}) for one in (first[0], second[0]))
    with pytest.raises(InputError, match="stage 2: attention is 'astromorphic', but the stage before has 'softmax'"):
        plan_stages(tmp_path, first + second, [data] * 2)  # the same shapes, read by another attention


def test_other_data_are_refused_for_finished_stages_too(tmp_path, data):
    settings, datasets = two(data)
    train_stages(plan_stages(tmp_path / "out", settings, datasets))
    other = recall.load(8, 16, seed=1, rows=(64, 32, 48))
    with pytest.raises(InputError, match="1-stage: began with other data"):
        plan_stages(tmp_path / "out", settings, [other, data])


def test_only_one_process_trains_in_a_folder(tmp_path, data):
    stages = plan_stages(tmp_path / "out", *two(data))

    def train(run, dataset):
        with pytest.raises(InputError, match="another process trains in this folder"):
            train_stages(stages)
        return loop.train(run, dataset)

    train_stages(stages, train)


def test_a_file_from_python(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[[stage]]\nsteps = 3\n[[stage]]\nsteps = 4\nlr = 0.5\n", encoding="utf-8")
    first, second = read_stages(path, "recall", overrides={"seed": 3, "init": "x.npz"})
    assert (first.train.steps, first.train.seed, first.train.init) == (3, 3, "x.npz")
    assert (second.train.steps, second.train.lr, second.train.init) == (4, 0.5, "")
    with pytest.raises(InputError, match=r"a.toml: stage 1: lr is -1"):
        read_stages(path, "recall", overrides={"steps": 1} | {"lr": -1})
