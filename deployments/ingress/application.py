"""Thin translation of HTTP to the domain and back: one ASGI application, with no framework between
the socket and the router's own values.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

from deployments.ingress import asgi, bodies, console, docs_page, responses
from deployments.ingress.asgi import ClientLeft, HttpAnswer, HttpRequest, Receive, Scope, Send
from deployments.ingress.auth import Access
from deployments.ingress.batches import BatchHandlers
from deployments.ingress.billing import billed
from deployments.ingress.outgoing import Held, Outgoing
from deployments.ingress.rate_limits import Charge
from deployments.ingress.rerank import context_of, errors_of, form_of
from deployments.ingress.routes import TABLE
from deployments.ingress.shapes import embeddings, failed
from deployments.ingress.views import Views
from deployments.ingress.what_if import MAX_BODY_BYTES as MAX_POLICY_BYTES
from deployments.service.batches.store import BatchStore
from deployments.service.memory import give_back
from deployments.service.plan import Caller
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from deployments.service.use_log import UseLog
from deployments.telemetry.logs import REQUEST_IDS, where
from deployments.telemetry.tracing import Tracing
from router import encoding, ignoring
from router.errors import (
    DeadlineExceeded,
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
from router.names import Address
from router.openapi import document
from router.rerank_schema import read_object
from router.routes import Caller as RouteCaller
from router.routes import Route, methods_of
from router.schema import EmbeddingsRequest
from router.settings import Context, settled
from router.shapes.form import Incoming
from router.shapes.openai import OPENAI
from router.shapes.table import FORMS
from router.stamps import Stamps

CLIENT_LEFT = 499
STARTING_S = 1.0  # until a client can retry
LATE_S = 1.0  # extra time for the answer to a missed deadline
OFF_LOOP_BYTES = 1_000_000  # 5 ms as JSON; larger answers are written in a thread
BULK_OFF_LOOP_BYTES = 128 * 1024  # lower, as no user waits for these
INFLATED_CHARACTERS = 50_000  # what inflating a body counts as among texts that are read
BODILESS = (204, 304)  # a content-length here would be that of a body that is not sent

log = logging.getLogger("ray.serve")
Handler = Callable[[Grant, HttpRequest], Awaitable[HttpAnswer]]


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
        self._gate, self._outgoing = asgi.Gate(), Outgoing()
        self._large = asyncio.Lock()  # writing numbers holds the interpreter
        # by the names of router/routes.py; the others are views that do not read the request
        self._handlers: dict[str, Handler] = {
            **dict.fromkeys(FORMS, self._embed),
            "rerank": self._rerank,
            "explain": self._explain,
            "model": self._model,
            "decisions": self._decisions,
            "what_if": self._what_if,
            "console": self._console,
            "docs": self._docs,
            **BatchHandlers(router).handlers,
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
                and (told := access.preflight(http_request.headers)) is not None
            ):
                answer = HttpAnswer(204, b"", headers=told)
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
        return answer._replace(headers=given)

    def refused(self, error: RouterError, path: str) -> None:
        """Count an inference request that never reached the service, and a limit that was used
        up.
        """
        events = self._router.service.events
        if events is None:
            return
        if not error.counted and TABLE.infers(path):
            events.unread(error.code)
        if isinstance(error, RateLimitExceeded) and error.of_key:
            events.rate_limited(error.kind)

    async def _answer(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        path, method = http_request.path, http_request.scope["method"]
        routes = TABLE.find(path)
        if not routes:
            raise NotFound(f"{http_request.address or ''}{path}", TABLE.nearest(path))
        route = next((route for route in routes if method in route.methods), None)
        if route is None:
            raise MethodNotAllowed(method, path, methods_of(routes))
        if http_request.address is not None:
            self._check_address(caller, route, http_request.address)
        if (view := self._router.views.fixed.get(route.handler)) is not None:
            return HttpAnswer(*view(caller))
        return await self._handlers[route.handler](caller, http_request)

    def _check_address(self, caller: Grant, route: Route, address: Address) -> None:
        """Raise NotFound or CollectionNotAllowed."""
        collections = self._router.service.catalogue.collections
        if route.caller is RouteCaller.ANYONE:
            raise NotFound(f"{address}{route.path}")
        caller.check_collection(address.collection)
        if address.collection not in collections:
            raise NotFound(str(address), collections=collections)

    async def _embed(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        return await self._limited(caller, http_request, explain=False)

    async def _explain(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        return await self._limited(caller, http_request, explain=True)

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

    async def _limited(self, caller: Grant, http_request: HttpRequest, explain: bool) -> HttpAnswer:
        limits = self._router.service.args.limits
        client = f"key {caller.name}" if caller.name else asgi.client_of(http_request, limits)
        with self._gate.passed(client, limits):
            return await self._charged(caller, http_request, client, explain)

    async def embed_line(self, grant: Grant, http_request: HttpRequest, client: str) -> HttpAnswer:
        """Answer one line of a batch (deployments/ingress/batches.py); raises RouterError."""
        return await self._charged(grant, http_request, client, explain=False)

    async def _charged(
        self, grant: Grant, http_request: HttpRequest, client: str, explain: bool
    ) -> HttpAnswer:
        """Answer a request that counts against its key's limits; a caller who leaves before the
        answer still pays.
        """
        service, bill = self._router.service, await self._router.access.meters.open(grant)
        shared = service.args.cache.scope == "shared"
        scope, stamps = "" if shared else grant.name, http_request.stamps
        caller = Caller(grant.models, bill, client, scope, grant.name, grant.weight, stamps=stamps)
        with billed(bill):
            request, incoming = await self._request(grant, http_request, client)
            # The dispatcher enforces the deadline; this limit holds if nothing reached it.
            limit_s, watched = service.args.limits.request_timeout_s, http_request.watched
            try:
                if explain:
                    planned = asgi.attended(
                        service.plan(request, caller), limit_s + LATE_S, watched
                    )
                    plan = await planned
                    if bill is not None:  # the text was read, as for an embedding
                        await bill.charge(plan.tokens_once_cut)
                    return HttpAnswer(200, self._router.views.explanation(plan))
                room = partial(self._check_room, client, incoming.bytes_each)
                work = service.embed(request, caller._replace(room=room))
                answer = await asgi.attended(work, limit_s + LATE_S, watched)
            except TimeoutError:
                raise DeadlineExceeded(limit_s) from None
        size = encoding.estimated_bytes(
            len(answer.vectors), answer.vectors.shape[1], incoming.bytes_each
        )
        held = self._held(client, size, bill)
        if bill is not None:
            bill.answered(answer.prompt_tokens)
        give_back(size)
        try:
            if size <= (BULK_OFF_LOOP_BYTES if request.priority == "bulk" else OFF_LOOP_BYTES):
                made = embeddings(answer, service.catalogue, incoming.write, http_request.id)
            else:
                async with self._large:
                    made = await asyncio.to_thread(
                        embeddings, answer, service.catalogue, incoming.write, http_request.id
                    )
                await service.reader.pool.turns.next()
        except BaseException:
            held.release()
            raise
        return made._replace(held=held)

    async def _rerank(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        service = self._router.service
        limits, shared = service.args.limits, service.args.cache.scope == "shared"
        client = f"key {grant.name}" if grant.name else asgi.client_of(http_request, limits)
        with self._gate.passed(client, limits):
            bill = await self._router.access.meters.open(grant)
            scope, address = "" if shared else grant.name, http_request.address
            caller = Caller(
                grant.models,
                bill,
                client,
                scope,
                grant.name,
                grant.weight,
                stamps=http_request.stamps,
                collection="" if address is None else address.collection,
            )
            with billed(bill):
                body = await self._body(http_request, client)
                data = read_object(body, limits)
                http_request.errors = errors_of(data)
                form = form_of(data)
                context = context_of(self._router.reranking, service, grant, http_request.headers)
                request = form.read(data, context, grant.ignores(limits))
                http_request.ignored = request.ignored
                grant.check(request.common)
                work = self._router.reranking.rerank(request, caller)
                limit_s = limits.request_timeout_s
                try:
                    ranking = await asgi.attended(work, limit_s + LATE_S, http_request.watched)
                except TimeoutError:
                    raise DeadlineExceeded(limit_s) from None
            made = form.write(request, ranking, http_request.id)
            held = self._held(client, len(made.body), bill)
            if bill is not None:
                bill.answered(ranking.prompt_tokens)
            return made._replace(held=held)

    def _check_room(self, client: str, bytes_each: float, texts: int, dimensions: int) -> None:
        """Refuse an answer that cannot be sent, before its vectors are made."""
        size = encoding.estimated_bytes(texts, dimensions, bytes_each)
        self._outgoing.check(client, size, self._router.service.args.limits)

    def _held(self, client: str, size: int, bill: Charge | None) -> Held:
        """Count the answer among those being sent; raises RateLimitExceeded."""
        try:
            return self._outgoing.hold(client, size, self._router.service.args.limits)
        except RateLimitExceeded as error:
            error.counted = True  # the service counted it as answered
            if bill is not None:
                bill.failed(error.status)
            raise

    async def _body(self, http_request: HttpRequest, client: str) -> bytes:
        """The body of an inference request; a large gzip one takes a turn of its client."""
        limits, pool = self._router.service.args.limits, self._router.service.reader.pool
        return await bodies.body(
            http_request,
            limits.max_body_bytes,
            limits.body_timeout_s,
            limits.max_gzip_ratio,
            partial(pool.admit, client, INFLATED_CHARACTERS),
        )

    async def _request(
        self, caller: Grant, http_request: HttpRequest, client: str
    ) -> tuple[EmbeddingsRequest, Incoming]:
        """Read the request, and how its answer is written."""
        service = self._router.service
        limits = service.args.limits
        body = await self._body(http_request, client)
        context = Context(
            service.catalogue,
            http_request.headers,
            limits,
            http_request.address,
            caller.defaults,
            caller.default_priority,
            caller.check_space,
        )
        ignore = caller.ignores(limits)
        (route, *_) = TABLE.find(http_request.path)
        name = route.parameter(http_request.path)
        incoming = FORMS.get(route.handler, OPENAI).read(body, limits, ignore, name)
        http_request.ignored = incoming.given.ignored
        request = settled(incoming.given, context)
        caller.check(request)
        return request, incoming


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
