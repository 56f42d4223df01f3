"""How a call leaves the router's process: Serve handles, by value, with errors put into the dispatcher's words."""

from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments.dispatch import ReplicaLost
from deployments.engines.base import EngineDead
from deployments.wire import Call, Reply
from router.errors import ModelUnavailable, Overloaded


class HandleTransport:
    """Sends calls through one Serve handle per model.

    By value and pickled: measured at half the latency of object references for replies of a few KiB to 1 MiB, and a reply is a
    writable array. Cancelling the awaiting task cancels the call in the replica.
    """

    def __init__(self, handles: dict[str, DeploymentHandle[Any]]) -> None:
        self._wake = {model: handle.options(method_name="wake") for model, handle in handles.items()}
        self._embed = {
            model: handle.options(
                method_name="embed", _by_reference=False, request_serialization="pickle", response_serialization="pickle"
            )
            for model, handle in handles.items()
        }

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        """Call `replica` of `model`, or another one if it is gone by now."""
        try:
            reply: Reply = await self._embed[model].remote(call, to=replica)
        except (RayActorError, EngineDead) as error:
            raise ReplicaLost(f"{type(error).__name__} at replica {replica}") from error
        except RayTaskError as error:
            if isinstance(error.cause, EngineDead):
                raise ReplicaLost(f"the engine of replica {replica} died: {error.cause}") from error
            raise
        except BackPressureError as error:
            raise Overloaded(model, error.retry_after_s or 1.0) from error
        except DeploymentUnavailableError as error:
            raise ModelUnavailable([f"{model}: its deployment failed or is being replaced"], 5.0) from error
        return reply

    async def wake(self, model: str) -> None:
        """A call that waits in Serve's handle is what makes it start the first replica."""
        await self._wake[model].remote()
