"""What a refused caller can send instead, where the error alone does not know the request."""

from collections.abc import Iterator
from contextlib import contextmanager

from router.errors import INPUT, Overloaded, UnknownField
from router.keys import Grant
from router.rerank_schema import OF_RANKINGS
from router.schema import EmbeddingsRequest
from router.spaces import TIERS

LONG_LIST = 32  # texts; a query and its few variants are fewer


@contextmanager
def advised(request: EmbeddingsRequest, grant: Grant) -> Iterator[None]:
    """Add to Overloaded what else this caller can send."""
    try:
        yield
    except Overloaded as error:
        allowed = grant.priorities is None or "bulk" in grant.priorities
        leaves_open = request.space is None and (request.model or "auto").lower() in TIERS
        error.advise(
            allowed and request.priority != "bulk" and request.items >= LONG_LIST,
            leaves_open and request.latency_budget_ms is None,
        )
        raise


@contextmanager
def without_rankings(explain: bool) -> Iterator[None]:
    """Say of an unknown field that rankings have where it belongs; `explain`: on /v1/route."""
    try:
        yield
    except UnknownField as error:
        if error.param in OF_RANKINGS:
            name = error.param
            error.message = (
                f"{name} is a field of rankings, and POST /v1/route explains only requests for "
                f"vectors; send {INPUT} here, or the ranking to POST /v1/rerank, whose answer says "
                "in routing which reranker was chosen, and why"
                if explain
                else f"{name} is a field of rankings (POST /v1/rerank), and a request for vectors "
                f"has none; send the texts to embed in {INPUT}"
            )
        raise
