"""Suggestions for refused callers, when the error alone lacks the request."""

from router.errors import INPUT, Overloaded, UnknownField
from router.keys import Grant
from router.rerank_schema import OF_RANKINGS
from router.schema import EmbeddingsRequest

LONG_LIST = 32  # texts; a query and its few variants are fewer


def advised(error: Overloaded, request: EmbeddingsRequest, grant: Grant) -> Overloaded:
    """The error with what else this caller can send."""
    allowed = grant.priorities is None or "bulk" in grant.priorities
    return error.advised(
        allowed and request.priority != "bulk" and request.items >= LONG_LIST,
        request.latency_budget_ms is None,
    )


def name_rankings(error: UnknownField, explain: bool) -> None:
    """Say where a field of rankings belongs; `explain`: on /v1/route."""
    if (name := error.param) in OF_RANKINGS:
        error.message = (
            f"{name} is a field of rankings, and POST /v1/route explains only requests for "
            f"vectors; send {INPUT} here, or the ranking to POST /v1/rerank, whose answer says "
            "in routing which reranker was chosen, and why"
            if explain
            else f"{name} is a field of rankings (POST /v1/rerank), and a request for vectors "
            f"has none; send the texts to embed in {INPUT}"
        )
