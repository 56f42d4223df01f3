"""Entries of a decision log of three models, and the lines of such a log."""

from collections.abc import Mapping
from pathlib import Path

from router.decision_log import (
    ANSWERED,
    DecisionContext,
    LogEntry,
    Logged,
    entry_line,
    read,
    setting_line,
)
from router.domain import Curve, Features, Load, Model, OnMiss, Request, Tier, Work
from router.policy import decide
from router.rules import Floor, Policy

TIERS = {Tier.FAST: "small", Tier.BALANCED: "middle", Tier.BEST: "large"}
MODELS = {
    name: Model(
        name,
        rank,
        512,
        Curve(0.001 * 4**rank, 0.0, 1e-5 * 4**rank, 1e-9, 2048, 0.002),
        {"en": 60.0 + rank, "default": 50.0},
    )
    for rank, name in enumerate(TIERS.values())
}
POLICY = Policy(
    "middle",
    (
        Floor("foreign", "large", not_languages=frozenset({"en"})),
        Floor("long", "large", min_tokens=200),
    ),
)
ENGLISH = Features(40, "en", "Latn", False, False)


def context(policy: Policy = POLICY) -> DecisionContext:
    return DecisionContext(MODELS, policy, TIERS, False, None)


def entry(
    features: Features = ENGLISH,
    tokens: int = 10,
    budget_s: float | None = None,
    target: str | None = None,
    tier: Tier | None = Tier.AUTO,
    loads: Mapping[str, Load] | None = None,
    policy: Policy = POLICY,
    models: Mapping[str, Model] = MODELS,
    on_miss: OnMiss = OnMiss.DEGRADE,
    actual_s: float | None = 0.01,
) -> LogEntry:
    """A request that arrived at 100 and was decided a millisecond later."""
    request = Request(
        dict.fromkeys(models, Work(tokens, tokens, tokens * tokens)),
        features,
        None if budget_s is None else 100.0 + budget_s,
        target,
        on_miss=on_miss,
    )
    given_loads = loads or dict.fromkeys(models, Load())
    decision = decide(policy, request, models, given_loads, 100.001)
    return LogEntry(
        0.0,
        100.0,
        100.001,
        request,
        tier,
        budget_s is not None,
        models,
        given_loads,
        decision,
        ANSWERED,
        actual_s,
    )


def written(*entries: LogEntry, of: DecisionContext | None = None) -> list[bytes]:
    return [
        setting_line(of or context(), "r"),
        *(entry_line(each, of or context(), "r") for each in entries),
    ]


def whole(path: Path) -> list[Logged]:
    with path.open("rb") as lines:
        return list(read(lines))
