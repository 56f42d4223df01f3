"""Transport of calls over Serve handles, by value, with errors translated for the dispatcher."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import ReplicaID

from deployments.dispatch.frames import Address
from deployments.dispatch.transport import ReplicaLost
from deployments.dispatch.wire import Call, Reply, stamped
from deployments.engines.base import EngineDead, EngineFailed, EngineOverloaded
from deployments.serve_internals import BY_VALUE, running_calls
from router.errors import ModelUnavailable, Overloaded

ADDRESS_TIMEOUT_S = 10.0  # for a replica's address


class HandleTransport:
    """Sends calls through one Serve handle per model.

    Calls are pickled and passed by value: measured at half the latency of object references for
    replies of a few KiB to 1 MiB, and a reply is a writable array. Cancelling the awaiting task
    cancels the call in the replica.
    """

    def __init__(self, handles: dict[str, DeploymentHandle[Any]]) -> None:
        self._wake = {
            model: handle.options(method_name="wake") for model, handle in handles.items()
        }
        self._embed = {
            model: handle.options(method_name="embed", **BY_VALUE)
            for model, handle in handles.items()
        }
        self._address = {
            model: handle.options(method_name="address", **BY_VALUE)
            for model, handle in handles.items()
        }
        self._deployments = {model: handle.deployment_id for model, handle in handles.items()}
        self._counts = {model: running_calls(handle) for model, handle in self._embed.items()}

    @property
    def can_count(self) -> bool:
        """Whether Serve's counts of running calls can be updated from here, for calls that bypass
        Serve.
        """
        return None not in self._counts.values()

    @contextmanager
    def counted(self, model: str, replica: str) -> Iterator[None]:
        """Count a call to `replica` as Serve counts its own: for its autoscaling and its gauges."""
        counts, replica_id = self._counts[model], ReplicaID(replica, self._deployments[model])
        assert counts is not None, "callers look at `can_count` first"
        counts.began(replica_id)
        try:
            yield
        finally:
            counts.ended(replica_id)

    async def address(self, model: str, replica: str) -> Address | None:
        """The address at which `replica` takes direct calls; None if it has none.

        Raises ConnectionError or TimeoutError.
        """
        try:
            async with asyncio.timeout(ADDRESS_TIMEOUT_S):
                found: Address | None = await self._address[model].remote(to=replica)
        except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
            raise ConnectionError(f"its address cannot be read: {type(error).__name__}") from error
        return found

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        """Call `replica` of `model`, or another one if it is gone by now."""
        try:
            reply: Reply = await self._embed[model].remote(call, to=replica)
        except RayActorError as error:
            raise ReplicaLost(f"{type(error).__name__} at replica {replica}") from error
        # before the others: it can be one of them as well, with a traceback as its message
        except RayTaskError as error:
            if isinstance(error.cause, EngineDead):
                raise ReplicaLost(f"the engine of replica {replica} died: {error.cause}") from error
            if isinstance(error.cause, EngineOverloaded | EngineFailed):
                raise error.cause from None
            raise
        except EngineDead as error:
            raise ReplicaLost(f"the engine of replica {replica} died: {error}") from error
        except BackPressureError as error:
            raise Overloaded(model, error.retry_after_s or 1.0, at_server=True) from error
        except DeploymentUnavailableError as error:
            raise ModelUnavailable(
                [f"{model}: its deployment failed or is being replaced"], 5.0, lost=True
            ) from error
        return stamped(reply)

    async def wake(self, model: str) -> None:
        """Start the first replica: a call that waits in Serve's handle makes Serve do so."""
        await self._wake[model].remote()
