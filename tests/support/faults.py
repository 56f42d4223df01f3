"""A router whose calls fail as a test says."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from deployments.dispatch.transport import ReplicaLost
from deployments.dispatch.wire import Call, Reply
from deployments.engines.base import ServerUnreachable
from tests.support.local_service import LocalRouter, served

SECRET = "10.9.8.7:5555"


def model(**more: Any) -> dict[str, Any]:
    return {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 512, **more}


ARGS: dict[str, Any] = {
    "models": {
        "small": model(quality={"default": 50}),
        "large": model(quality={"default": 60}),
    },
    "tiers": {"fast": "small", "best": "large"},
    "cache": {"max_bytes": 0},
    "collections": {"docs": "large/8"},
}


class Faults:
    """What happens to calls: those for `dying` models wait for `end` and then lose their replica;
    those for `away` ones do not reach the server of their engine; those for `broken` ones fail in
    the engine.
    """

    def __init__(self, router: LocalRouter) -> None:
        self.dying, self.away, self.broken = set[str](), set[str](), set[str]()
        self.sent: list[str] = []
        self.end = threading.Event()
        self._send = router.transport.send

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        self.sent.append(model)
        if model in self.dying:
            while not self.end.is_set():  # noqa: ASYNC110  set from another thread
                await asyncio.sleep(0.01)
            if model in self.dying:
                raise ReplicaLost(f"{replica} at {SECRET} is gone")
        if model in self.away:
            raise ServerUnreachable(f"{SECRET} cannot be reached", "its server cannot be reached")
        if model in self.broken:
            raise ValueError("poison")
        return await self._send(model, call, replica)


@contextmanager
def faulty(args: dict[str, Any] = ARGS) -> Iterator[tuple[httpx.Client, Faults]]:
    with served(args) as (url, router), httpx.Client(base_url=url, timeout=60) as client:
        faults = Faults(router)
        router.transport.send = faults.send  # type: ignore[method-assign]
        yield client, faults
