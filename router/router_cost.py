"""What a router's processor spends on a request, and how many routers keep cards busy."""

from collections.abc import Iterable
from typing import NamedTuple

from router.domain import Curve


class RouterCost(NamedTuple):
    """Processor seconds of a router for each request, text and token."""

    request_s: float
    text_s: float
    token_s: float

    def seconds(self, texts: float, tokens: float) -> float:
        """Of one request with `texts` texts of `tokens` tokens each."""
        return self.request_s + texts * (self.text_s + self.token_s * tokens)


class Shape(NamedTuple):
    """What every request of a kind holds."""

    texts: int
    tokens: int  # of each


class Card(NamedTuple):
    """What one model has of the cards."""

    curve: Curve
    cards: float


class Demand(NamedTuple):
    """What full cards answer, and the routers that this takes."""

    requests_per_s: float
    routers: float


# Fitted to configs/profiles/routers.json (`python -m benchmarks routers`); a test compares.
MEASURED = RouterCost(request_s=0.0013, text_s=4.4e-05, token_s=2.6e-06)
QUESTION, DOCUMENTS = Shape(1, 32), Shape(32, 400)


def texts_per_s(curve: Curve, tokens: int) -> float:
    """Texts of so many tokens that one replica with full steps answers in a second."""
    texts = max(1, curve.batch_tokens // tokens)
    return texts / curve.step(texts * tokens, texts * tokens * tokens, texts)


def demand(models: Iterable[Card], shape: Shape, cost: RouterCost = MEASURED) -> Demand:
    """What these cards answer in requests of this shape when they are full."""
    rate = sum(one.cards * texts_per_s(one.curve, shape.tokens) / shape.texts for one in models)
    return Demand(rate, rate * cost.seconds(shape.texts, shape.tokens))
