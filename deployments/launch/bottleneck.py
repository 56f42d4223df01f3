"""Check by latency curves and measured costs if a config has enough routers for its cards."""

import math
from collections.abc import Iterator, Sequence

from deployments.launch.machine import Finding, Machine
from router.config import RouterArgs
from router.models import curve_of
from router.rerank_config import RerankerConfig
from router.resources import ROUTER, DeploymentResources
from router.router_cost import DOCUMENTS, QUESTION, Card, RequestKind, demand

CHARACTERS_A_TOKEN = 4  # of a reranker's template, which is English


def routers_finding(
    machine: Machine, args: RouterArgs, booked: Sequence[DeploymentResources]
) -> Iterator[Finding]:
    """Yield one finding if models with known curves use cards."""
    by_name = {booking.deployment: booking for booking in booked}
    router = by_name.get(ROUTER)
    cards = list(_cards(machine, args, by_name))
    if router is None or not cards:
        return
    questions, documents = (demand(cards, shape) for shape in (QUESTION, DOCUMENTS))
    needed = math.ceil(questions.routers)
    found = (
        f"full cards take about {_rate(questions.requests_per_s, QUESTION)} "
        f"({_routers(questions.routers)}) or {_rate(documents.requests_per_s, DOCUMENTS)} "
        f"({_routers(documents.routers)}); there are {router.most} at most"
    )
    todo = ""
    if needed > router.most:
        full = [
            _what(shape)
            for shape, needed in ((QUESTION, questions), (DOCUMENTS, documents))
            if math.ceil(needed.routers) > router.most
        ]
        todo = (
            f"with requests of {' and '.join(full)} the routers are full before the cards: set "
            f"max_replicas (or num_replicas) of {ROUTER} to {needed}, or send more texts a request"
        )
    yield Finding("routers", "warn" if todo else "ok", found, todo)


def _cards(
    machine: Machine, args: RouterArgs, booked: dict[str, DeploymentResources]
) -> Iterator[Card]:
    """Yield each model's share of the cards with all replicas, capped at those of this machine."""
    models = args.deployed
    given = {
        name: (booking.most, min(1.0, booking.gpus))
        for name, booking in booked.items()
        if booking.gpus and name in models
    }
    total = sum(limit * share for limit, share in given.values())
    here = math.inf if isinstance(machine.gpus, str) else len(machine.gpus)
    for name, (limit, share) in given.items():
        model = models[name]
        if model.curve is None and model.profile is None:
            continue
        try:
            curve = curve_of(name, model, args.base_dir)
        except (OSError, ValueError):
            continue  # check-config reports it
        template = (model.template or "") if isinstance(model, RerankerConfig) else ""
        cards = limit * share * min(1.0, here / total)
        yield Card(curve, cards, len(template) // CHARACTERS_A_TOKEN)


def _rate(requests_per_s: float, shape: RequestKind) -> str:
    return f"{float(f'{requests_per_s:.2g}'):,.0f} requests/s of {_what(shape)}"


def _what(shape: RequestKind) -> str:
    return f"{shape.texts} {'text' if shape.texts == 1 else 'texts'} of {shape.tokens} tokens"


def _routers(count: float) -> str:
    whole = max(1, math.ceil(count))
    return f"{whole} router{'' if whole == 1 else 's'}"
