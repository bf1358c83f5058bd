"""What follows from a validation: is it the best so far, has the run stopped improving, and what remains to be done."""

from .run import Progress
from .settings import TrainConfig


def note_validation(progress: Progress, scores: dict, settings: TrainConfig) -> None:
    """Enter the validation of the present step. scores: as from `loop.evaluate`

    While the rows still grow, no validation is stale: the long rows, of which it may be full, have not been seen yet.
    """
    progress.validated = progress.step
    progress.stale = progress.stale + 1 if progress.step > settings.growing_steps else 0
    if is_better(scores, progress, settings.select):
        progress.stale, progress.best_step, progress.best_loss = 0, progress.step, scores["loss"]
        progress.best_accuracy, progress.best_macro_f1 = scores["accuracy"], scores["macro_f1"]


def is_better(scores: dict, progress: Progress, select: str) -> bool:
    """Is this validation better than the best one so far? Of two with the same score, the one with the lower loss is.

    scores: as from `loop.evaluate`; select: the score that decides, "accuracy" or "macro_f1" (higher is better), "loss"
    A checkpoint of before losses were kept has a best loss of -1, which none is below: its best stays in a tie.
    """
    if progress.best_step == 0:
        return True
    best = {"accuracy": progress.best_accuracy, "macro_f1": progress.best_macro_f1, "loss": progress.best_loss}
    if select != "loss" and scores[select] != best[select]:
        return scores[select] > best[select]
    return scores["loss"] < best["loss"]


def stopped_early(progress: Progress, settings: TrainConfig) -> bool:
    """Does the run end before its last step, because `patience` validations in a row brought nothing better?"""
    return progress.step < settings.steps and 0 < settings.patience <= progress.stale


def seconds_left(progress: Progress, settings: TrainConfig, validation: float) -> float:
    """What the steps and validations that are left will take, if they take as long as those before; tests not counted.

    validation: seconds of the last one
    """
    steps = settings.steps - progress.step
    validations = -(-settings.steps // settings.eval_every) - progress.step // settings.eval_every  # one at the end
    return steps * progress.seconds / max(progress.step, 1) + validations * validation if steps else 0.0
