"""Load with known answers: each request is right, refused with a reason, or recorded as a fault.

The models are fake engines: a text's vector is a hash of it, different for each model. So the
client knows each vector of every space and recognises an answer in the wrong space.
"""

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp
import numpy as np
import orjson

from deployments.engines.fake import hashed

REFUSALS = {429, 503, 504}
CLIENTS = 10
PAUSE_S = 0.1  # mean, between two requests of a client
SLACK_S = 5.0  # of a busy machine, beyond request_timeout_s
WORDS = (
    "index",
    "vector",
    "space",
    "query",
    "cluster",
    "shard",
    "recall",
    "latency",
    "token",
    "model",
)


class Model(NamedTuple):
    """Client-side view of a fake model."""

    dimensions: int
    seed: int

    def vectors(self, texts: list[str]) -> Any:
        return hashed([f"document:{text}".encode() for text in texts], self.dimensions, self.seed)


@dataclass
class LoadCounts:
    """Outcomes of requests."""

    sent: int = 0
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by status and code
    # no answer, or one that is neither vectors nor a reason
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # vectors of another space, or of another text
    worst_s: float = 0.0
    took_s: list[float] = field(default_factory=list)  # of those answered right

    def add(self, other: "LoadCounts") -> None:
        """Add another tally."""
        self.sent, self.right, self.worst_s = (
            self.sent + other.sent,
            self.right + other.right,
            max(self.worst_s, other.worst_s),
        )
        self.refused.update(other.refused)
        self.lost += other.lost
        self.wrong += other.wrong
        self.took_s += other.took_s


class Checked:
    """A client that checks answers against known vectors; open it with `async with`."""

    def __init__(
        self, url: str, models: Mapping[str, Model], timeout_s: float, seed: int = 0
    ) -> None:
        self._url, self._models, self._timeout_s = f"{url}/v1/embeddings", models, timeout_s
        self._rng = random.Random(seed)
        self._sent = 0
        self.tally = LoadCounts()

    async def __aenter__(self) -> "Checked":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s + SLACK_S),
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    def texts(self, count: int, words: int) -> list[str]:
        """Texts that were never sent before."""
        self._sent += 1
        return [
            f"{self._sent} {index} {self._rng.getrandbits(48):x} "
            f"{' '.join(self._rng.choices(WORDS, k=words))}"
            for index in range(count)
        ]

    def ask(self) -> dict[str, Any]:
        """The body of one request of the mix: short or long, one text or a list, pinned or free,
        interactive or bulk.
        """
        rng, models = self._rng, list(self._models)
        small, large = models[0], models[-1]
        kind = rng.random()
        if kind < 0.4:
            return {"input": self.texts(1, rng.randint(1, 20))[0], "model": small}
        if kind < 0.65:
            pinned = rng.choice(models)
            return {
                "input": self.texts(1, rng.randint(1, 60)),
                "space": f"{pinned}/{self._models[pinned].dimensions}",
            }
        if kind < 0.75:
            return {"input": self.texts(1, 10), "model": "auto", "latency_budget_ms": 500}
        if kind < 0.9:
            return {"input": self.texts(8, 20), "model": large}
        return {"input": self.texts(30, 20), "model": rng.choice(models), "priority": "bulk"}

    async def send(self, body: dict[str, Any], tally: LoadCounts | None = None) -> int:
        """Send one request and check its answer; return its status, or 0 without one."""
        own = LoadCounts(sent=1)
        status, start_s = 0, time.perf_counter()
        try:
            async with self._session.post(
                self._url, json={**body, "encoding_format": "base64"}
            ) as answer:
                content = await answer.read()
                status, headers = answer.status, dict(answer.headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            own.lost.append(
                f"{type(error).__name__} after {time.perf_counter() - start_s:.1f} s: {error}"
            )
        else:
            self._judge(body, status, content, headers, own)
        own.worst_s = time.perf_counter() - start_s
        own.took_s = [own.worst_s] if own.right else []
        for one in (self.tally, tally):
            if one is not None:
                one.add(own)
        return status

    def _judge(
        self,
        body: dict[str, Any],
        status: int,
        content: bytes,
        headers: dict[str, str],
        tally: LoadCounts,
    ) -> None:
        if status != 200:
            try:
                error = orjson.loads(content)["error"]
                reason = f"{status} {error['code']}"
            except (ValueError, KeyError, TypeError):
                tally.lost.append(f"{status} without a reason: {content[:80]!r}")
                return
            lowered = {name.lower() for name in headers}
            if status not in REFUSALS or (status != 504 and "retry-after" not in lowered):
                tally.lost.append(f"{reason}: {error['message'][:200]}")
            else:
                tally.refused[reason] += 1
            return
        answer = orjson.loads(content)
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        model = answer["routing"]["model"]
        asked = body["space"].split("/")[0] if "space" in body else body["model"]
        got = np.array(
            [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]]
        )
        want = self._models[model].vectors(texts)
        if (
            asked not in ("auto", model)
            or got.shape != want.shape
            or not np.allclose(got, want, atol=1e-5)
        ):
            tally.wrong.append(f"asked for {asked}, got {model}, shape {got.shape} of {want.shape}")
        else:
            tally.right += 1

    async def run(self, stop: asyncio.Event, clients: int = CLIENTS) -> None:
        """Send the mix from this many clients until `stop` is set; return when all requests have
        ended.
        """

        async def one() -> None:
            while not stop.is_set():
                await self.send(self.ask())
                await asyncio.sleep(self._rng.expovariate(1 / PAUSE_S))

        await asyncio.gather(*(one() for _ in range(clients)))
