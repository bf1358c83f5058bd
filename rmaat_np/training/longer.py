"""A trained model on test rows that are longer than those it was trained on: `Dataset.longer`."""

import time
import warnings
from collections.abc import Callable

from ..config import Config
from ..data.dataset import Dataset
from ..inference import lengthen


def read_longer(
    params: dict,
    cfg: Config,
    dataset: Dataset,
    evaluate: Callable,
    report: Callable[[str], object],
    warn: Callable[[str], object],
) -> dict[str, dict]:
    """Evaluate a model on every split of `dataset.longer`, with the parameters that it has.

    evaluate: (params, cfg, split) -> scores, as `loop.evaluate`; report: told two lines for every split;
    warn: told what `lengthen` warns of
    -> tokens: {"accuracy": 0 .. 1, "rows", "segments", "seconds"}
    Raises: what evaluate raises.
    """
    segments = {tokens: -(-tokens // cfg.segment_length) for tokens in dataset.longer}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        params, cfg = lengthen(params, cfg, max(cfg.num_segments, *segments.values()))
    for warning in caught:
        warn(str(warning.message))
    found = {}
    for tokens, split in dataset.longer.items():
        begun = time.perf_counter()
        length = f"{segments[tokens]:,} segment{'s' * (segments[tokens] > 1)}, {tokens:,} tokens"
        report(f"{length}: reading {len(split):,} rows")
        accuracy = evaluate(params, cfg, split)["accuracy"]
        seconds = round(time.perf_counter() - begun, 1)
        known = {"rows": len(split), "segments": segments[tokens], "seconds": seconds}
        found[str(tokens)] = {"accuracy": accuracy} | known
        report(f"{length}: accuracy {accuracy:.3f} of {len(split):,} rows")
    return found
