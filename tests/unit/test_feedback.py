"""Demand as the autoscaler and the prices see it: what goes to a model, and what was sent to a smaller one instead."""

import pytest

from router.config import Routing
from router.domain import Curve, Features, Load, Model, Reason, Request, Work
from router.feedback import Feedback, tell
from router.policy import Policy, decide

ENGLISH = Features(characters=100, language="en", script="Latn", mixed=False, code=False)
CURVE = Curve(fixed_s=0.01, base_s=0.0, s_per_token=0.001, s_per_token_sq=0.0, batch_tokens=8192)
MODELS = {name: Model(name, rank, 8192, CURVE, {"default": 60.0}) for rank, name in enumerate(("small", "large"))}
LOADS = {"small": Load(), "large": Load(margin=1000.0)}


@pytest.fixture
def feedback() -> dict[str, Feedback]:
    return {name: Feedback(model, True, Routing(), 0.0) for name, model in MODELS.items()}


def test_work_that_a_budget_pushed_down_counts_for_both_models(feedback: dict[str, Feedback]) -> None:
    work = dict.fromkeys(MODELS, Work(100, 100, 10_000))
    decision = decide(Policy("large"), Request(work, ENGLISH, deadline_s=1.0), MODELS, LOADS, 0.0)

    tell(feedback, decision, work, 0.0)

    assert decision.reason is Reason.BUDGET
    assert feedback["small"].offered.tokens_per_s(0.0) > 0
    assert feedback["large"].shadow.tokens_per_s(0.0) > 0


def test_a_target_outside_the_pinned_space_missed_nothing(feedback: dict[str, Feedback]) -> None:
    work = {"small": Work(100, 100, 10_000)}
    pinned = Request(work, ENGLISH, deadline_s=0.001, candidates=frozenset({"small"}), pinned=True)
    decision = decide(Policy("large"), pinned, MODELS, LOADS, 0.0)

    tell(feedback, decision, work, 0.0)

    assert (decision.model, decision.target, decision.reason) == ("small", "large", Reason.LATE)
    assert feedback["small"].offered.tokens_per_s(0.0) > 0
    assert feedback["large"].shadow.tokens_per_s(0.0) == 0
