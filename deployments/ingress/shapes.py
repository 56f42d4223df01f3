"""Answers and errors in the form of the request's API (router/shapes)."""

from collections.abc import Callable
from dataclasses import replace

from deployments.ingress.asgi import HttpAnswer, HttpRequest
from deployments.ingress.outgoing import Held
from deployments.ingress.routes import TABLE
from deployments.service.plan import Answer
from router.answers import AdapterUse, Routing
from router.domain import Reason
from router.errors import RouterError, render
from router.rerank_schema import NAMES
from router.routes import is_ollamas
from router.shapes.form import AnswerContent, Errors
from router.shapes.openai import OPENAI
from router.shapes.table import FORMS
from router.spaces import Catalogue

_ERRORS = {
    **{handler: form.errors for handler, form in FORMS.items()},
    "rerank": Errors(render, NAMES),
}


def failed(error: RouterError, http_request: HttpRequest) -> HttpAnswer:
    """The error in the form of the request's API."""
    errors = http_request.errors
    if errors is None:
        path = http_request.path
        routes = TABLE.find(path)
        handler = routes[0].handler if routes else "ollama_embed" if is_ollamas(path) else ""
        errors = _ERRORS.get(handler, OPENAI.errors)
    return HttpAnswer(error.status, errors.write(error), headers=error.headers)


def _kept(answer: Answer) -> float:
    """The measured recall of an adapter's queries; that in its own space, if the space itself was
    not measured.
    """
    return replace(answer.encoder, assumed=None).recall_of(answer.features)


def embeddings(
    answer: Answer,
    catalogue: Catalogue,
    write: Callable[[AnswerContent], bytes],
    id: str,
    held: Held,
) -> HttpAnswer:
    """Vectors in the form of the request's API, and the headers that all forms have."""
    decision, space, recall = answer.decision, answer.space, answer.expected_recall
    over = answer.encoder.adapter
    model, named, reason = decision.model or space.model, str(space), decision.label
    predicted_ms = round((decision.predicted_s or 0.0) * 1000, 2)
    routing = Routing(
        model=model,
        tier=catalogue.tier_of(model),
        reason=reason,
        space=named,
        language=answer.features.language,
        tokens=answer.prompt_tokens,
        predicted_ms=predicted_ms,
        degraded=decision.degraded,
        cached=answer.cached,
        truncated=answer.truncated,
        adapter=None
        if over is None
        else AdapterUse(source=str(over.source), expected_recall=round(_kept(answer), 4)),
        encoder=answer.encoder.kind,
        expected_recall=None if recall is None else round(recall, 4),
        canary=answer.canary,
    )
    if languages := answer.features.languages:
        routing["languages"] = languages
    if unread := round(answer.unread, 4):
        routing["unread"] = unread
    if decision.reason is Reason.LATE:
        routing["elapsed_ms"] = round(answer.elapsed_s * 1000, 2)
    if recall is not None and not answer.encoder.measured(answer.features):
        routing["recall_measured_for"] = [*answer.encoder.measured_for]
    body = write(AnswerContent(answer.vectors, routing, answer.prompt_tokens, id))
    return HttpAnswer(
        200,
        body,
        headers={
            "x-embedding-model": model,
            "x-embedding-space": named,
            "x-embedding-encoder": answer.encoder.kind,
            **({} if recall is None else {"x-expected-recall": f"{recall:.4g}"}),
            "x-routing-reason": reason,
            "x-predicted-ms": f"{predicted_ms:g}",
            "x-queue-ms": f"{answer.queue_s * 1000:.2f}",
            "x-inference-ms": f"{answer.inference_s * 1000:.2f}",
        },
        held=held,
    )
