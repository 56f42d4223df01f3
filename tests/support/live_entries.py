"""Entries of a decision log as the live benchmarks read them."""

from router.decision_log import ANSWERED, LogEntry
from router.domain import Curve, Features, Load, Model, Request, Tier, Work
from router.policy import decide
from router.rules import Policy

MODELS = {
    "small": Model("small", 0, 512, Curve(0.0, 0.0, 1e-4, 0.0, 512), {"en": 60.0, "default": 50.0}),
    "large": Model(
        "large", 1, 8192, Curve(0.0, 0.0, 1e-3, 0.0, 512), {"en": 80.0, "default": 70.0}
    ),
}


def entry(ratio: float, at_s: float = 10.0, tokens: int = 100, outcome: str = ANSWERED) -> LogEntry:
    """A request that took `ratio` of what was predicted, at a model with a margin of 1.5."""
    request = Request(
        dict.fromkeys(MODELS, Work(tokens, 100, 0)), Features(0, "en", "Latn", False, False)
    )
    loads = dict.fromkeys(MODELS, Load(margin=1.5))
    decision = decide(Policy("small"), request, MODELS, loads, 0.0)
    actual_s = ratio * (decision.predicted_s or 0.0)
    return LogEntry(
        at_s, 0.0, 0.0, request, Tier.AUTO, False, MODELS, loads, decision, outcome, actual_s
    )
