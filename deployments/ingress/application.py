"""Thin translation of HTTP to the domain and back: one ASGI application, with no framework between
the socket and the router's own values.
"""

import logging
import time
from typing import Protocol

from deployments.ingress import asgi, bodies, console, docs_page, responses
from deployments.ingress.asgi import ClientLeft, HttpAnswer, HttpRequest, Receive, Scope, Send
from deployments.ingress.auth import Access
from deployments.ingress.batches import BatchHandlers, Handler
from deployments.ingress.inference import Inference
from deployments.ingress.routes import TABLE
from deployments.ingress.shapes import failed
from deployments.ingress.views import Views
from deployments.ingress.what_if import MAX_BODY_BYTES as MAX_POLICY_BYTES
from deployments.service.batches.store import BatchStore
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from deployments.service.use_log import UseLog
from deployments.telemetry.logs import REQUEST_IDS, where
from deployments.telemetry.tracing import Tracing
from router import ignoring
from router.errors import (
    InternalError,
    MethodNotAllowed,
    ModelUnavailable,
    NotFound,
    NotSupported,
    RateLimitExceeded,
    RequestTooLarge,
    RouterError,
)
from router.keys import Grant
from router.names import PathPrefix
from router.openapi import document
from router.routes import Audience as RouteCaller
from router.routes import Route, methods_of
from router.settings import permitted_collection
from router.stamps import Stamps

CLIENT_LEFT = 499
STARTING_S = 1.0  # until a client can retry
BODILESS = (204, 304)  # a content-length here would be that of a body that is not sent

log = logging.getLogger("ray.serve")


class RouterState(Protocol):
    """The parts of the router that the application uses; `access` is missing until the config has
    arrived.
    """

    service: Service
    reranking: Reranking
    views: Views
    access: Access
    tracing: Tracing | None
    batches: BatchStore | None
    use_log: UseLog

    async def close(self) -> None:
        """Write buffered data and close the connections."""


class Application:
    """The ASGI application of one router replica.

    `alone` means without Serve around it, as for every request through `exchange`. Serve itself
    sends `x-request-id`, starts a trace, and cancels the call of a client that leaves, unless a
    header of the request leaves that to the router (deployments/launch/haproxy.py).
    """

    def __init__(self, router: RouterState, alone: bool = False) -> None:
        self._router, self._alone = router, alone
        inference = Inference(router)
        self.embed_line = inference.embed_line
        own: dict[str, Handler] = {
            "model": self._model,
            "decisions": self._decisions,
            "what_if": self._what_if,
            "console": self._console,
            "docs": self._docs,
        }
        # by the names of router/routes.py; the others are views that do not read the request
        self.tables = (inference.handlers, BatchHandlers(router).handlers, own)
        self._handlers = {
            name: function for table in self.tables for name, function in table.items()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await responses.lifespan(receive, send)
            await self._router.close()
        elif scope["type"] == "websocket":
            await responses.refuse_websocket(scope, receive, send)
        elif scope["type"] == "http":
            http_request = HttpRequest(scope, receive, self._alone)
            answer = await self._whole(http_request)
            if answer.stream is not None:
                stall_s = self._router.service.args.limits.send_timeout_s
                whole = scope["method"] != "HEAD"
                await responses.respond_with_file(
                    send, answer.status, answer.headers, answer.stream, stall_s, whole
                )
                return
            body = b"" if scope["method"] == "HEAD" else answer.body
            await responses.respond(send, answer.status, body, answer.headers, answer.held)
            if http_request.stamps is not None:
                http_request.stamps.mark("written", time.monotonic())

    async def exchange(self, http_request: HttpRequest) -> HttpAnswer:
        """Answer a request that bypassed Serve (deployments/ingress/fast_path.py), with all headers
        of the answer.
        """
        tracing = self._router.tracing
        span = (
            None
            if tracing is None
            else tracing.requested(
                http_request.scope["method"],
                http_request.path,
                http_request.headers,
                http_request.id,
            )
        )
        if span is None:
            return await self._whole(http_request)
        with span:
            answer = await self._whole(http_request)
            span.answered(answer.status)
            return answer

    async def _whole(self, http_request: HttpRequest) -> HttpAnswer:
        arrived_s = time.monotonic()
        REQUEST_IDS.set((http_request.id,))
        access, caller = getattr(self._router, "access", None), None
        if access is None:  # Serve starts its server before it passes the config
            unavailable = ModelUnavailable(["this router is starting"], STARTING_S)
            early = failed(unavailable, http_request)
            return early._replace(
                headers={
                    **_entity(early),
                    "x-content-type-options": "nosniff",
                    **early.headers,
                    "x-request-id": http_request.id,
                }
            )
        if self._router.service.args.stamps:
            http_request.stamps = Stamps(http_request.came_s or arrived_s)
        try:
            asgi.check_headers(http_request.scope, self._router.service.args.limits)
            if http_request.headers.get("upgrade", "").lower() == "websocket":
                raise NotSupported
            if (
                http_request.scope["method"] == "OPTIONS"
                and (preflight := access.preflight(http_request.headers)) is not None
            ):
                answer = HttpAnswer(204, b"", headers=preflight)
            else:
                caller = access.caller(http_request)
                answer = await self._answer(caller, http_request)
        except ClientLeft:
            answer = HttpAnswer(CLIENT_LEFT, b"")  # no client reads it; Serve counts it
        except RouterError as error:
            self.refused(error, http_request.path)
            answer = failed(error, http_request)
        except Exception as error:
            log.error("request %s failed:\n%s", http_request.id, where(error))
            answer = failed(InternalError(), http_request)
        total_ms = (time.monotonic() - arrived_s) * 1000
        given = {
            **_entity(answer),
            "x-total-ms": f"{total_ms:.2f}",
            "x-content-type-options": "nosniff",
            **access.cors(http_request.headers),
            **({} if caller is None else access.limits(caller)),
            **answer.headers,
        }
        if http_request.ignored:
            given[ignoring.HEADER] = ignoring.header(http_request.ignored)
        if http_request.alone:
            given["x-request-id"] = http_request.id
        return HttpAnswer(
            answer.status, answer.body, answer.content_type, given, answer.held, answer.stream
        )

    def refused(self, error: RouterError, path: str) -> None:
        """Count an inference request that never reached the service, and a limit that was used
        up.
        """
        request_metrics = self._router.service.request_metrics
        if request_metrics is None:
            return
        if not error.counted and TABLE.infers(path):
            request_metrics.unread(error.code)
        if isinstance(error, RateLimitExceeded) and error.of_key:
            request_metrics.rate_limited(error.kind)

    async def _answer(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        path, method = http_request.path, http_request.scope["method"]
        routes = TABLE.find(path)
        if not routes:
            raise NotFound(f"{http_request.address or ''}{path}", TABLE.nearest(path))
        for route in routes:
            if method in route.methods:
                break
        else:
            raise MethodNotAllowed(method, path, methods_of(routes))
        if http_request.address is not None:
            http_request.address = self._checked(caller, route, http_request.address)
        if (view := self._router.views.fixed.get(route.handler)) is not None:
            return HttpAnswer(*view(caller))
        return await self._handlers[route.handler](caller, http_request)

    def _checked(self, caller: Grant, route: Route, address: PathPrefix) -> PathPrefix:
        """The address with the collection's own name; raises NotFound or CollectionNotAllowed."""
        catalogue, check = self._router.service.catalogue, caller.check_collection
        if route.caller is RouteCaller.ANYONE:
            raise NotFound(f"{address}{route.path}")
        name = permitted_collection(catalogue, check, address.collection)
        if name not in catalogue.collections:
            raise NotFound(str(address), collections=catalogue.collections)
        return address._replace(collection=name)

    async def _model(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        name = TABLE.find(http_request.path)[0].parameter(http_request.path)
        return HttpAnswer(*self._router.views.model(name, caller))

    async def _decisions(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        return HttpAnswer(200, self._router.views.decisions(asgi.query(http_request.scope)))

    async def _console(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        return _asset(http_request, console.ASSETS[http_request.path])

    async def _docs(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        return docs_page.answer(document(self._router.service.catalogue), http_request)

    async def _what_if(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        service, policy = self._router.service, await self._policy(http_request)
        content_type = http_request.headers.get("content-type", "")
        answer = await self._router.views.what_if.answer(
            service.args, policy, content_type, service.ledger.routers
        )
        return HttpAnswer(200, answer)

    async def _policy(self, http_request: HttpRequest) -> bytes:
        limits = self._router.service.args.limits
        try:
            return await bodies.body(http_request, MAX_POLICY_BYTES, limits.body_timeout_s)
        except RequestTooLarge:
            raise RequestTooLarge(
                MAX_POLICY_BYTES, "a policy has only `routing:` and `tiers:`"
            ) from None


def _asset(http_request: HttpRequest, asset: console.Asset) -> HttpAnswer:
    """A file of the console; its links are relative, so under a route prefix the page's path must
    end with a slash.
    """
    prefix = http_request.scope.get("root_path", "")
    if prefix and http_request.scope["path"] == prefix:
        return HttpAnswer(307, b"", headers={"location": f"{prefix.rpartition('/')[2]}/"})
    if asset.known(http_request.headers.get("if-none-match", "")):
        return HttpAnswer(304, b"", asset.content_type, asset.headers())
    return HttpAnswer(200, asset.body, asset.content_type, asset.headers())


def _entity(answer: HttpAnswer) -> dict[str, str]:
    """The headers about the body of an answer."""
    if answer.status in BODILESS:
        return {}
    return {"content-type": answer.content_type, "content-length": str(len(answer.body))}
