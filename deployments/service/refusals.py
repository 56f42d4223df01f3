"""The error of a request that no model can serve, with advice for the caller."""

from collections.abc import Collection

from deployments.service.plan import Plan
from deployments.service.prepare import Prepared
from router.admission import RETRY_AFTER_S
from router.config import RouterArgs
from router.decision_log import RERANK
from router.domain import OnMiss, Reason, Why, Work, work_of
from router.errors import (
    INPUT,
    BudgetUnreachable,
    ContextLengthExceeded,
    InvalidValue,
    ModelUnavailable,
    RouterError,
    TierNotAllowed,
    field,
)
from router.models import long_texts_of
from router.policy import decide, idle_tail_s
from router.resolving import Constraints
from router.schema import EmbeddingsRequest


def refusal(args: RouterArgs, plan: Plan, permitted: frozenset[str] | None) -> RouterError:
    """The contract's error for a request that no model can serve, with the decision's reason."""
    error = _why_refused(args, plan, permitted)
    error.headers["x-routing-reason"] = plan.decision.label
    return error


def usable_names(args: RouterArgs, permitted: frozenset[str]) -> list[str]:
    """The values of `model` for a key: its models, and the tiers that map to one of them."""
    tiers = (str(tier) for tier, name in args.tiers.items() if name in permitted)
    return [*(name for name in args.models if name in permitted), *tiers]


def check_permitted(
    args: RouterArgs,
    request: EmbeddingsRequest,
    constraints: Constraints,
    permitted: frozenset[str],
    candidates: Collection[str],
) -> None:
    """Raise TierNotAllowed if a key has no `candidates`, or no right to its tier's model."""
    tier, target = constraints.tier, constraints.target
    if tier is not None and target is not None and target not in permitted:
        field = "quality" if request.quality is tier else "model"
        raise TierNotAllowed(tier.value, usable_names(args, permitted), field)
    if not candidates:
        field = "space" if request.model is None and request.space is not None else "model"
        asked = request.model or target or "auto"
        raise TierNotAllowed(asked, usable_names(args, permitted), field)


# whatever the load is
NEVER = (Why.UNREAD, Why.BELOW_EACH, Why.OTHER_INSTRUCTION, Why.OTHER_PROOF, Why.OTHER_CUT)


def reads_nothing(place: int, *models: str) -> InvalidValue:
    """The error for a text of which these models read nothing."""
    return InvalidValue(
        f"{INPUT}[{place}]: {', '.join(models)} reads nothing of it; leave that text out, or let "
        "another model read it",
        "input",
    )


def cut_work(args: RouterArgs, prepared: dict[str, Prepared]) -> dict[str, Work]:
    """The work at each model when every text is cut to what that model reads; all texts are taken
    to be uncached.
    """
    work = {}
    for name, one in prepared.items():
        settings = args.models[name]
        counts = [min(count, settings.max_tokens) for count in one.counts]
        long = long_texts_of(settings)
        work[name] = work_of(counts, settings.attention_tokens, long)
    return work


def _why_refused(args: RouterArgs, plan: Plan, permitted: frozenset[str] | None) -> RouterError:
    decision = plan.decision
    if decision.reason is Reason.OVER_BUDGET:
        soonest_s = min(
            idle_tail_s(
                plan.models[candidate.model],
                plan.loads[candidate.model],
                plan.work[candidate.model],
            )
            for candidate in decision.candidates
            if candidate.why is Why.OVER_BUDGET
        )
        budget_s = (plan.decision_input.deadline_s or plan.arrived_s) - plan.arrived_s
        retry_after_s = decision.retry_after_s
        if retry_after_s is None and plan.tried is not None:
            # a request with its whole budget can be in time, even if no model is idle sooner
            retry_after_s = RETRY_AFTER_S
        return BudgetUnreachable(budget_s, soonest_s, retry_after_s)
    whys = {candidate.model: candidate.why for candidate in decision.candidates}
    out = (Why.NOT_IN_SPACE, Why.NOT_PERMITTED, Why.BELOW_TARGET)
    able = [name for name, why in whys.items() if why not in out]
    if not able:
        return TierNotAllowed(
            plan.request.model or decision.target or "auto",
            usable_names(args, permitted or frozenset()),
        )
    if all(whys[name] in NEVER for name in able):
        if unread := [name for name in able if whys[name] is Why.UNREAD]:
            return reads_nothing(plan.prepared[unread[0]].unreadable[0], *unread)
        if copies := [name for name in able if whys[name] is Why.OTHER_CUT]:
            return InvalidValue(
                f"{', '.join(copies)} {Why.OTHER_CUT}; send a shorter text, send it without "
                f"{field('truncate')}, or let the space's own model answer",
                "input",
            )
        if measured := [name for name in able if whys[name] is Why.OTHER_PROOF]:
            return InvalidValue(
                f"{', '.join(measured)} {Why.OTHER_PROOF}, so what it keeps with this one is not "
                "known; send the one that was measured, measure it with this one, or let another "
                "model answer",
                "instruction",
            )
        if other := [name for name in able if whys[name] is Why.OTHER_INSTRUCTION]:
            return InvalidValue(
                f"{', '.join(other)} {Why.OTHER_INSTRUCTION}, and was not measured with this one; "
                "send the default instruction of that model, or let another model answer",
                "instruction",
            )
    away = (Why.NOT_READY, Why.BELOW_FLOOR)
    if any(whys[name] in away for name in able) or all(whys[name] in NEVER for name in able):
        return ModelUnavailable([f"{name}: {whys[name]}" for name in able], RETRY_AFTER_S)
    # No model reads it whole: name the model that would get it cut, as the message advises.
    cut = decide(
        plan.context.policy,
        plan.decision_input._replace(work=cut_work(args, plan.prepared), on_miss=OnMiss.SERVE),
        plan.models,
        plan.loads,
        plan.decided_s,
    )
    name = cut.model or max(able, key=lambda name: plan.models[name].max_tokens)
    counts = plan.prepared[name].counts
    index = max(range(len(counts)), key=counts.__getitem__)
    limit = plan.models[name].max_tokens
    if plan.context.arm == RERANK:  # a pinned reranker is pinned to no space
        able = [one for one in plan.models if permitted is None or one in permitted]
    else:
        able = [one for one in able if one not in plan.decision_input.unfit]
    most = max(able, key=lambda name: plan.models[name].max_tokens)
    longer = (most, plan.models[most].max_tokens)
    return ContextLengthExceeded(
        index, counts[index], limit, name, longer if longer[1] > limit else None
    )
