"""The other replicas of the router, and what Serve says of the whole: nothing here is on a
request's way.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import serve_internals
from router.quota import Limit, Report

if TYPE_CHECKING:
    from deployments.serve_internals import DeploymentConfig

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
        listed = serve_internals.running_replicas(self._handle)
        names = [replica.unique_id for replica in listed]
        return routers_of(self.own_id, names, serve_internals.own_config())

    async def ask(self, reports: Reports) -> dict[str, Reports]:
        """What the others reply; raises when one of those that Serve lists does not."""
        answers = await self._handle.broadcast("exchange", self.own_id, reports).results_async(
            timeout_s=ANSWER_S
        )
        return {router: replies for router, replies in answers if router != self.own_id}

    @property
    def _handle(self) -> DeploymentHandle[object]:
        if self._own_handle is None:
            # from now on Serve sends it the list of running replicas
            self._own_handle = serve_internals.own_handle().options(method_name="exchange")
        return self._own_handle


def routers_of(own: str, listed: Sequence[str], config: "DeploymentConfig") -> int:
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
    return await asyncio.to_thread(serve_internals.listening_host)
