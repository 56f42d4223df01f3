"""Tasks with planted scores, so that findings can be compared with the truth."""

from collections.abc import Mapping, Sequence

import numpy as np

from deployments.tools.advise.latency import Timing
from deployments.tools.advise.quality import Task, Unit
from deployments.tools.advise.survey import AdvisePlan, ServedModel, TokenEstimator
from router.domain import Features

MODELS = ("small", "middle", "large")
TIERS = ("fast", "balanced", "best")
SCRIPTS = {"zh": "Hani", "ru": "Cyrl", "ja": "Jpan"}


def unit(
    language: str | None = "en",
    characters: int = 60,
    *,
    code: bool = False,
    mixed: bool = False,
    script: str | None = None,
) -> Unit:
    """One text as the router sees it; a token is a character here."""
    own = script or SCRIPTS.get(language or "", "Latn")
    return Unit(Features(characters, language, own, mixed, code), "x" * characters, "symmetric")


def plan(models: Sequence[str] = MODELS) -> AdvisePlan:
    """A service with these models, from small to large."""
    candidates = tuple(
        ServedModel(name, (TIERS[place],), 64 * 2**place, (64 * 2**place,), 8192, 1.0, None, "fake")
        for place, name in enumerate(models)
    )
    tokens = {name: TokenEstimator({"": (0.0, 1.0)}) for name in models}
    return AdvisePlan({}, candidates, tokens, {name: {} for name in models}, {})


def task(
    name: str, units: Sequence[Unit], chances: Mapping[str, Sequence[float]], seed: int = 1
) -> Task:
    """A task in which each model is right on each unit with its own chance; a unit that is hard for
    one is hard for all.
    """
    luck = np.random.default_rng(seed).random(len(units))
    scores = {model: (luck < np.array(own)).astype(np.float64) for model, own in chances.items()}
    return Task(name, "labels", "accuracy", tuple(units), scores=scores)


def timing(model: str, device_s_per_token: float) -> Timing:
    """Constant latencies, which do not matter here."""
    return Timing(10, 1.0, 2.0, 1.0, 2.0, 0.9, 10.0, device_s_per_token, 1.0, None, None)
