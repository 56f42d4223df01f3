"""The probe vectors of a model's first replica, kept for all later ones of the cluster.

They are kept in Ray's controller, like Serve's own state, and last as long as the cluster. The
access uses names that Ray does not promise (deployments/serve_internals.py).
"""

from typing import Protocol

from deployments.serve_internals import keep_first

NAMESPACE = "embedding-router"


class FirstVectors(Protocol):
    """Keeps the first vectors of each key."""

    def keep(self, key: str, vectors: bytes) -> bytes:
        """Return the stored value of `key`; store `vectors` if there is none."""


class InCluster:
    """The key-value store of Ray's controller; if two writes come at once, it decides."""

    def keep(self, key: str, vectors: bytes) -> bytes:
        """Return the stored value of `key`; store `vectors` if there is none."""
        return keep_first(key, vectors, NAMESPACE)


class OfThisProcess:
    """A dictionary in memory, for tools that run one engine."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def keep(self, key: str, vectors: bytes) -> bytes:
        """Return the stored value of `key`; store `vectors` if there is none."""
        return self._kept.setdefault(key, vectors)
