"""The service with a switch for its metrics, traces and keys, so that one process can be measured
with and without them.

`benchmarks.switched:build` replaces `deployments.app:build` in a config that enables all three.
After POST /switch/metrics+keys, for example, every router and replica has these two and no traces;
/switch/ disables all. Metrics are counting, publishing and vLLM's statistics; traces are our spans;
keys are the search for the key, its limits and their headers. The answer has the number of answered
embedding requests, the time, and the CPU time of router and replicas: `before` the switch, and
`after` it.
"""

import asyncio
import time
from typing import Any, NamedTuple

import orjson
from ray import serve

from deployments.app import assembled
from deployments.ingress.application import Application
from deployments.ingress.asgi import HttpAnswer, HttpRequest
from deployments.ingress.auth import Access
from deployments.ingress.deployment import Router
from deployments.ingress.fast_path import install
from deployments.replica.deployment import Embedder
from deployments.service.request_metrics import RequestMetrics
from deployments.telemetry.publish import Publisher
from deployments.telemetry.tracing import Tracing
from router.keys import Grant

PATH = "/switch/"
SWITCH_S = 30.0
PlainRouter: Any = Router.__mro__[1]  # without what Serve puts around it


class Totals(NamedTuple):
    """Counters at one moment."""

    answered: int
    at_s: float
    router_s: float  # of the processor
    replicas_s: float  # of the processor, as they were switched


class SwitchedApplication(Application):
    """The application, which also answers POST /switch/..."""

    answered = 0

    async def exchange(self, http_request: HttpRequest) -> HttpAnswer:
        answer = await super().exchange(http_request)
        self.answered += answer.status == 200
        return answer

    async def _answer(self, caller: Grant, http_request: HttpRequest) -> HttpAnswer:
        if (
            http_request.path.startswith(PATH.rstrip("/"))
            and http_request.scope["method"] == "POST"
        ):
            router: Any = self._router
            before = self._now()
            replicas_s = await router.switch(
                frozenset(http_request.path.removeprefix(PATH).split("+"))
            )
            after = self._now()
            totals = {"before": before, "after": after}
            return HttpAnswer(
                200,
                orjson.dumps(
                    {
                        name: one._replace(replicas_s=replicas_s)._asdict()
                        for name, one in totals.items()
                    }
                ),
            )
        return await super()._answer(caller, http_request)

    def _now(self) -> "Totals":
        return Totals(self.answered, time.monotonic(), time.process_time(), 0.0)


@serve.ingress()
class SwitchedRouter(PlainRouter):  # type: ignore[misc]  # Serve's class is known at run time only
    """One router with its switch."""

    access: Access
    tracing: Tracing | None
    everything: tuple[Access, RequestMetrics | None, Tracing | None]
    unlocked: Access

    def __serve_build_asgi_app__(self) -> Application:
        application = SwitchedApplication(self)
        install(application.exchange)
        return application

    async def switch(self, parts: frozenset[str]) -> float:
        """Enable only these parts, here and at every replica of every model; return the replicas'
        CPU time.
        """
        if not hasattr(self, "everything"):
            self.everything = self.access, self.service.request_metrics, self.tracing
            self.unlocked = Access(
                self.service.args.model_copy(update={"keys": {}, "auth": "none"})
            )
        access, request_metrics, tracing = self.everything
        self.access = access if "keys" in parts else self.unlocked
        self.service.request_metrics = request_metrics if "metrics" in parts else None
        self.tracing = self.service.tracing = tracing if "traces" in parts else None
        for dispatcher in self.service.dispatchers.values():
            dispatcher.tracing = self.tracing
        _switch(self.publisher, "metrics" in parts)
        reads = [
            handle.broadcast("switch", parts).results_async(timeout_s=SWITCH_S)
            for handle in self._handles.values()
        ]
        return float(
            sum(seconds for replicas in await asyncio.gather(*reads) for seconds in replicas)
        )


class SwitchedEmbedder(Embedder):
    """One replica with its switch."""

    async def switch(self, parts: frozenset[str]) -> float:
        """Enable only these parts; return the CPU time of this process."""
        if not hasattr(self, "traced"):
            self.traced = self._tracing
        self._tracing = self.traced if "traces" in parts else None
        _switch(self._publisher, "metrics" in parts)
        # vLLM's, where it is one
        engine: Any = getattr(getattr(self._engine, "backend", None), "engine", None)
        if engine is not None:
            engine.engine_core.engine_core.scheduler.log_stats = "metrics" in parts
        return time.process_time()


def _switch(publisher: Publisher | None, on: bool) -> None:
    if publisher is None or (publisher._task is not None) == on:
        return
    if on:
        publisher.start()
    elif publisher._task is not None:
        # without the last word of `stop`, which would be one for each turn
        publisher._task.cancel()
        publisher._task = None


def build(args: dict[str, Any]) -> serve.Application:
    """Build the application as `deployments.app:build` does."""
    return assembled(args, SwitchedRouter, SwitchedEmbedder)
