"""Presets, the models' flags and the user's own settings: what they resolve to, and how wrong ones are refused."""

import json
import math
from dataclasses import asdict, fields
from importlib.resources import files
from types import SimpleNamespace

import pytest

from rmaat_np.config import Config
from rmaat_np.errors import InputError
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
)

WITH_PRESETS = [task for task in TASKS if (files("rmaat_np.training") / "presets" / f"{task}.toml").is_file()]
PRESETS = [(task, preset) for task in WITH_PRESETS for preset in preset_names(task)]
DATASET = SimpleNamespace(vocab_size=27, num_classes=10, pair=False, max_length=128)


def longest_row(task, chosen) -> int:
    """In tokens; ListOps' limits are those of LRA's generator, themselves excluded."""
    if task == "recall":
        return 128
    if task in ("image", "pathfinder"):
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
    assert all(part in message for part in ("recall", "128", "124", "num_segments * segment_length", "--set"))
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
    meta["config"]["d_ff"] = 32
    save_checkpoint(tmp_path / "c.npz", params, state, meta)
    with pytest.raises(InputError, match="c.npz.*mlp.in"):
        runs.load_run(tmp_path / "c.npz")


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
        ("use_astro=True", "use_astro", "True"),
    ],
)
def test_assignments_are_read_as_toml_or_text(text, key, value):
    name, found = parse_assignment(text)
    assert (name, found, type(found)) == (key, value, type(value))


@pytest.mark.parametrize("text", ["", "lr", "=3", "  =3", "lr:3"])
def test_no_assignment(text):
    message = refusal(parse_assignment, text)
    assert f"--set {text}" in message and "key=value" in message
