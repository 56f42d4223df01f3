"""The Serve deployment of one model: a host whose calls come over Serve or over a socket."""

import asyncio
import os
import time
from typing import Any, get_args

import ray
from ray import serve

from deployments import engines
from deployments.dispatch import socket_transport
from deployments.dispatch.frames import Address
from deployments.dispatch.wire import FailureCode
from deployments.engines.base import EngineError
from deployments.replica import cpu
from deployments.replica.device import device_name
from deployments.replica.first_vectors import InCluster
from deployments.replica.host import Host, log, log_progress, start_when_reachable
from deployments.replica.score_identity import any_proof_of
from deployments.replica.socket_server import ReplicaServer
from deployments.telemetry import logs, metrics
from deployments.telemetry.metrics import EngineStats, ProcessMetrics
from deployments.telemetry.publish import Publisher
from deployments.telemetry.tracing import tracing
from router.models import curve_of
from router.rerank_config import deployed_config


class Embedder(Host):
    """One replica of a model's deployment."""

    _publisher: Publisher | None
    _listener: ReplicaServer | None

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, model_id: str, config: dict[str, Any], base_dir: str | None, counted: bool = False
    ) -> None:
        started = time.monotonic()
        traced = tracing()
        logs.install(traced is not None)
        model = deployed_config(config)
        if model.environment == "cpu-vllm":
            cpu.prepare()
        stats = (
            EngineStats(ProcessMetrics(metrics.OF_VLLM), model_id)
            if counted and model.engine.reports_vllm_metrics
            else None
        )
        with logs.kept():
            engine = engines.create(model, base_dir, stats)
            identity = any_proof_of(engine, model_id, model, base_dir, InCluster())
            began = time.monotonic()
            saying = asyncio.create_task(log_progress(model_id, engine))
            try:
                await start_when_reachable(engine, model_id)
            finally:
                saying.cancel()
        phases = getattr(engine, "phases", None) or {"load": time.monotonic() - began}
        replica = serve.get_replica_context().replica_id.unique_id
        curve = curve_of(model_id, model, base_dir)
        super().__init__(
            engine,
            replica,
            identity,
            model.health_timeout_s,
            curve,
            model.attention_tokens,
            os._exit if getattr(engine, "holds_card", False) else None,
        )
        self._tracing, self._publisher, self._listener = traced, None, None
        self.start_phases = dict(phases)
        self._device = None if model.engine.runs_elsewhere else device_name()
        if counted:
            tally = replica_tally(model_id)
            self._publisher = Publisher(
                [tally] if stats is None else [tally, stats.tally],
                lambda: self.sample(tally, model_id),
            )
            self._publisher.start()
        if identity is not None:
            began = time.monotonic()
            try:
                await identity.prove()
            except EngineError:
                await self._end()
                raise
            self.start_phases["proof"] = time.monotonic() - began
        self._address: Address | None = None
        if socket_transport.allowed():
            await self._listen(replica)
        parts = ", ".join(f"{name} {took:.1f}" for name, took in self.start_phases.items())
        log.info("%s ready in %.1f s (%s)", model_id, time.monotonic() - started, parts)

    async def check_health(self) -> None:
        """Probe the engine, as `Host` does."""
        logs.at_once()  # a new `logging_config` brings new buffers
        await super().check_health()

    async def _listen(self, replica: str) -> None:
        listener, host = ReplicaServer(self.embed), ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        try:
            port = await listener.start(host)
        except OSError as error:
            log.warning(
                "no socket of its own on %s (%s): calls come through Serve's handles", host, error
            )
        else:
            node = ray.get_runtime_context().get_node_id()
            devices = tuple(map(str, ray.get_gpu_ids()))
            self._listener, self._address = (
                listener,
                Address(
                    replica,
                    host,
                    port,
                    listener.token,
                    dict(self.start_phases),
                    self._device,
                    node,
                    devices,
                ),
            )

    async def address(self, to: str | None = None) -> Address | None:
        """Return where this replica takes calls directly; None where it does not.

        See deployments/dispatch/socket_transport.py.
        """
        return self._address

    async def __del__(self) -> None:
        if hasattr(self, "_engine"):
            if self._listener is not None:
                await self._listener.stop()
            await self._end()

    async def _end(self) -> None:
        if self._publisher is not None:
            self._publisher.stop()
        await self.stop()


def replica_tally(model: str) -> ProcessMetrics:
    """Return the tally of one replica, with failures and proofs at 0."""
    tally = ProcessMetrics(metrics.OF_REPLICA)
    for code in get_args(FailureCode):
        tally.add(metrics.FAILED_TEXTS, (model, code), 0)
    for result in ("passed", "failed", "put_off"):
        tally.add(metrics.IDENTITY, (model, result), 0)
    return tally
