"""The probe vectors of a model's first replica, kept for all later ones of the cluster.

Ray's controller holds them, as it holds what Serve knows: they last as long as the cluster does.
Names of Ray that it does not promise are used.
"""

from typing import Protocol

NAMESPACE = "embedding-router"


class FirstVectors(Protocol):
    """Keeps what comes first under a key."""

    def keep(self, key: str, vectors: bytes) -> bytes:
        """What is kept under `key`: `vectors`, where nothing was."""


class InCluster:
    """In the key-value store of Ray's controller; it decides between two that come at once."""

    def keep(self, key: str, vectors: bytes) -> bytes:
        """What is kept under `key`: `vectors`, where nothing was."""
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

        _internal_kv_put(key, vectors, overwrite=False, namespace=NAMESPACE)  # type: ignore[no-untyped-call, unused-ignore]
        kept: bytes | None = _internal_kv_get(key, namespace=NAMESPACE)  # type: ignore[no-untyped-call, unused-ignore]
        return vectors if kept is None else kept


class OfThisProcess:
    """In memory: for tools that run one engine."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def keep(self, key: str, vectors: bytes) -> bytes:
        """What is kept under `key`: `vectors`, where nothing was."""
        return self._kept.setdefault(key, vectors)
