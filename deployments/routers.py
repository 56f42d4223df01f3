"""The other replicas of the router, and what Serve says of the whole: nothing here is on a request's way."""

import asyncio
from collections.abc import Mapping

import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.handle import DeploymentHandle

from router.quota import Limit, Report

ANSWER_S = 0.4  # less than the time between two exchanges

Reports = Mapping[Limit, Report]


class Routers:
    """Asks all replicas of this deployment, this one left out."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle[object] | None = None

    @property
    def own_id(self) -> str:
        """What this replica is called among them."""
        return serve.get_replica_context().replica_id.unique_id

    async def ask(self, reports: Reports) -> dict[str, Reports]:
        """What the others reply; raises when one of those that Serve lists does not."""
        if self._handle is None:
            context = serve.get_replica_context()
            self._handle = serve.get_deployment_handle(context.deployment, context.app_name)
        answers = await self._handle.broadcast("exchange", self.own_id, reports).results_async(timeout_s=ANSWER_S)
        return {router: replies for router, replies in answers if router != self.own_id}


async def listening_host() -> str | None:
    """The address that this Serve's HTTP servers listen on, as it was started with; outside of Serve nothing listens."""
    if not ray.is_initialized():
        return "127.0.0.1"
    client = await asyncio.to_thread(_get_global_client)
    return None if client is None else client.http_config.host
