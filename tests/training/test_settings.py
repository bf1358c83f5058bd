"""Presets, the models' flags and the user's own settings: what they resolve to, and how wrong ones are refused."""

import json
import math
from dataclasses import asdict, fields, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import run_lra
from rmaat_np.config import Config
from rmaat_np.data import check_options, recall
from rmaat_np.errors import InputError
from rmaat_np.training import loop, settings
from rmaat_np.training import run as runs
from rmaat_np.training.checkpoint import load_checkpoint, save_checkpoint
from rmaat_np.training.settings import (
    MODELS,
    TASKS,
    Settings,
    TrainConfig,
    describe,
    parse_assignment,
    preset_names,
    resolve,
    to_assignment,
)

WITH_PRESETS = [task for task in TASKS if (files("rmaat_np.training") / "presets" / f"{task}.toml").is_file()]
PRESETS = [(task, preset) for task in WITH_PRESETS for preset in preset_names(task)]
DATASET = recall.load(rows=(2, 2, 2))


def longest_row(task, chosen) -> int:
    """In tokens; ListOps' limits are those of LRA's generator, themselves excluded."""
    if task == "recall":
        return 128
    if task == "memory":
        return chosen.data["length"]
    if task in ("image", "pathfinder", "own"):  # own: as long as its quick preset reads
        return 32 * 32
    return chosen.data.get("max_length", 2000) - (task == "listops")


def refusal(function, *args, **kwargs) -> str:
    """The message of the InputError that the call raises, known to be one line."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# TrainConfig


@pytest.mark.parametrize("name", ["steps", "batch_size", "eval_every"])
def test_counts_are_at_least_one(name):
    for value in (0, -5):
        message = refusal(TrainConfig, **{name: value})
        assert name in message and str(value) in message and "at least 1" in message
    for value in (10.0, "10", True, None):
        message = refusal(TrainConfig, **{name: value})
        assert name in message and "whole number" in message
    assert getattr(TrainConfig(**{name: 1}), name) == 1


@pytest.mark.parametrize("name", ["warmup_steps", "seed"])
def test_whole_numbers_from_zero(name):
    message = refusal(TrainConfig, **{name: -1})
    assert name in message and "at least 0" in message
    assert name in refusal(TrainConfig, **{name: 0.5})
    assert getattr(TrainConfig(**{name: 0}), name) == 0


@pytest.mark.parametrize("name", ["lr", "clip_norm"])
@pytest.mark.parametrize("value", [0, -1e-3, math.inf, math.nan])
def test_rates_are_finite_and_positive(name, value):
    message = refusal(TrainConfig, **{name: value})
    assert name in message and str(value) in message and "finite number above 0" in message


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weight_decay_is_finite_and_not_negative(value):
    message = refusal(TrainConfig, weight_decay=value)
    assert "weight_decay" in message and str(value) in message and "at least 0" in message


@pytest.mark.parametrize("name", ["lr", "clip_norm", "weight_decay"])
def test_rates_are_numbers(name):
    message = refusal(TrainConfig, **{name: "fast"})
    assert name in message and "'fast'" in message and "a number" in message
    assert getattr(TrainConfig(**{name: 1}), name) == 1


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_the_growth_is_a_share_of_the_steps(value):
    assert f"grow is {value}, but it must be a share of the steps, from 0 to 1" == refusal(TrainConfig, grow=value)
    assert [TrainConfig(steps=1000, grow=share).growing_steps for share in (0, 0.55, 1)] == [0, 550, 1000]


@pytest.mark.parametrize(("name", "allowed"), [("method", ("amrb", "bptt")), ("dtype", ("float32", "float64"))])
def test_training_choices(name, allowed):
    for value in allowed:
        assert getattr(TrainConfig(**{name: value}), name) == value
    message = refusal(TrainConfig, **{name: "other"})
    assert name in message and "'other'" in message and all(choice in message for choice in allowed)


# presets


def test_every_preset_file_belongs_to_a_task():
    names = {path.name.removesuffix(".toml") for path in (files("rmaat_np.training") / "presets").iterdir()}
    assert names <= set(TASKS) and "recall" in names


@pytest.mark.parametrize("task", WITH_PRESETS)
def test_every_task_has_the_default_preset(task):
    assert "quick" in preset_names(task)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("task", "preset"), PRESETS)
def test_every_preset_resolves_for_every_model(task, preset, model):
    chosen = resolve(task, preset, model, {})
    assert (chosen.task, chosen.preset, chosen.model) == (task, preset, model)
    cfg = Config(vocab_size=300, num_classes=10, pair=task == "retrieval", **chosen.fields)
    flags = {name: value for name, value in MODELS[model].items() if name != "method"}
    assert asdict(cfg) | flags == asdict(cfg)
    assert chosen.train.method == MODELS[model].get("method", "amrb")
    assert cfg.max_length >= longest_row(task, chosen)
    assert chosen.train.warmup_steps < chosen.train.steps >= chosen.train.eval_every
    plain = resolve(task, preset, "rmaat", {})
    assert cfg.max_length == plain.fields["num_segments"] * plain.fields["segment_length"]
    if model in ("at", "linear", "transformer"):
        assert (cfg.num_segments, cfg.num_memory, cfg.pooling) == (1, 0, "mean")


@pytest.mark.parametrize(("task", "preset"), PRESETS)
def test_data_options_can_be_set(task, preset):
    for name, value in resolve(task, preset, "rmaat", {}).data.items():
        assert type(value) in (int, float, bool, str)
        assert resolve(task, preset, "rmaat", {name: value}).data[name] == value
        message = refusal(resolve, task, preset, "rmaat", {name: [value]})
        assert name in message


@pytest.mark.parametrize(("task", "preset"), PRESETS)
def test_data_counts_are_at_least_one(task, preset):
    for name, value in resolve(task, preset, "rmaat", {}).data.items():
        if type(value) is int:
            message = refusal(resolve, task, preset, "rmaat", {name: 0})
            assert name in message and "at least 1" in message


# resolve


def test_a_data_option_that_the_presets_leave_out():
    assert "height" not in resolve("pathfinder", "quick", "rmaat", {}).data
    chosen = resolve("pathfinder", "quick", "rmaat", {"height": 8, "distractors": 0}).data
    assert chosen["height"] == 8 and chosen["distractors"] == 0
    assert settings.parse_assignment("height=8") == ("height", 8)
    assert "distractors is -1" in refusal(resolve, "pathfinder", "quick", "rmaat", {"distractors": -1})
    assert "height is 0" in refusal(resolve, "pathfinder", "quick", "rmaat", {"height": 0})
    assert "--set height: unknown" in refusal(resolve, "listops", "quick", "rmaat", {"height": 8})


def test_overrides_win_over_flags_and_flags_over_the_preset():
    assert resolve("recall", "quick", "rlt", {}).train.method == "bptt"
    chosen = resolve("recall", "quick", "rlt", {"method": "amrb", "retention": "online", "d_ff": 7, "lr": 1})
    assert (chosen.train.method, chosen.train.lr) == ("amrb", 1)
    assert (chosen.fields["retention"], chosen.fields["d_ff"], chosen.fields["use_astro"]) == ("online", 7, False)


def test_resolving_leaves_no_trace():
    before = json.dumps(MODELS)
    resolve("recall", "quick", "transformer", {"num_memory": 3, "pooling": "memory"})
    assert json.dumps(MODELS) == before
    assert resolve("recall", "quick", "transformer", {}).fields["num_memory"] == 0


def test_fields_are_complete():
    chosen = resolve("recall", "quick", "rmaat", {})
    known = {field.name for field in fields(Config)} - {"vocab_size", "num_classes", "pair"}
    assert chosen.fields.keys() == known
    assert chosen.config(DATASET) == Config(vocab_size=27, num_classes=10, **chosen.fields)


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("chess", "quick", "rmaat"), ("--task", "chess", *TASKS)),
        (("recall", "quick", "gpt"), ("--model", "gpt", *MODELS)),
        (("recall", "huge", "rmaat"), ("--preset", "huge", "recall", "quick")),
    ],
)
def test_unknown_names(arguments, fragments):
    message = refusal(resolve, *arguments, {})
    assert all(fragment in message for fragment in fragments)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("d_modl", "d_model"), ("num_memories", "num_memory"), ("learning_rate", "lr"), ("batchsize", "batch_size")],
)
def test_unknown_key_has_a_suggestion(key, suggestion):
    message = refusal(resolve, "recall", "quick", "rmaat", {key: 1})
    assert f"--set {key}" in message and suggestion in message


@pytest.mark.parametrize("key", ["vocab_size", "num_classes", "pair"])
def test_what_the_data_decide_cannot_be_set(key):
    assert f"--set {key}: unknown" in refusal(resolve, "recall", "quick", "rmaat", {key: 2})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segment_length", "abc"),
        ("segment_length", 0),
        ("num_segments", -1),
        ("num_heads", 3),
        ("num_memory", 0),
        ("retention", "always"),
        ("dropout", 1.0),
        ("use_astro", 1),
        ("steps", 0),
        ("method", "rtrl"),
    ],
)
def test_wrong_values_are_refused_before_data_are_read(key, value):
    assert key in refusal(resolve, "recall", "quick", "rmaat", {key: value})


def test_rows_longer_than_the_model_reads():
    chosen = resolve("recall", "quick", "rmaat", {"segment_length": 31})
    message = refusal(chosen.config, DATASET)
    assert all(part in message for part in ("recall", "128", "124", "num_segments * segment_length", "raise one"))
    assert resolve("recall", "quick", "rmaat", {}).config(DATASET).max_length == 128


def test_settings_survive_json():
    chosen = resolve("recall", "quick", "rmt", {"lr": 0.125, "dropout": 0.5, "seed": 2**40})
    assert Settings.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


def test_description_shows_every_value():
    text = describe(resolve("recall", "quick", "rmt", {"lr": 0.125}))
    assert "recall" in text and "quick" in text and "rmt" in text
    assert 'attention="softmax"' in text and "lr=0.125" in text and 'method="bptt"' in text
    assert all(name in text for name in TrainConfig.__dataclass_fields__)


# settings in a checkpoint


@pytest.fixture
def saved(tmp_path):
    """A checkpoint, as its parts. -> params, state, meta"""
    chosen = resolve("recall", "quick", "rmaat", {"d_model": 4, "num_layers": 1})
    runs.new_run(tmp_path, chosen, DATASET).save("last.npz")
    return load_checkpoint(tmp_path / "last.npz")


@pytest.mark.parametrize("change", ["settings", "config", "progress"])
@pytest.mark.parametrize("value", [None, {"nonsense": 1}, [], "text"])
def test_checkpoint_whose_settings_are_not_readable(tmp_path, saved, change, value):
    params, state, meta = saved
    path = tmp_path / "c.npz"
    save_checkpoint(path, params, state, {k: v for k, v in meta.items() if k != change})
    with pytest.raises(InputError, match="c.npz"):
        runs.load_run(path)
    save_checkpoint(path, params, state, meta | {change: value})
    with pytest.raises(InputError, match="c.npz"):
        runs.load_run(path)


@pytest.mark.parametrize(
    ("part", "field", "value"), [("config", "retention", "x"), ("config", "d_model", 15), ("train", "lr", -1)]
)
def test_checkpoint_whose_settings_are_wrong(tmp_path, saved, part, field, value):
    params, state, meta = saved
    (meta["config"] if part == "config" else meta["settings"]["train"])[field] = value
    save_checkpoint(tmp_path / "c.npz", params, state, meta)
    with pytest.raises(InputError, match=f"c.npz.*{field}"):
        runs.load_run(tmp_path / "c.npz")


def test_checkpoint_settings_come_back(tmp_path, saved):
    run = runs.load_run(tmp_path)
    assert run.settings == resolve("recall", "quick", "rmaat", {"d_model": 4, "num_layers": 1})
    assert (run.cfg, run.folder, run.progress.step) == (run.settings.config(DATASET), tmp_path, 0)


def test_checkpoint_of_another_size(tmp_path, saved):
    params, state, meta = saved
    meta["config"]["d_ff"] = meta["settings"]["fields"]["d_ff"] = 32
    save_checkpoint(tmp_path / "c.npz", params, state, meta)
    with pytest.raises(InputError, match="c.npz.*mlp.in"):
        runs.load_run(tmp_path / "c.npz")


def test_checkpoint_whose_settings_and_configuration_differ(tmp_path, saved):
    params, state, meta = saved
    meta["config"]["d_ff"] = 32
    save_checkpoint(tmp_path / "c.npz", params, state, meta)
    with pytest.raises(InputError, match="c.npz.*d_ff is 128 in the settings and 32 in the configuration"):
        runs.load_run(tmp_path / "c.npz")


# a checkpoint stands alone


def own_settings(**data):
    """Of a task, a preset and a model that this program has never heard of."""
    train = TrainConfig(steps=2, batch_size=4, eval_every=2, warmup_steps=0)
    shape = {"d_model": 4, "num_heads": 2, "num_layers": 1, "d_ff": 4, "segment_length": 8, "num_segments": 2}
    return Settings("my task", "mine", "my model", data, shape | {"num_memory": 2}, train)


def own_run(folder, **data):
    rows = recall.load(8, 16, rows=(16, 8, 8))
    return runs.new_run(folder, own_settings(**data), rows), rows


def test_run_of_an_own_task_is_saved_and_loaded(tmp_path, monkeypatch):
    run, rows = own_run(tmp_path / "run", path="my rows", share=0.5, limit=0, shuffled=True)
    loop.train(run, rows)
    monkeypatch.setattr(settings, "_read_presets", lambda task: pytest.fail("looked at today's presets"))
    monkeypatch.setattr(settings, "MODELS", {})
    back = runs.load_run(tmp_path / "run")
    assert back.settings == run.settings and back.cfg == run.cfg and back.progress == run.progress
    assert back.settings.data == {"path": "my rows", "share": 0.5, "limit": 0, "shuffled": True}


def test_checkpoint_of_a_preset_that_no_longer_exists(tmp_path, saved, monkeypatch):
    """And of one whose values are others today."""
    before = runs.load_run(tmp_path).settings
    monkeypatch.setattr(settings, "_read_presets", lambda task: {"other": {"train": {"lr": 1.0}}})
    assert runs.load_run(tmp_path).settings == before


def test_data_of_a_checkpoint_are_held_against_the_tasks_options():
    recall_settings = resolve("recall", "quick", "rmaat", {})
    check_options(recall_settings.task, recall_settings.data)
    for data, said in (
        ({"length": "x", "class_within": 32}, "length is 'x', but it must be a whole number"),
        ({"length": 0, "class_within": 32}, "length is 0, but it must be a whole number, at least 1"),
        ({"length": 128, "class_within": 32, "colour": 1}, "colour is no data option of task recall"),
    ):
        assert said in refusal(check_options, "recall", data)
    assert "task 'my task' is unknown" in refusal(check_options, "my task", own_settings().data)


@pytest.mark.parametrize("task", TASKS)
def test_every_preset_has_data_options_that_the_task_knows(task):
    for preset in preset_names(task):
        check_options(task, resolve(task, preset, "rmaat", {}).data)


def test_a_run_goes_on_without_the_presets_of_today(tmp_path, saved, monkeypatch, capsys):
    """Its checkpoint stands alone, for `--eval` and `--resume` too."""
    monkeypatch.setattr(settings, "_read_presets", lambda task: pytest.fail("asked for presets"))
    assert run_lra.main(["--eval", str(tmp_path), "--workers", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == runs.load_run(tmp_path).progress.step


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"lengths": (1, 2)}}, "lengths is (1, 2), but it must be a finite number, true, false or text"),
        ({"data": {"path": Path("x")}}, "path is "),
        ({"data": {"share": math.nan}}, "share is nan"),
        ({"data": {"limit": 2**70}}, "limit is "),
        ({"data": {"a\x1b[31m": 1}}, "a data option is "),
        ({"data": [1]}, "data is [1]"),
        ({"fields": {"d_model": 4.5}}, "d_model is 4.5, but it must be a whole number"),
        ({"fields": {"depth": 4}}, "'depth' is no field of the model"),
        ({"fields": {"retention": "x"}}, "retention is 'x'"),
        ({"task": 3}, "task is 3"),
        ({"preset": ""}, "preset is ''"),
        ({"model": "a\nb"}, "model is "),
        ({"train": {}}, "train is {}, but it must be a TrainConfig"),
    ],
    ids=str,
)
def test_settings_that_could_not_be_read_back_are_refused_at_once(change, said):
    assert said in refusal(replace, own_settings(), **change)


def test_numpy_scalars_in_settings_become_pythons():
    chosen = own_settings(share=np.float32(0.5), limit=np.int64(3), shuffled=np.True_)
    assert [type(value) for value in chosen.data.values()] == [float, int, bool]
    assert Settings.from_json(json.loads(json.dumps(chosen.to_json()))) == chosen


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run.settings.data.update(lengths=(1, 2)), "settings.data.lengths is (1, 2)"),
        (lambda run: run.settings.fields.update(d_model=8), "d_model is 8 in the settings and 4 in the configuration"),
        (lambda run: setattr(run.progress, "tokens", np.int64(3)), "progress.tokens is "),
        (lambda run: setattr(run.progress, "seconds", math.inf), "progress.seconds is inf"),
        (lambda run: setattr(run.progress, "step", 3), "step is 3, but the run has 2 steps"),
        (lambda run: run.params.update(extra=run.params["head.bias"]), "surplus parameter extra"),
        (lambda run: run.params.update({"head.bias": run.params["head.bias"].astype("float64")}), "head.bias is float"),
    ],
    ids=["data", "fields", "type", "number", "step", "parameter", "dtype"],
)
def test_run_that_could_not_be_read_back_is_refused_before_its_first_step(tmp_path, monkeypatch, change, said):
    """Somebody changed the run after it was made; nothing is written of it, and nothing computed."""
    run, rows = own_run(tmp_path / "run")
    change(run)
    monkeypatch.setattr(loop, "train_step", lambda *_: pytest.fail("computed before it was refused"))
    assert said in refusal(run.check_saveable)
    with pytest.raises(InputError):
        loop.train(run, rows)
    assert {path.name for path in run.folder.iterdir()} <= {".lock"}


# parse_assignment


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("num_memory=4", "num_memory", 4),
        ("lr=2e-3", "lr", 2e-3),
        ("steps=10_000", "steps", 10_000),
        (" use_astro = false ", "use_astro", False),
        ("pair=true", "pair", True),
        ("pooling=mean", "pooling", "mean"),
        ('pooling="mean"', "pooling", "mean"),
        ("source=a=b", "source", "a=b"),
        ("source=", "source", ""),
        ("seed=-1", "seed", -1),
        ("use_astro=True", "use_astro", True),
        ("use_feedback=FALSE", "use_feedback", False),
        ("dropout=.1", "dropout", 0.1),
        ("alpha=5.", "alpha", 5.0),
        ("lr=1.e-3", "lr", 1e-3),
        ("lr=1", "lr", 1),
        ("steps=1e2", "steps", 100),
        ("d_model=16.0", "d_model", 16),
        ("seed=0x10", "seed", 16),
        ("train_rows=1e3", "train_rows", 1000),
        ("init=2024", "init", "2024"),
        ("init=true", "init", "true"),
        ("init=.5", "init", ".5"),
        ("init='2024'", "init", "2024"),
        ("source=1979-05-27", "source", "1979-05-27"),
        ("my_own=.5", "my_own", ".5"),
        ("my_own=5", "my_own", 5),
    ],
)
def test_assignments_are_read_by_the_fields_type(text, key, value):
    name, found = parse_assignment(text)
    assert (name, found, type(found)) == (key, value, type(value))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("d_model=big", "a whole number"),
        ("steps=1.5", "a whole number"),
        ("steps=1e30", "a whole number"),
        ("steps=true", "a whole number"),
        ("steps='5'", "a whole number"),
        ("lr=fast", "a number"),
        ("lr=true", "a number"),
        ("dropout=[0.1]", "a number"),
        ("use_astro=1", "true or false"),
        ("use_astro=yes", "true or false"),
        ("class_within=.5", "a whole number"),
    ],
)
def test_values_of_another_type_are_refused_as_they_were_written(text, wanted):
    key, value = parse_assignment(text)
    message = refusal(resolve, "recall", "quick", "rmaat", {key: value})
    assert message.startswith(f"{key} is ") and text.partition("=")[2].strip("'") in message and wanted in message


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a b",
        "true",
        "3",
        "'",
        '"',
        "a\\b",
        "C:\\x",
        "tab\tand\nline",
        "\x00\x1b\x7f",
        "Zoë 😀",
        "\udc80",
        "a=b",
        "#",
    ]
    + [1, -1, 0, 2**40, 1e-05, 1e16, 0.1, 5e-324, True, False],
)
def test_assignments_are_written_as_they_are_read(value):
    """Of a field of that type, and of an unknown one."""
    for name in ({str: "init", int: "seed", float: "lr", bool: "use_astro"}[type(value)], "my_own"):
        key, back = parse_assignment(to_assignment(name, value))
        assert (key, back, type(back)) == (name, value, type(value))


@pytest.mark.parametrize("text", ["", "lr", "=3", "  =3", "lr:3"])
def test_no_assignment(text):
    message = refusal(parse_assignment, text)
    assert f"--set {text}" in message and "key=value" in message
