"""The probe vectors of a model's first replica, kept for all later ones of the cluster.

Ray's controller holds them, as it holds what Serve knows: they last as long as the cluster does.
Names of Ray that it does not promise are used.
"""

from typing import Protocol

from deployments.serve_internals import keep_first

NAMESPACE = "embedding-router"


class FirstVectors(Protocol):
    """Keeps what comes first under a key."""

    def keep(self, key: str, vectors: bytes) -> bytes:
        """What is kept under `key`: `vectors`, where nothing was."""


class InCluster:
    """In the key-value store of Ray's controller; it decides between two that come at once."""

    def keep(self, key: str, vectors: bytes) -> bytes:
        """What is kept under `key`: `vectors`, where nothing was."""
        return keep_first(key, vectors, NAMESPACE)


class OfThisProcess:
    """In memory: for tools that run one engine."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def keep(self, key: str, vectors: bytes) -> bytes:
        """What is kept under `key`: `vectors`, where nothing was."""
        return self._kept.setdefault(key, vectors)
