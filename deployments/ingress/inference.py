"""Answer the requests that models serve: embeddings, rankings, and explanations of a decision."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, get_args

from deployments.ingress import asgi, bodies
from deployments.ingress.advice import advised, name_rankings
from deployments.ingress.asgi import HttpAnswer, HttpRequest
from deployments.ingress.auth import Access
from deployments.ingress.known_requests import KnownRequest, KnownRequests, Sent
from deployments.ingress.outgoing import Held, Outgoing
from deployments.ingress.rate_limits import Charge
from deployments.ingress.rerank import context_of, errors_of, form_of
from deployments.ingress.routes import TABLE
from deployments.ingress.shapes import embeddings
from deployments.ingress.unanswered import settled_on_failure
from deployments.ingress.views import Views
from deployments.service.memory import give_back
from deployments.service.plan import Caller
from deployments.service.prepare import fresh_scope
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from router import encoding
from router.errors import DeadlineExceeded, Overloaded, RateLimitExceeded, UnknownField
from router.keys import Grant
from router.rerank_schema import read_object
from router.schema import Priority
from router.settings import SETTING_HEADERS, Context, settled
from router.shapes.openai import OPENAI
from router.shapes.table import FORMS

LATE_S = 1.0  # extra time for the answer to a missed deadline
OFF_LOOP_BYTES = 1_000_000  # 5 ms as JSON; larger answers are written in a thread
LARGE_BODY_BYTES = 32 * 1024  # a body of fewer is parsed in less than a millisecond
BULK_OFF_LOOP_BYTES = 128 * 1024  # lower, as no user waits for these
INFLATED_CHARACTERS = 50_000  # what inflating a body counts as among texts that are read
CACHE_CONTROL, NO_CACHE = "cache-control", "no-cache"
CACHE_LINE = CACHE_CONTROL.encode()  # a client or a proxy can send several of it


class HasModels(Protocol):
    """The parts of the router that the handlers use."""

    service: Service
    reranking: Reranking
    views: Views
    access: Access


class Inference:
    """The handlers of requests that models serve, by their names in router/routes.py."""

    def __init__(self, router: HasModels) -> None:
        self._router = router
        self._gate, self._outgoing, self._known = asgi.Gate(), Outgoing(), KnownRequests()
        # writing numbers holds the interpreter: one answer of each priority is written at a time
        self._large = {priority: asyncio.Lock() for priority in get_args(Priority)}
        self.handlers: dict[str, Callable[[Grant, HttpRequest], Awaitable[HttpAnswer]]] = {
            **dict.fromkeys(FORMS, partial(self._limited, explain=False)),
            "rerank": self._rerank,
            "explain": partial(self._limited, explain=True),
        }

    async def _limited(self, caller: Grant, http_request: HttpRequest, explain: bool) -> HttpAnswer:
        limits = self._router.service.args.limits
        client = f"key {caller.name}" if caller.name else asgi.client_of(http_request, limits)
        self._gate.enter(client, limits)
        try:
            return await self._charged(caller, http_request, client, explain)
        finally:
            self._gate.leave(client)

    async def embed_line(self, grant: Grant, http_request: HttpRequest, client: str) -> HttpAnswer:
        """Answer one line of a batch (deployments/ingress/batches.py); raises RouterError."""
        return await self._charged(grant, http_request, client, explain=False)

    async def _charged(
        self, grant: Grant, http_request: HttpRequest, client: str, explain: bool
    ) -> HttpAnswer:
        """Answer a request that counts against its key's limits; a caller who leaves before the
        answer still pays.
        """
        service, charge = self._router.service, await self._router.access.rate_limiter.open(grant)
        scope, stamps = self._scope(grant, http_request), http_request.stamps
        with settled_on_failure(charge):
            request, incoming = await self._request(grant, http_request, client, explain)
            room = partial(self._check_room, client, incoming.bytes_each)
            caller = Caller(
                grant.models, charge, client, scope, grant.name, grant.weight, room, stamps
            )
            # The dispatcher enforces the deadline; this limit holds if nothing reached it.
            limit_s, watched = service.args.limits.request_timeout_s, http_request.watched
            try:
                if explain:
                    planned = asgi.attended(
                        service.plan(request, caller), limit_s + LATE_S, watched
                    )
                    plan = await planned
                    if charge is not None:  # the text was read, as for an embedding
                        await charge.take(plan.tokens_once_cut)
                    return HttpAnswer(200, self._router.views.explanation(plan))
                work = service.embed(request, caller)
                answer = await asgi.attended(work, limit_s + LATE_S, watched)
            except Overloaded as error:
                raise advised(error, request, grant) from None
            except TimeoutError:
                raise DeadlineExceeded(limit_s) from None
        size = encoding.estimated_bytes(
            len(answer.vectors), answer.vectors.shape[1], incoming.bytes_each
        )
        held = self._held(client, size, charge)
        if charge is not None:
            charge.answered(answer.prompt_tokens)
        give_back(size)
        try:
            write = partial(
                embeddings, answer, service.catalogue, incoming.write, http_request.id, held
            )
            if size <= (BULK_OFF_LOOP_BYTES if request.priority == "bulk" else OFF_LOOP_BYTES):
                return write()
            async with self._large[request.priority]:
                made = await asyncio.to_thread(write)
            await service.reader.pool.turns.next()
            return made
        except BaseException:
            held.release()
            raise

    async def _rerank(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        service = self._router.service
        limits = service.args.limits
        client = f"key {grant.name}" if grant.name else asgi.client_of(http_request, limits)
        self._gate.enter(client, limits)
        try:
            charge = await self._router.access.rate_limiter.open(grant)
            scope, address = self._scope(grant, http_request), http_request.address
            caller = Caller(
                grant.models,
                charge,
                client,
                scope,
                grant.name,
                grant.weight,
                stamps=http_request.stamps,
                collection="" if address is None else address.collection,
            )
            with settled_on_failure(charge):
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
                except Overloaded as error:
                    raise advised(error, request.common, grant) from None
                except TimeoutError:
                    raise DeadlineExceeded(limit_s) from None
            made = form.write(request, ranking, http_request.id)
            held = self._held(client, len(made.body), charge)
            if charge is not None:
                charge.answered(ranking.prompt_tokens)
            return made._replace(held=held)
        finally:
            self._gate.leave(client)

    def _scope(self, grant: Grant, http_request: HttpRequest) -> str:
        """Return the scope whose cached vectors can answer a request."""
        scope = "" if self._router.service.args.cache.scope == "shared" else grant.name
        if CACHE_CONTROL not in http_request.headers:
            return scope
        lines = [value for name, value in http_request.scope["headers"] if name == CACHE_LINE]
        return fresh_scope(scope) if refuses_cache(b",".join(lines).decode("latin-1")) else scope

    def _check_room(self, client: str, bytes_each: float, texts: int, dimensions: int) -> None:
        """Refuse an answer that cannot be sent, before its vectors are made."""
        size = encoding.estimated_bytes(texts, dimensions, bytes_each)
        self._outgoing.check(client, size, self._router.service.args.limits)

    def _held(self, client: str, size: int, charge: Charge | None) -> Held:
        """Count the answer among those being sent; raises RateLimitExceeded."""
        try:
            return self._outgoing.hold(client, size, self._router.service.args.limits)
        except RateLimitExceeded as error:
            error.counted = True  # the service counted it as answered
            if charge is not None:
                charge.failed(error.status)
            raise

    async def _body(self, http_request: HttpRequest, client: str) -> bytes:
        """The body of an inference request; inflating a large one counts as reading of its client,
        and parsing a large one, which comes next, is a turn on the event loop.
        """
        limits, pool = self._router.service.args.limits, self._router.service.reader.pool
        body = await bodies.body(
            http_request,
            limits.max_body_bytes,
            limits.body_timeout_s,
            limits.max_gzip_ratio,
            partial(pool.admit, client, INFLATED_CHARACTERS),
        )
        if len(body) > LARGE_BODY_BYTES:
            await pool.turns.next()
        return body

    async def _request(
        self, caller: Grant, http_request: HttpRequest, client: str, explain: bool
    ) -> KnownRequest:
        """Read the request, and how its answer is written."""
        service = self._router.service
        body, headers = await self._body(http_request, client), http_request.headers
        given = tuple([(name, headers[name]) for name in SETTING_HEADERS if name in headers])
        sent = Sent(body, http_request.path, http_request.address, given, caller.name)
        read = self._known.find(sent, caller, service.catalogue)
        if read is not None:
            http_request.ignored = read.incoming.given.ignored
            return read
        limits = service.args.limits
        context = Context(
            service.catalogue,
            dict(given),
            limits,
            http_request.address,
            caller.defaults,
            caller.default_priority,
            caller.check_space,
        )
        (route, *_) = TABLE.find(http_request.path)
        form, name = FORMS.get(route.handler, OPENAI), route.parameter(http_request.path)
        try:
            incoming = form.read(body, limits, caller.ignores(limits), name)
        except UnknownField as error:
            name_rankings(error, explain)
            raise
        http_request.ignored = incoming.given.ignored
        read = KnownRequest(settled(incoming.given, context), incoming)
        caller.check(read.request)
        self._known.keep(sent, caller, read)
        return read


def refuses_cache(directives: str) -> bool:
    """Whether the header `Cache-Control` of a request has the directive `no-cache`."""
    return NO_CACHE in (directive.strip().lower() for directive in directives.split(","))
