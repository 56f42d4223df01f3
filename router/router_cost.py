"""The processor time of a router per request, and how many routers keep cards busy."""

from collections.abc import Iterable
from typing import NamedTuple

from router.domain import Curve


class RouterCost(NamedTuple):
    """Processor seconds of a router per request, per text and per token."""

    request_s: float
    text_s: float
    token_s: float

    def seconds(self, texts: float, tokens: float) -> float:
        """Processor seconds of one request with `texts` texts of `tokens` tokens each."""
        return self.request_s + texts * (self.text_s + self.token_s * tokens)


class RequestKind(NamedTuple):
    """The texts in each request of a kind."""

    texts: int
    tokens: int  # of each


class Card(NamedTuple):
    """The curve of one model, and how many cards it has."""

    curve: Curve
    cards: float
    prompt_tokens: int = 0  # read with each text: the template of a reranker


class FullLoad(NamedTuple):
    """The request rate of full cards, and the routers that it needs."""

    requests_per_s: float
    routers: float


# Fitted to configs/profiles/routers.json (`python -m benchmarks routers`); a test compares.
MEASURED = RouterCost(request_s=0.0019, text_s=8.5e-05, token_s=8.8e-07)
QUESTION, DOCUMENTS = RequestKind(1, 32), RequestKind(32, 400)


def texts_per_s(curve: Curve, tokens: int) -> float:
    """Texts of this many tokens that one replica answers per second with full steps."""
    texts = max(1, curve.batch_tokens // tokens)
    return texts / curve.step(texts * tokens, texts * tokens * tokens, texts)


def demand(models: Iterable[Card], shape: RequestKind, cost: RouterCost = MEASURED) -> FullLoad:
    """The demand of requests of this shape when these cards are full."""
    rate = routers = 0.0
    for model in models:
        tokens = shape.tokens + model.prompt_tokens
        own = model.cards * texts_per_s(model.curve, tokens) / shape.texts
        rate, routers = rate + own, routers + own * cost.seconds(shape.texts, tokens)
    return FullLoad(rate, routers)
