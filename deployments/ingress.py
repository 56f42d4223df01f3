"""HTTP to domain and back; thin. One ASGI application, no framework between the socket and the router's own values."""

import asyncio
import logging
import time
from types import MappingProxyType
from typing import Any, NamedTuple

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import http
from deployments.decision_log import open_log
from deployments.handles import HandleTransport
from deployments.http import ClientLeft, Headers, Receive, Scope, Send
from deployments.replicas import board
from deployments.service import Answer, Service
from deployments.views import Views
from router import encoding
from router.adapters import load_adapters
from router.errors import InternalError, MethodNotAllowed, NotFound, RouterError, render
from router.schema import EmbeddingsRequest, parse
from router.spaces import Catalogue
from router.strict import changed

OFF_LOOP_NUMBERS = 500_000  # 30 ms as JSON: more are written in a thread
EMBEDDINGS = ("/v1/embeddings", "/embeddings")

log = logging.getLogger("ray.serve")


class HttpAnswer(NamedTuple):
    """What one route returns."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Headers = MappingProxyType({})


class Application:
    """The ASGI application of one router replica."""

    def __init__(self, router: "Router", says_request_id: bool = False) -> None:
        self._router = router
        self._says_request_id = says_request_id  # Serve puts `x-request-id` into the answer itself

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await http.lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived_s = time.monotonic()
        headers = http.headers(scope)
        request_id = http.request_id(headers)
        try:
            answer = await self._answer(scope, headers, receive)
        except ClientLeft:
            return
        except RouterError as error:
            answer = _failed(error)
        except Exception:
            log.exception("request %s failed", request_id)
            answer = _failed(InternalError())
        total_ms = (time.monotonic() - arrived_s) * 1000
        given = {
            "content-type": answer.content_type, "content-length": str(len(answer.body)), "x-total-ms": f"{total_ms:.2f}",
            **answer.headers,
        }
        if self._says_request_id:
            given["x-request-id"] = request_id
        await http.respond(send, answer.status, b"" if scope["method"] == "HEAD" else answer.body, given)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive) -> HttpAnswer:
        service, views = self._router.service, self._router.views
        path, method = http.path(scope), scope["method"]
        if path in EMBEDDINGS:
            request = await self._request(method, path, headers, receive)
            answer = await http.unless_client_leaves(service.embed(request), receive)
            return await _embeddings(request, answer, service.catalogue)
        if path == "/v1/route":
            request = await self._request(method, path, headers, receive)
            return HttpAnswer(200, views.explanation(await service.plan(request)))
        view = views.find(path)
        if view is None:
            raise NotFound(path)
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(method, path, ("GET", "HEAD"))
        return HttpAnswer(*view())

    async def _request(self, method: str, path: str, headers: Headers, receive: Receive) -> EmbeddingsRequest:
        if method != "POST":
            raise MethodNotAllowed(method, path, ("POST",))
        limits = self._router.service.args.limits
        return parse(await http.body(headers, receive, limits.max_body_bytes), headers, limits)


@serve.ingress()
class Router:
    """The router's deployment: one of these in every router replica; they share nothing."""

    def __init__(self, fixed: dict[str, Any], handles: dict[str, DeploymentHandle[Any]]) -> None:
        self._fixed, self._handles = fixed, handles
        self.service: Service
        self.views: Views

    async def reconfigure(self, changes: dict[str, Any]) -> None:
        """Take sections in the place of those at the start; requests that are running keep what they were decided by.

        Once requests are served, changes that cannot be used are logged, shown in /v1/tiers, and change nothing: Serve would
        answer an exception by replacing a router that works.
        """
        if hasattr(self, "service"):
            await self._reload(changes)
            return
        args = changed(self._fixed, changes)
        service = await asyncio.to_thread(Service, args, HandleTransport(self._handles))
        if args.decision_log is not None:
            service.log = open_log(args.decision_log, args.base_dir)
        self.service, self.views = service, Views(service)
        loop = asyncio.get_running_loop()
        board.watch(lambda model, replicas: _later(loop, service, model, replicas))

    async def _reload(self, changes: dict[str, Any]) -> None:
        try:
            args = changed(self._fixed, changes)
            catalogue = Catalogue(args, await asyncio.to_thread(load_adapters, args))
        except Exception as error:
            self.views.reload_error = str(error)
            log.exception("the new config cannot be used and the one before stays")
        else:
            self.service.reload(args, catalogue)
            self.views.reload_error = None

    def check_health(self) -> None:
        """Serve asks every few seconds; the moment to see how many routers share the load."""
        self.service.ledger.routers = max(1, serve.get_replica_context().world_size)

    def __serve_build_asgi_app__(self) -> Application:
        return Application(self)


def _later(loop: asyncio.AbstractEventLoop, service: Service, model: str, replicas: tuple[str, ...]) -> None:
    """The board's news come from Serve's thread in its default mode, from this loop in throughput mode."""
    loop.call_soon_threadsafe(service.replicas_changed, model, replicas)


def _failed(error: RouterError) -> HttpAnswer:
    return HttpAnswer(error.status, render(error), headers=error.headers)


async def _embeddings(request: EmbeddingsRequest, answer: Answer, catalogue: Catalogue) -> HttpAnswer:
    decision, space, over = answer.decision, answer.space, answer.adapter
    model = decision.model or space.model
    predicted_ms = round((decision.predicted_s or 0.0) * 1000, 2)
    routing = encoding.Routing(
        model=model, tier=catalogue.tier_of(model), reason=decision.label, space=str(space),
        language=answer.features.language, tokens=answer.prompt_tokens, predicted_ms=predicted_ms, degraded=decision.degraded,
        cached=answer.cached, truncated=answer.truncated,
        adapter=None if over is None else encoding.Crossing(str(over.source), round(over.kept_for(answer.features.language), 4)),
        canary=answer.canary,
    )
    encode = (answer.vectors, request.encoding_format, routing, answer.prompt_tokens)
    large = answer.vectors.size > OFF_LOOP_NUMBERS and request.encoding_format == "float"
    body = await asyncio.to_thread(encoding.encode, *encode) if large else encoding.encode(*encode)
    return HttpAnswer(200, body, headers={
        "x-embedding-model": model, "x-embedding-space": str(space), "x-routing-reason": decision.label,
        "x-predicted-ms": f"{predicted_ms:g}", "x-queue-ms": f"{answer.queue_s * 1000:.2f}",
        "x-inference-ms": f"{answer.inference_s * 1000:.2f}",
    })
