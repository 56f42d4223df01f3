"""Any OpenAI-compatible embeddings server as an engine: SGLang, TEI, `vllm serve`, a hosted one.

The server is not trusted. A reply must have one vector of the right width for every text, in any
order that `index` gives; otherwise the batch fails with a message. Texts of many callers are sent
together. A batch that the server refuses is sent again in halves until only the invalid text fails.
Vectors are sent as base64 float32 if the server supports it. Cancelling closes the connection of
the request, and servers then drop its work.

Servers report the tokens of a request, not of each text. The sum is divided by length; without a
sum, a text counts one token per four characters.

Errors reach callers. They contain neither the server's address nor its messages, except messages
about the text itself; the replica's log has both.
"""

import asyncio
import base64
import logging
import os
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import accumulate, pairwise
from typing import Any

import httpx
import numpy as np
import orjson

from deployments.engines.base import (
    Batch,
    Embedded,
    EngineDead,
    EngineError,
    EngineOverloaded,
    EngineUnreachable,
    InvalidText,
    Setup,
)
from deployments.engines.common import normalise, probe
from router import engine_config
from router.arrays import Vectors

_LONGEST_RETRY_S = 3600.0

log = logging.getLogger("ray.serve")


class Refused(EngineError):
    """The server refused the request itself as invalid."""


def create(settings: engine_config.RemoteEngineConfig, setup: Setup) -> "RemoteEngine":
    """Create the engine without starting it."""
    return RemoteEngine(settings, setup.dimensions, setup.max_tokens, setup.batch_tokens)


class RemoteEngine:
    """A client of one server and model."""

    _made = "vectors"  # what the server returns for texts

    def __init__(
        self,
        settings: engine_config.RemoteEngineConfig,
        dimensions: int,
        max_tokens: int,
        batch_tokens: int,
    ) -> None:
        self.dimensions, self.max_tokens, self.batch_tokens = dimensions, max_tokens, batch_tokens
        self._settings, self.timeout_s = settings, settings.timeout_s
        self._where = f"{settings.base_url} ({settings.model})"
        self._client: httpx.AsyncClient | None = None
        self._queued_tokens = 0

    async def start(self) -> None:
        """Open the connection pool and embed a word; raises EngineError with the server's reply."""
        headers = {"Content-Type": "application/json"}
        if (name := self._settings.api_key_env) is not None:
            if not (key := os.environ.get(name)):
                raise EngineError(f"engine.api_key_env: the environment variable {name} is not set")
            headers["Authorization"] = f"Bearer {key}"
        limit = self._settings.max_connections
        self._client = httpx.AsyncClient(
            base_url=self._settings.base_url,
            headers=headers,
            timeout=None,  # _post limits the whole exchange; httpx would limit each read
            limits=httpx.Limits(max_connections=limit, max_keepalive_connections=limit),
        )
        try:
            await self.check_health()
        except EngineError as error:  # operators read this one, so it has the address
            await self.stop()
            kind = EngineUnreachable if isinstance(error, EngineUnreachable) else EngineError
            raise kind(f"{self._where}: {error}") from error

    async def embed(self, batch: Batch) -> Embedded:
        """Send the texts in one request; texts that the server refuses fail alone."""
        if batch.texts is None:
            raise EngineError("a remote engine takes text, not token ids")
        guess = sum(map(_guess, batch.texts))
        self._queued_tokens += guess
        try:
            answer = await self._embed(list(batch.texts))
        finally:
            self._queued_tokens -= guess
        answer.failed = self._unusable(answer.vectors) | answer.failed
        return answer

    def _unusable(self, vectors: Vectors) -> dict[int, EngineError]:
        """Prepare the rows for the answer, in place; returns the unusable ones."""
        return normalise(vectors)

    async def _refuses_all(self, texts: list[str]) -> bool:
        """Whether the server refuses what all texts of a refused request share."""
        return False

    async def _embed(self, texts: list[str], first: bool = True) -> Embedded:
        """Send the texts; `first` is false for a part of a request that was refused."""
        if not texts:
            return Embedded(np.empty((0, self.dimensions), np.float32), [])
        try:
            reply = await self._post(texts)
        except Refused as error:
            if len(texts) == 1 or (first and await self._refuses_all(texts)):
                return Embedded(
                    np.ones((len(texts), self.dimensions), np.float32),
                    list(map(_guess, texts)),
                    {row: InvalidText(str(error)) for row in range(len(texts))},
                )
            middle = len(texts) // 2
            left = await self._embed(texts[:middle], False)
            right = await self._embed(texts[middle:], False)
            failed = left.failed | {middle + row: reason for row, reason in right.failed.items()}
            return Embedded(
                np.concatenate([left.vectors, right.vectors]), left.tokens + right.tokens, failed
            )
        try:
            return Embedded(self._vectors(self._data(reply), len(texts)), _tokens(reply, texts))
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise EngineError(
                f"its server answered nonsense: {type(error).__name__}: {error}"
            ) from error

    def _request(self, texts: list[str]) -> tuple[str, dict[str, Any]]:
        """The path below base_url, and the request body."""
        model = self._settings.model
        return "embeddings", {"model": model, "input": texts, "encoding_format": "base64"}

    def _data(self, reply: Any) -> Any:
        """The list in a reply with an entry for each text."""
        return reply["data"]

    async def _post(self, texts: list[str]) -> Any:
        if self._client is None:
            raise EngineDead("the connection to the server was closed")
        path, request = self._request(texts)
        body = orjson.dumps(request)
        try:
            async with asyncio.timeout(self.timeout_s):
                response = await self._client.post(path, content=body)
        except TimeoutError as error:
            log.warning("%s did not answer within %g s", self._where, self.timeout_s)
            raise EngineUnreachable(
                f"its server did not answer within {self.timeout_s:g} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.warning("%s cannot be reached: %s: %s", self._where, type(error).__name__, error)
            raise EngineUnreachable(
                f"its server cannot be reached: {type(error).__name__}"
            ) from error
        status, text_start = response.status_code, response.text[:300]
        if status == 429:
            after_s = _retry_after_s(response.headers)
            raise EngineOverloaded(f"its server is overloaded: retry after {after_s:g} s", after_s)
        if status in (400, 413, 422):
            raise Refused(f"its server refused the text with {status}: {self._masked(text_start)}")
        if status != 200:
            log.warning("%s answered %d: %s", self._where, status, text_start)
            if status >= 500:  # a proxy sends 502 to 504 when its server is unavailable
                reached = status not in (502, 503, 504)
                raise EngineUnreachable(f"its server answered {status}", reached)
            raise EngineError(f"its server answered {status}")
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            log.warning("%s answered something that is not JSON: %r", self._where, text_start)
            raise EngineError("its server answered something that is not JSON") from error

    def _masked(self, text_start: str) -> str:
        """The server's message without its address."""
        url = httpx.URL(self._settings.base_url)
        for part in (str(url), url.netloc.decode("ascii", "replace"), url.host):
            text_start = text_start.replace(part, "...") if part else text_start
        return text_start

    def _vectors(self, data: Any, texts: int) -> Vectors:
        """The vectors in the order of `index`; raises ValueError, KeyError or TypeError for an
        invalid reply.
        """
        places = self._places(data, texts)
        vectors = np.empty((texts, self.dimensions), np.float32)
        for item, place in zip(data, places, strict=True):
            embedding = item["embedding"]
            if isinstance(embedding, str):
                row = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
            else:
                row = np.array(embedding, np.float32)
            if row.shape != (self.dimensions,):
                raise ValueError(
                    f"a vector of shape {row.shape}, the config says dimensions: {self.dimensions}"
                )
            vectors[place] = row
        return vectors

    def _places(self, data: Any, texts: int) -> list[int]:
        """The index of each entry; raises ValueError unless the indices match the texts."""
        places = [item["index"] for item in data]
        # Python treats 0.0 and false as 0, and numpy treats false as a mask.
        if any(type(place) is not int for place in places) or sorted(places) != list(range(texts)):
            raise ValueError(
                f"{len(data)} {self._made} for {texts} texts, an index twice, or one that is no "
                "whole number"
            )
        return places

    def queued_tokens(self) -> int:
        """Tokens of the texts that wait for the server, estimated as one per four characters."""
        return self._queued_tokens

    async def check_health(self) -> None:
        """Embed a word; a 429 counts as healthy.

        Never raises EngineDead while running, because the server can come back.
        """
        await self._probe(Batch(texts=["health"]))

    async def _probe(self, batch: Batch) -> None:
        with suppress(EngineOverloaded):
            await probe(self.embed, batch)

    async def stop(self) -> None:
        """Close all connections, including those in use."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()


def _retry_after_s(headers: httpx.Headers) -> float:
    """Seconds from `retry-after-ms` or `Retry-After`, which can be a date; 1 without either."""
    for name, unit_s in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        given = headers.get(name, "")
        with suppress(ValueError):
            after_s = float(given) * unit_s
            if 0 <= after_s < _LONGEST_RETRY_S:
                return after_s
        with suppress(ValueError):
            at = parsedate_to_datetime(given)
            return min(max(0.0, (at - datetime.now(at.tzinfo)).total_seconds()), _LONGEST_RETRY_S)
    return 1.0


def _guess(text: str) -> int:
    return -(-len(text) // 4)


def _tokens(reply: Any, texts: list[str]) -> list[int]:
    """Divide the request's tokens by text length, so that they add up to the server's count."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return list(map(_guess, texts))
    ends = list(accumulate(map(len, texts)))
    shares = [usage["prompt_tokens"] * end // max(ends[-1], 1) for end in ends]
    return [end - start for start, end in pairwise([0, *shares])]
