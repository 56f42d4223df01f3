"""The other router replicas, and what Serve reports about all of them. Requests wait for this only
when their key's limit is used up in this router.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments import serve_internals
from router.quota import BucketReport, Limit

if TYPE_CHECKING:
    from deployments.serve_internals import DeploymentConfig

ANSWER_S = 0.4  # less than the time between two exchanges

BucketReports = Mapping[Limit, BucketReport]


class Peers:
    """The replicas of this deployment: counts all of them and calls the others."""

    def __init__(self) -> None:
        self._own_handle: DeploymentHandle[object] | None = None

    @property
    def own_id(self) -> str:
        """The id of this replica."""
        return serve.get_replica_context().replica_id.unique_id

    def count(self) -> int:
        """The number of replicas, including this one."""
        listed = serve_internals.running_replicas(self._handle)
        names = [replica.unique_id for replica in listed]
        return routers_of(self.own_id, names, serve_internals.own_config())

    async def exchange(self, reports: BucketReports) -> dict[str, BucketReports]:
        """Return the replies of the others; raises if a replica that Serve lists does not reply."""
        answers = await self._handle.broadcast("exchange", self.own_id, reports).results_async(
            timeout_s=ANSWER_S
        )
        return {router: replies for router, replies in answers if router != self.own_id}

    @property
    def _handle(self) -> DeploymentHandle[object]:
        if self._own_handle is None:
            # from now on Serve sends the handle the list of running replicas
            self._own_handle = serve_internals.own_handle().options(method_name="exchange")
        return self._own_handle


def routers_of(own: str, listed: Sequence[str], config: "DeploymentConfig") -> int:
    """The number of routers, derived from Serve's list of running ones.

    Serve lists a router once it has started. While a router starts, its config gives the number
    that start together. Later that number is useless: scaling and redeploying change the number of
    routers but not the config of those that run.
    """
    if own in listed:
        return len(listed)
    scaling = config.autoscaling_config
    wanted = (
        config.num_replicas if scaling is None else scaling.initial_replicas or scaling.min_replicas
    )
    return max(len(listed) + 1, wanted or 1)


async def listening_host() -> str | None:
    """The address that Serve's HTTP servers were started with; loopback outside of Serve, where
    nothing listens.
    """
    if not ray.is_initialized():
        return "127.0.0.1"
    return await asyncio.to_thread(serve_internals.listening_host)
