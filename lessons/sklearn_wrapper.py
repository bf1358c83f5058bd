"""RMAAT as a classifier for scikit-learn: an example to copy, not a part of the package.

    from sklearn.model_selection import GridSearchCV, cross_val_score
    cross_val_score(RMAATClassifier(steps=500), texts, labels)
    GridSearchCV(RMAATClassifier(), {"segment_length": [32, 64]}).fit(texts, labels)

Rows are what `rn.dataset` takes: texts, bytes, or lists of whole numbers from 1 on, of any lengths.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

import rmaat_np as rn


class RMAATClassifier(ClassifierMixin, BaseEstimator):
    """A small RMAAT. A tenth of the rows given to `fit` chooses the step; one row goes to the package's own test."""

    def __init__(self, segment_length=64, d_model=32, num_layers=1, steps=500, lr=3e-3, eval_every=50, seed=0):
        self.segment_length, self.d_model, self.num_layers = segment_length, d_model, num_layers
        self.steps, self.lr, self.eval_every, self.seed = steps, lr, eval_every, seed

    def fit(self, X, y):
        """Train in a folder that is gone afterwards."""
        self.classes_, numbers = np.unique(y, return_inverse=True)
        data = rn.dataset((X, numbers), validation=0.1, test=1e-9, seed=self.seed)
        segments = -(-data.max_length // self.segment_length)
        shape = {"segment_length": self.segment_length, "num_segments": segments, "segment_embedding": False}
        cfg = rn.Config(**data.sizes, **shape, d_model=self.d_model, num_layers=self.num_layers)
        train = {"steps": self.steps, "lr": self.lr, "eval_every": self.eval_every, "seed": self.seed}
        with tempfile.TemporaryDirectory() as folder:
            rn.train(rn.new_run(Path(folder, "run"), cfg, data, **train), data, workers=1)  # n_jobs trains side by side
            self.params_, self.cfg_, self.codec_ = rn.load(Path(folder, "run"))
        return self

    def predict_proba(self, X):
        """Probabilities, a column for each of `classes_`. Rows may be longer than those of `fit`."""
        check_is_fitted(self)
        rows = self.codec_.encode(X)
        longest = max((len(row) for row in rows), default=1)
        segments = max(self.cfg_.num_segments, -(-longest // self.segment_length))
        return rn.predict_proba(*rn.lengthen(self.params_, self.cfg_, segments), rows)

    def predict(self, X):
        """The likeliest class of every row."""
        columns = self.predict_proba(X).argmax(axis=1)
        return self.classes_[columns]
