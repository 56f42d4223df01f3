"""How a call reaches a replica: what a lane asks of its transport, and what it may be told."""

from typing import Protocol

from deployments.dispatch.wire import Call, Reply


class ReplicaLost(Exception):
    """The replica died or cannot be reached; the work may be sent elsewhere."""


class ConnectionLost(ReplicaLost):
    """The connection to the replica broke, which says nothing of the replica: there may be another
    way to it.
    """


class Transport(Protocol):
    """How a call reaches a replica; raises ReplicaLost when it did not, or died on the way, else
    what the engine raised.
    """

    async def send(self, model: str, call: Call, replica: str) -> Reply: ...

    async def wake(self, model: str) -> None:
        """Ask for a replica of a model that has none; returns when there is one."""
