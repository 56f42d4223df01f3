"""The other replicas of the router, and what Serve says of the whole: nothing here is on a
request's way.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import serve
from ray.serve._private.common import ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from router.quota import Limit, Report

ANSWER_S = 0.4  # less than the time between two exchanges

Reports = Mapping[Limit, Report]


class Routers:
    """Counts the replicas of this deployment, and asks all but this one."""

    def __init__(self) -> None:
        self._own_handle: DeploymentHandle[object] | None = None

    @property
    def own_id(self) -> str:
        """What this replica is called among them."""
        return serve.get_replica_context().replica_id.unique_id

    def count(self) -> int:
        """How many there are, this one included."""
        listed = [replica.unique_id for replica in self._listed()]
        return routers_of(self.own_id, listed, serve.get_replica_context()._deployment_config)

    async def ask(self, reports: Reports) -> dict[str, Reports]:
        """What the others reply; raises when one of those that Serve lists does not."""
        answers = await self._handle.broadcast("exchange", self.own_id, reports).results_async(
            timeout_s=ANSWER_S
        )
        return {router: replies for router, replies in answers if router != self.own_id}

    @property
    def _handle(self) -> DeploymentHandle[object]:
        if self._own_handle is None:
            context = serve.get_replica_context()
            handle = serve.get_deployment_handle(
                context.deployment, context.app_name, _check_exists=False
            )
            # from now on Serve tells it which replicas run
            self._own_handle = handle.options(method_name="exchange")
        return self._own_handle

    def _listed(self) -> list[ReplicaID]:
        """The replicas that Serve says are running; none before it has said anything."""
        router: Any = self._handle._router
        known = router._asyncio_router.request_router
        return [] if known is None else list(known.curr_replicas)


def routers_of(own: str, listed: Sequence[str], config: DeploymentConfig) -> int:
    """How many routers there are, by what Serve lists as running.

    Serve lists a router once it has started. One that starts is told by its config how many start
    with it; later that says nothing: scaling and deploying anew change the number and leave the
    config of those that run as it was.
    """
    if own in listed:
        return len(listed)
    scaling = config.autoscaling_config
    wanted = (
        config.num_replicas if scaling is None else scaling.initial_replicas or scaling.min_replicas
    )
    return max(len(listed) + 1, wanted or 1)


async def listening_host() -> str | None:
    """The address that this Serve's HTTP servers listen on, as it was started with; outside of
    Serve nothing listens.
    """
    if not ray.is_initialized():
        return "127.0.0.1"
    client = await asyncio.to_thread(_get_global_client)
    return None if client is None else client.http_config.host
