"""The interface of the transport that brings calls to replicas, and its errors."""

from typing import Protocol

from deployments.dispatch.wire import Call, Reply


class ReplicaLost(Exception):
    """The replica died or cannot be reached; the work can be sent elsewhere."""


class ConnectionLost(ReplicaLost):
    """The connection to the replica broke; the replica itself can still be reachable in another
    way.
    """


class Transport(Protocol):
    """Sends calls to replicas. Raises ReplicaLost if the replica was not reached or died during the
    call, otherwise the engine's error.
    """

    async def send(self, model: str, call: Call, replica: str) -> Reply: ...

    async def wake(self, model: str) -> None:
        """Request a replica of a model that has none; returns when there is one."""
