"""The forms of a rerank request: the form of a body, and the answer in that form."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from deployments.ingress.asgi import HttpAnswer
from deployments.service.reranking import Ranking, Reranking
from deployments.service.service import Service
from router.domain import Reason
from router.errors import InvalidValue
from router.ignoring import Ignore
from router.keys import Grant
from router.rerank_schema import RerankRequest, explained, parse, read_documents
from router.settings import Context
from router.shapes import tei
from router.shapes.form import Errors


class RerankForm(NamedTuple):
    """A reader of requests and a writer of answers; the id is the request's.

    `read` drops unknown fields if its last argument is true.
    """

    read: Callable[[Mapping[str, Any], Context, Ignore], RerankRequest]
    write: Callable[[RerankRequest, Ranking, str], HttpAnswer]


def form_of(data: Mapping[str, Any]) -> RerankForm:
    """The form of a body, by the field with its texts; raises InvalidValue if it has both fields or
    neither.
    """
    given = [name for name in FORMS if data.get(name) is not None]
    if len(given) == 1:
        return FORMS[given[0]]
    raise InvalidValue(
        f"the body has {' and '.join(given)}; send only one of the two"
        if given
        else f"{' or '.join(FORMS)} is missing; send the texts to rank",
        next(iter(FORMS)),
    )


def context_of(
    reranking: Reranking, service: Service, grant: Grant, headers: Mapping[str, str]
) -> Context:
    """The context of a rerank request. Raises ModelNotFound if there are no rerankers."""
    return Context(
        reranking.catalogue,
        headers,
        service.args.limits,
        None,  # a ranking has no space: its address only says which usage it is
        grant.defaults,
        grant.default_priority,
        grant.check_space,
        service.catalogue,
    )


def _write(request: RerankRequest, ranking: Ranking, id: str) -> HttpAnswer:
    decision = ranking.decision
    results: list[dict[str, Any]] = [
        {"index": place, "relevance_score": score} for place, score in ranking.results
    ]
    if request.return_documents:
        for one in results:
            one["document"] = {"text": request.documents[one["index"]]}
    elapsed_ms = round(ranking.elapsed_s * 1000, 2)
    languages, unread = ranking.features.languages, round(ranking.unread, 4)
    body = {
        "id": id,
        "model": ranking.model,
        "results": results,
        "usage": {"prompt_tokens": ranking.prompt_tokens, "total_tokens": ranking.prompt_tokens},
        "routing": {
            "model": ranking.model,
            "tier": ranking.tier,
            "reason": decision.label,
            "score": ranking.score,
            "language": ranking.features.language,
            "tokens": ranking.prompt_tokens,
            "predicted_ms": _predicted_ms(ranking),
            "degraded": decision.degraded,
            "cached": ranking.cached,
            "truncated": ranking.truncated,
            **({"languages": languages} if languages else {}),
            **({"unread": unread} if unread else {}),
            **({"elapsed_ms": elapsed_ms} if decision.reason is Reason.LATE else {}),
        },
    }
    made = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return HttpAnswer(200, made, headers=headers_of(ranking))


def headers_of(ranking: Ranking) -> dict[str, str]:
    """The headers about the routing of an answer, which all forms have."""
    return {
        "x-embedding-model": ranking.model,
        "x-routing-reason": ranking.decision.label,
        "x-predicted-ms": f"{_predicted_ms(ranking):g}",
        "x-queue-ms": f"{ranking.queue_s * 1000:.2f}",
        "x-inference-ms": f"{ranking.inference_s * 1000:.2f}",
    }


def _predicted_ms(ranking: Ranking) -> float:
    return round((ranking.decision.predicted_s or 0.0) * 1000, 2)


def _read_tei(data: Mapping[str, Any], context: Context, ignore: Ignore) -> RerankRequest:
    with explained():
        ignored, fields = tei.read_rerank(data, ignore)
    texts = read_documents(data["texts"], context.limits)
    request = parse(
        {
            "query": data.get("query"),
            "documents": list(texts),
            "return_documents": fields.return_text,
            "truncate": tei.cut(fields.truncate, fields.truncation_direction),
            "score": "raw" if fields.raw_scores else None,
        },
        context,
        False,
    )
    return request._replace(ignored=ignored)


def _write_tei(request: RerankRequest, ranking: Ranking, id: str) -> HttpAnswer:
    results: list[dict[str, Any]] = [
        {"index": place, "score": score} for place, score in ranking.results
    ]
    if request.return_documents:
        for one in results:
            one["text"] = request.documents[one["index"]]
    made = orjson.dumps(results, option=orjson.OPT_SERIALIZE_NUMPY)
    return HttpAnswer(200, made, headers=headers_of(ranking))


def errors_of(data: Mapping[str, Any]) -> Errors | None:
    """The form of a body's errors: a body with `texts` is Text Embeddings Inference's."""
    return None if data.get("texts") is None else tei.RERANK_ERRORS


# by the field that holds the texts; the first is Cohere's and Jina's
FORMS: dict[str, RerankForm] = {
    "documents": RerankForm(parse, _write),
    "texts": RerankForm(_read_tei, _write_tei),
}
