"""Ledgers of one model, and what is predicted from them."""

import random

from router.domain import Curve, Model, work_of
from router.ledger import Ledger
from router.policy import predict

CURVE = Curve(fixed_s=0.5, base_s=0.0, s_per_token=0.01, s_per_token_sq=0.0, batch_tokens=100)
MODEL = Model("m", 0, 512, CURVE, {})


def ledger(*replicas: str, calls: int = 2, routers: int = 1) -> Ledger:
    made = Ledger({"m": calls}, routers)
    for replica in replicas:
        made.joined("m", replica)
    return made


def rng() -> random.Random:
    return random.Random(7)


def seconds(book: Ledger, now: float, tokens: int, bias: float = 1.0) -> float:
    """What `decide` predicts for one text of so many tokens."""
    load = book.load(MODEL, now, rng(), bias=bias)
    return predict(MODEL, load, work_of([tokens], None, None)).total_s
