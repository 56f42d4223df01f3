"""HTTP handlers of OpenAI's files and batches and of the usage of keys, and the lines of batches as
requests of the service.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from pydantic import BaseModel

from deployments.ingress import asgi, bodies
from deployments.ingress.asgi import HttpAnswer, HttpRequest, Message
from deployments.ingress.routes import TABLE
from deployments.ingress.uploads import receive_file
from deployments.service.batches.runner import LineAnswer, Runner
from deployments.service.batches.store import BatchStore
from deployments.service.service import Service
from deployments.service.use_log import UseLog
from deployments.telemetry.logs import REQUEST_IDS, where
from router import config
from router.admission import RETRY_AFTER_S
from router.batch_lines import METHOD
from router.batch_objects import (
    BatchList,
    BatchObject,
    FileDeleted,
    FileList,
    FileObject,
    Page,
)
from router.batches import ENDPOINT, parse_batch, switched_off
from router.error_base import retry_after
from router.errors import (
    InternalError,
    InvalidValue,
    ModelUnavailable,
    Overloaded,
    PriorityNotAllowed,
    RouterError,
    UnknownField,
    render,
)
from router.keys import Grant
from router.usage import parse_usage

MAX_BODY_BYTES = 64 * 1024
FOLDER_KEY = "batches.folder"
BATCHES, MAX_BATCHES = 20, 100  # in one list
MAX_FILES = 10_000

log = logging.getLogger("ray.serve")
Handler = Callable[[Grant, HttpRequest], Awaitable[HttpAnswer]]


class HasBatches(Protocol):
    """The parts of the router that the handlers use."""

    service: Service
    batches: BatchStore | None  # None where the config names no folder
    use_log: UseLog


class BatchHandlers:
    """The handlers of files, batches and usage, by their names in router/routes.py."""

    def __init__(self, router: HasBatches) -> None:
        self._router = router
        self.handlers: dict[str, Handler] = {
            "upload_file": self._upload,
            "files": self._files,
            "file": self._file,
            "file_content": self._content,
            "delete_file": self._delete,
            "create_batch": self._create,
            "batches": self._batches,
            "batch": self._batch,
            "cancel_batch": self._cancel,
            "usage": self._usage,
        }

    @property
    def _store(self) -> BatchStore:
        store = self._router.batches
        if store is None:
            raise switched_off("files and batches", FOLDER_KEY)
        return store

    async def _upload(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        store, limits = self._store, self._router.service.args.limits
        _require_bulk(grant)
        ignore = grant.ignores(limits)
        return _json(await receive_file(http_request, limits, store, grant.name, ignore))

    async def _files(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        store, query = self._store, _query(http_request, ("after", "limit", "order", "purpose"))
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidValue("order must be asc or desc", "order")
        limit = _limit(query, MAX_FILES, MAX_FILES)
        found, more = await asyncio.to_thread(
            store.files.page,
            grant.name,
            query.get("after"),
            limit,
            order == "desc",
            query.get("purpose"),
        )
        return _page(FileList, found, more)

    async def _file(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        id = _id(http_request)
        file = await asyncio.to_thread(self._store.files.get, grant.name, id)
        return _json(file)

    async def _content(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        id = _id(http_request)
        _, stream = await asyncio.to_thread(self._store.files.open, grant.name, id)
        size = os.fstat(stream.fileno()).st_size
        headers = {"content-length": str(size)}
        return HttpAnswer(200, b"", "application/jsonl", headers, stream=stream)

    async def _delete(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        id = _id(http_request)
        await asyncio.to_thread(self._store.delete_file, grant.name, id)
        return _json(FileDeleted(id=id))

    async def _create(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        store, limits = self._store, self._router.service.args.limits
        _require_bulk(grant)
        body = await bodies.body(http_request, MAX_BODY_BYTES, limits.body_timeout_s)
        address = str(http_request.address or "")
        given, http_request.ignored = parse_batch(body, grant.ignores(limits))
        return _json(await asyncio.to_thread(store.create, grant, given, address))

    async def _batches(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        store, query = self._store, _query(http_request, ("after", "limit"))
        limit = _limit(query, BATCHES, MAX_BATCHES)
        found, more = await asyncio.to_thread(store.page, grant.name, query.get("after"), limit)
        return _page(BatchList, found, more)

    async def _batch(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        id = _id(http_request)
        return _json(await asyncio.to_thread(self._store.get, grant.name, id))

    async def _cancel(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        id = _id(http_request)
        return _json(await asyncio.to_thread(self._store.cancel, grant.name, id))

    async def _usage(self, grant: Grant, http_request: HttpRequest) -> HttpAnswer:
        log = self._router.use_log
        query = asgi.query_list(http_request.scope)
        asked = parse_usage(query, log.clock(), grant.name, grant.admin, http_request.path)
        return _json(await log.answer(asked))


class AnswersEmbeddings(Protocol):
    """An application that answers embedding requests that came without a socket."""

    async def embed_line(
        self, grant: Grant, http_request: HttpRequest, client: str
    ) -> HttpAnswer: ...

    def refused(self, error: RouterError, path: str) -> None: ...


class Lines:
    """The lines of batches as embedding requests of the batches' keys."""

    def __init__(self, application: AnswersEmbeddings) -> None:
        self._application = application

    async def __call__(self, grant: Grant, body: bytes, address: str) -> LineAnswer:
        """Answer one line; errors are rendered as they would be sent."""
        scope = {"type": "http", "method": METHOD, "path": f"{address}{ENDPOINT}", "headers": []}
        http_request = HttpRequest(scope, _nothing_more, False, body)
        REQUEST_IDS.set((http_request.id,))
        try:
            # a separate client: lines of a batch do not queue ahead of requests of its key
            client = f"batches of key {grant.name}"
            answer = await self._application.embed_line(grant, http_request, client)
        except RouterError as error:
            self._application.refused(error, ENDPOINT)
            sent = isinstance(error, ModelUnavailable) and error.sent
            headers = error.headers
            if isinstance(error, Overloaded) and not error.at_server:
                headers = retry_after(RETRY_AFTER_S)  # a look at a queue of this process is cheap
            return LineAnswer(error.status, headers, render(error), http_request.id, sent)
        except Exception as error:
            log.error("request %s of a batch failed:\n%s", http_request.id, where(error))
            failed = InternalError()
            return LineAnswer(failed.status, {}, render(failed), http_request.id)
        held = answer.held
        release = (lambda: None) if held is None else held.release
        headers = dict(answer.headers)
        return LineAnswer(answer.status, headers, answer.body, http_request.id, release=release)


def runner_of(
    store: BatchStore,
    settings: config.Batches,
    limits: config.Limits,
    application: AnswersEmbeddings,
) -> Runner:
    """Create the runner of the batches of a store in this router."""
    lines = settings.lines_in_flight
    return Runner(store, Lines(application), limits.max_body_bytes, lines)


async def _nothing_more() -> Message:
    """Never return: the body is complete, and no client can disconnect."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def _require_bulk(grant: Grant) -> None:
    """Raise PriorityNotAllowed if the key is not allowed to run batches."""
    if grant.priorities is not None and "bulk" not in grant.priorities:
        raise PriorityNotAllowed.of_batches(grant.priorities)


def _id(http_request: HttpRequest) -> str:
    return TABLE.find(http_request.path)[0].parameter(http_request.path)


def _query(http_request: HttpRequest, names: tuple[str, ...]) -> Mapping[str, str]:
    query = asgi.query(http_request.scope)
    for name in query:
        if name not in names:
            raise UnknownField(name, names)
    return query


def _limit(query: Mapping[str, str], usual: int, most: int) -> int:
    given = query.get("limit", str(usual))
    if not given.isdecimal() or len(given) > 9 or not 1 <= int(given) <= most:
        raise InvalidValue(f"limit must be a number from 1 to {most}", "limit")
    return int(given)


def _page(kind: type[Page], data: Sequence[FileObject | BatchObject], more: bool) -> HttpAnswer:
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return _json(kind(data=data, first_id=first, last_id=last, has_more=more))  # type: ignore[call-arg]


def _json(value: BaseModel) -> HttpAnswer:
    return HttpAnswer(200, value.model_dump_json().encode())
