"""The example of a classifier for scikit-learn does what scikit-learn's own tools ask of one."""

import importlib.util
import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

ROOT = Path(__file__).parents[2]
TINY = {"segment_length": 4, "d_model": 8, "steps": 60, "lr": 1e-2, "eval_every": 20}


@pytest.fixture(scope="module")
def classifier():
    """The class, from the file that a reader copies."""
    spec = importlib.util.spec_from_file_location("sklearn_wrapper", ROOT / "lessons" / "sklearn_wrapper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.RMAATClassifier


def make_rows(count=120, seed=0):
    """Words of a and b, or of c and d; the labels are not in the order of the alphabet's numbers."""
    rng = np.random.default_rng(seed)
    rows = ["".join(rng.choice(list("ab" if i % 2 else "cd"), rng.integers(3, 12))) for i in range(count)]
    return rows, np.array(["10", "9"])[np.arange(count) % 2]


def test_it_learns_and_answers_by_name(classifier):
    rows, labels = make_rows()
    model = classifier(**TINY)
    with pytest.raises(NotFittedError):
        model.predict(rows)
    assert model.fit(rows, labels) is model and list(model.classes_) == ["10", "9"]
    new, truth = make_rows(40, seed=1)
    probs = model.predict_proba(new)
    assert probs.shape == (40, 2) and np.allclose(probs.sum(axis=1), 1)
    assert (model.predict(new) == truth).mean() > 0.9 and model.score(new, truth) > 0.9
    assert list(model.predict([50 * "ab", "cd"])) == ["9", "10"]  # longer than any row of fit


def test_clone_repeats_it_to_the_last_bit(classifier):
    rows, labels = make_rows(60)
    model = classifier(**TINY).fit(rows, labels)
    copy = clone(model)
    assert copy.get_params() == model.get_params() and not hasattr(copy, "params_")
    assert np.array_equal(copy.fit(rows, labels).predict_proba(rows), model.predict_proba(rows))


def test_cross_validation_and_a_grid(classifier):
    rows, labels = make_rows()
    assert cross_val_score(classifier(**TINY), rows, labels, cv=3).mean() > 0.9
    assert cross_val_score(classifier(**TINY), rows, labels, cv=2, scoring="neg_log_loss").mean() > -0.5
    search = GridSearchCV(classifier(**TINY), {"steps": [1, 60]}, cv=2).fit(rows, labels)
    assert search.best_params_ == {"steps": 60} and search.predict(["abab"]) == ["9"]


def test_in_a_pipeline_with_padded_numbers(classifier):
    rows, labels = make_rows()
    padded = np.zeros((len(rows), 12), dtype=int)
    for row, text in zip(padded, rows, strict=True):
        row[: len(text)] = np.frombuffer(text.encode(), np.uint8) - 96
    model = make_pipeline(FunctionTransformer(), classifier(**TINY)).fit(padded, labels)
    assert model.score(padded, labels) > 0.9


def test_the_folder_of_the_run_is_gone(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    classifier(**TINY).fit(*make_rows(60))
    assert list(tmp_path.iterdir()) == []
