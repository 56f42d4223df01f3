"""The router's Serve deployment: each replica is one router process."""

import asyncio
import gc
import secrets
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.autoscale import ROUTER, flat
from deployments.dispatch import socket_transport
from deployments.dispatch.handle_transport import HandleTransport
from deployments.dispatch.replica_registry import registry
from deployments.dispatch.socket_transport import DirectTransport
from deployments.dispatch.transport import Transport
from deployments.ingress import fast_path, startup
from deployments.ingress.application import Application, log
from deployments.ingress.auth import Access
from deployments.ingress.batches import runner_of
from deployments.ingress.peers import BucketReports, Peers, listening_host
from deployments.ingress.processor import ProcessorShare
from deployments.ingress.rate_limits import RateLimiter
from deployments.ingress.views import Views
from deployments.serve_internals import counted_cpus
from deployments.service.batches.store import BatchStore, open_store
from deployments.service.decision_log import open_log
from deployments.service.gauges import sample
from deployments.service.reranking import Reranking
from deployments.service.service import Service
from deployments.service.use_log import UseLog
from deployments.telemetry import logs, metrics
from deployments.telemetry.logs import where
from deployments.telemetry.metrics import ProcessMetrics
from deployments.telemetry.publish import Publisher
from deployments.telemetry.tracing import Tracing, tracing
from router import language
from router.capacity import learned
from router.config import RouterArgs
from router.encoder_check import load_encoders
from router.exposure import require_local
from router.spaces import Catalogue
from router.strict import ConfigError, changed

# How long a thread that writes a large answer or reads long texts keeps the interpreter when the
# event loop waits for it, as the loop does after every system call. Python's default is 5 ms.
SWITCH_S = 0.0002

# New objects from which the garbage collector scans them. Requests leave next to no cycles, and
# what they leave in caches is scanned for nothing. Python's default is 700.
YOUNG_OBJECTS = 10_000


@serve.ingress()
class Router:
    """The router's deployment: one instance in every router replica; instances share nothing."""

    def __init__(self, fixed: dict[str, Any], handles: dict[str, DeploymentHandle[Any]]) -> None:
        sys.setswitchinterval(SWITCH_S)
        self._fixed, self._handles = fixed, handles
        self._peers = Peers()
        self._processor = ProcessorShare()
        self._keeping_even: asyncio.Task[None]
        self._watching: asyncio.Task[None]
        self.service: Service
        self.reranking: Reranking
        self.views: Views
        self.access: Access
        self.publisher: Publisher | None = None
        self.tracing: Tracing | None = None
        self.batches: BatchStore | None = None
        self.use_log: UseLog
        self._beside: list[asyncio.Task[None]] = []  # tasks that end with this router

    async def reconfigure(self, changes: dict[str, Any]) -> None:
        """Replace sections of the start config; running requests keep the config they were decided
        by.

        Once requests are served, invalid changes are logged, shown in /v1/tiers, and change
        nothing: on an exception Serve would replace a working router.
        """
        if hasattr(self, "service"):
            await self._reload(changes)
            return
        args = changed(self._fixed, changes)
        require_local(args, await listening_host(), "http_options.host")
        traced = self.tracing = tracing()
        logs.install(traced is not None)
        handles = HandleTransport(self._handles)
        transport: Transport = handles
        if args.transport == "direct" and socket_transport.allowed() and handles.can_count:
            transport = lines = DirectTransport(handles)
            registry.watch(partial(_later, asyncio.get_running_loop(), lines.replicas_changed))
        service = await asyncio.to_thread(Service, args, transport, tracing=traced)
        await asyncio.to_thread(language.load)  # load it now, not while a caller waits
        if args.decision_log is not None:
            service.log = open_log(args.decision_log, args.base_dir)
        if (request_metrics := service.request_metrics) is not None:
            self.publisher = Publisher(
                [request_metrics.tally], partial(self._sample, request_metrics.tally, service)
            )
            self.publisher.start()
        self.reranking = await asyncio.to_thread(Reranking, service)
        self.service, self.views = service, Views(service, self.reranking)
        self.access = Access(args, RateLimiter(exchange=self._peers.exchange))
        loop = asyncio.get_running_loop()
        self._keeping_even = loop.create_task(self.access.rate_limiter.run())
        startup.log_missing_switches()
        self._watching = loop.create_task(
            startup.StartupLog(args, self.views.waiting_for, startup.cluster).run()
        )
        await self._keep_on_disk(args)
        self._processor = ProcessorShare(counted_cpus())  # the start does not count as load
        gc.freeze()  # permanent objects are not scanned again while requests wait
        gc.set_threshold(YOUNG_OBJECTS)
        registry.watch(partial(_later, loop, service.replicas_changed))

    async def _keep_on_disk(self, args: RouterArgs) -> None:
        """Open files, batches and the usage log, and start the background tasks."""
        folder = None
        if args.batches is not None:
            self.batches = await asyncio.to_thread(open_store, args.batches, args.base_dir)
            folder = self.batches.folder
            application = Application(self, alone=True)
            runner = runner_of(self.batches, args.batches, args.limits, application)
            self._beside.append(asyncio.create_task(runner.run()))
        self.use_log = self.service.use_log = UseLog(args, folder, secrets.token_hex(4))
        self._beside.append(asyncio.create_task(self.use_log.run()))

    async def close(self) -> None:
        """Write buffered data and close the connections."""
        if self.publisher is not None:
            self.publisher.stop()
        if not hasattr(self, "service"):  # the first `reconfigure` never finished
            return
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
        if self.service.log is not None:
            await asyncio.to_thread(self.service.log.close)
        if self.service.shared is not None:
            await self.service.shared.close()

    async def _reload(self, changes: dict[str, Any]) -> None:
        try:
            args = changed(self._fixed, changes)
            if self.service.args.keys and not args.keys:
                raise ConfigError(
                    [
                        "keys: the last key cannot be taken away from a service that runs; "
                        "restart it to open it"
                    ]
                )
            running = self.service.digests
            catalogue = Catalogue(args, await asyncio.to_thread(load_encoders, args, running))
        except Exception as error:
            self.views.reload_error = str(error)
            why = str(error) if isinstance(error, ConfigError) else where(error)
            log.error("the new config cannot be used and the one before stays:\n%s", why)
        else:
            self.service.reload(args, catalogue)
            self.access.reload(args)
            self.views.reload_error = None

    async def check_health(
        self,
    ) -> None:  # not in a thread: a handle needs the loop that it is used in
        """Update how many routers share the load; Serve calls this every few seconds."""
        logs.at_once()  # a new `logging_config` brings new buffers
        routers = self._peers.count()
        self.service.ledger.routers = routers
        self.access.rate_limiter.routers_are(routers)

    async def exchange(self, router: str, reports: BucketReports) -> tuple[str, BucketReports]:
        """Return this router's id and its reports; other routers call this twice a second while
        keys have limits.
        """
        own = self._peers.own_id
        return own, {} if router == own else self.access.rate_limiter.answer(router, reports)

    def _sample(self, tally: ProcessMetrics, service: Service) -> None:
        sample(tally, service)
        tally.set(metrics.PROCESSOR_SHARE, (), self._processor.share())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """This router's demand for every model and for its processor; Serve sends it to its
        controller for the autoscaling policy.
        """
        if not hasattr(self, "service"):  # Serve calls this while `reconfigure` still runs
            return {}
        starts = self.service.starts
        models = {
            model: learned(dispatcher.demand(), starts.get(model))
            for model, dispatcher in self.service.dispatchers.items()
        }
        return flat(models | {ROUTER: self._processor.demand()})

    def __serve_build_asgi_app__(self) -> Application:
        application = Application(self)
        fast_path.install(application.exchange)
        return application


def _later(
    loop: asyncio.AbstractEventLoop,
    changed: Callable[[str, tuple[str, ...]], None],
    model: str,
    replicas: tuple[str, ...],
) -> None:
    """Pass a change of the registry to `loop`: it comes from Serve's thread in Serve's default
    mode, from this loop in throughput mode.
    """
    loop.call_soon_threadsafe(changed, model, replicas)
