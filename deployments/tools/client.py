"""A client of a running router for the command line tools.

It sends bulk requests, waits while the router is busy, and expects vectors of one space only.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click
import httpx
import numpy as np
import orjson
import pybase64

from deployments.tools.errors import ToolError
from router.arrays import Vectors
from router.routes import EMBEDDINGS

BASE_URL = "http://127.0.0.1:8000"
VIEW_TIMEOUT_S = 30.0  # for requests that need no model
# above the router's own limit, so that the router reports what took so long
TIMEOUT_S = 330.0
PATIENCE_S = 600.0  # a tool gives up after this long without an answer
LONGEST_WAIT_S = 30.0
TRANSIENT = (429, 500, 502, 503, 504)
START_ROUTER = "start one with `embedding-router run`, or name another with --base-url"
CHECK_ADDRESS = "is a router there?"
FRESH = {"cache-control": "no-cache"}  # ask for vectors that no cache holds


class BaseUrl(click.ParamType[str]):
    """A click type for the address of a router."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the address as given; fail unless it has a scheme, http or https, and a host."""
        try:
            url = httpx.URL(str(value))
            valid = url.scheme in ("http", "https") and bool(url.host)
        except httpx.InvalidURL:
            valid = False
        if not valid:
            self.fail(
                f"{value!r} is no address of a router, which looks like {BASE_URL}", param, ctx
            )
        return str(value)


class RequestRefused(ToolError):
    """The router refused a request, and sending it again would not help.

    The message is the router's.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; None: the answer was not a router's


class RouterAway(ToolError):
    """The router does not respond, or has refused every request for a long time."""


class EmbeddingAnswer(NamedTuple):
    """The answer to one request."""

    vectors: Vectors
    space: str
    adapter: str | None  # source space of the adapter, if the vectors came over one
    tokens: int  # read by the model
    cached: int = 0  # texts that no model read for this request


class ServiceClient:
    """A client of one router that retries transient failures for up to PATIENCE_S.

    A router that has answered before can be away for a while, as during a restart, so the client
    waits. If no connection was ever made, there is probably no router, and RouterAway is raised at
    once.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        has_answered: bool = False,
        fresh: bool = False,
    ) -> None:
        """`has_answered`: the router answered before this client was made.

        `fresh`: a model must make every vector now, because its weights are judged by them.
        """
        self._url = base_url.rstrip("/").removesuffix("/v1")
        self._has_answered, self._is_waited_for = has_answered, False
        headers = {"content-type": "application/json"} | (
            {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        )
        self._fresh = fresh
        if fresh:
            headers |= FRESH
        self._http = httpx.AsyncClient(
            base_url=self._url, headers=headers, timeout=TIMEOUT_S, transport=transport
        )

    async def __aenter__(self) -> "ServiceClient":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def tiers(self) -> dict[str, Any]:
        """GET /v1/tiers; raises RequestRefused or RouterAway."""
        answer = await self._patiently(lambda: self._http.get("/v1/tiers"))
        try:
            tiers: dict[str, Any] = answer.json()
        except ValueError:
            raise RequestRefused(
                f"{self._url}/v1/tiers did not answer JSON; {CHECK_ADDRESS}"
            ) from None
        return tiers

    async def fingerprints(self) -> dict[str, str | None]:
        """Return the current fingerprints by model; raises RequestRefused or RouterAway."""
        return {row["model"]: row["fingerprint"] for row in (await self.tiers())["data"]}

    async def policy(self) -> str | None:
        """GET /v1/what-if: the rules and tiers in force as YAML; None if the key cannot read them.

        Raises RouterAway.
        """
        try:
            return (await self._patiently(lambda: self._http.get("/v1/what-if"))).text
        except RequestRefused:
            return None

    async def route(self, texts: Sequence[str], **options: Any) -> dict[str, Any]:
        """POST /v1/route: features, tokens and predicted times, without embedding.

        Raises RequestRefused or RouterAway.
        """
        body = orjson.dumps({"input": list(texts), "priority": "bulk", **options})
        answer = await self._patiently(lambda: self._http.post("/v1/route", content=body))
        routed: dict[str, Any] = answer.json()
        return routed

    async def embed(self, texts: Sequence[str], **options: Any) -> EmbeddingAnswer:
        """Embed texts as bulk requests; `options` are those of the API.

        Raises RequestRefused, also where a fresh client is answered from a cache, or RouterAway.
        """
        body = orjson.dumps(
            {"input": list(texts), "priority": "bulk", "encoding_format": "base64", **options}
        )
        answer = orjson.loads(
            (await self._patiently(lambda: self._http.post(EMBEDDINGS[0], content=body))).content
        )
        rows = [
            np.frombuffer(pybase64.b64decode(row["embedding"]), "<f4") for row in answer["data"]
        ]
        adapter, cached = answer["routing"].get("adapter"), answer["routing"].get("cached", 0)
        if self._fresh and cached:
            raise RequestRefused(
                f"{self._url} answered {cached} of {len(texts)} texts from its cache, which may "
                "hold vectors of other weights, although the request had `Cache-Control: "
                "no-cache`: update the router, start it with `cache: {max_bytes: 0}`, or give "
                "--config instead of --base-url"
            )
        tokens = answer["usage"]["prompt_tokens"]
        return EmbeddingAnswer(
            np.stack(rows),
            answer["routing"]["space"],
            adapter and adapter["source"],
            tokens,
            cached,
        )

    async def embed_plain(self, texts: Sequence[str], model: str) -> Vectors:
        """Embed texts with only the options that every OpenAI-compatible server has.

        Raises RequestRefused, also for another number of vectors than texts, or RouterAway.
        """
        body = orjson.dumps({"input": list(texts), "model": model})
        answer = await self._patiently(lambda: self._http.post("/v1/embeddings", content=body))
        try:
            rows = sorted(answer.json()["data"], key=lambda row: int(row["index"]))
            vectors = np.array([row["embedding"] for row in rows], np.float32)
        except (ValueError, KeyError, TypeError):
            raise RequestRefused(f"{self._url}/v1/embeddings did not answer embeddings") from None
        if len(vectors) != len(texts):
            raise RequestRefused(
                f"{self._url}/v1/embeddings answered {len(vectors)} embeddings for {len(texts)} "
                "texts"
            )
        return vectors

    async def _patiently(self, send: "Callable[[], Any]") -> httpx.Response:
        """Call `send` until it succeeds, with growing pauses while the router is away or busy.

        Raises RequestRefused or RouterAway.
        """
        wait_s, until_s = 0.5, time.monotonic() + PATIENCE_S
        while True:
            try:
                answer: httpx.Response = await send()
            except httpx.TransportError as error:
                if not self._has_answered and isinstance(
                    error, httpx.ConnectError | httpx.ConnectTimeout
                ):
                    raise RouterAway(
                        f"no router answers at {self._url} ({error}); {START_ROUTER}"
                    ) from None
                failure = f"{type(error).__name__}: {error}"
                if not self._is_waited_for:  # once, not for every request in flight
                    self._is_waited_for = True
                    click.echo(
                        f"\n{self._url} does not answer ({failure}); trying for up to "
                        f"{PATIENCE_S / 60:.0f} min",
                        err=True,
                    )
            else:
                self._has_answered, self._is_waited_for = True, False
                if answer.status_code == httpx.codes.OK:
                    return answer
                failure = _message(answer)
                if answer.status_code not in TRANSIENT:
                    raise RequestRefused(failure, answer.status_code)
                wait_s = max(wait_s, _retry_after_s(answer))
            if time.monotonic() + wait_s > until_s:
                raise RouterAway(
                    f"no answer from {self._url} for {PATIENCE_S:.0f} s; the last was: {failure}"
                )
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{answer.url} answered {answer.status_code}; {CHECK_ADDRESS}"


def _retry_after_s(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("retry-after", 0))
    except ValueError:
        return 0.0


def send_request(
    base_url: str, path: str, api_key: str | None, body: bytes | None, no_router: str
) -> bytes:
    """Send a GET, or a POST of `body`, to a running router and return the answer.

    Raises click.ClickException with the router's message. `no_router` is the advice to give if no
    router responds.
    """
    headers = {"content-type": "application/json"} | (
        {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    )
    url = base_url.rstrip("/").removesuffix("/v1") + path
    try:
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, url, content=body, headers=headers, timeout=VIEW_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(
            f"no router answers at {base_url} ({error}); {no_router}"
        ) from None
    if answer.status_code != httpx.codes.OK:
        try:
            message = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{url} answered {answer.status_code}; {CHECK_ADDRESS}"
        raise click.ClickException(message)
    return answer.content
