"""The registry to which Serve's request routers report the replicas of each model for the
dispatchers of the same process.
"""

import threading
from collections.abc import Callable, Sequence


class ReplicaRegistry:
    """Replica ids by deployment name; watchers are called for every change, possibly from another
    thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replicas: dict[str, tuple[str, ...]] = {}
        self._watchers: list[Callable[[str, tuple[str, ...]], None]] = []

    def replace(self, deployment: str, replicas: Sequence[str]) -> None:
        """Replace the replicas of one deployment."""
        now = tuple(replicas)
        with self._lock:
            if self._replicas.get(deployment) != now:
                self._replicas[deployment] = now
                for watcher in self._watchers:
                    watcher(deployment, now)

    def watch(self, watcher: Callable[[str, tuple[str, ...]], None]) -> None:
        """Call `watcher` with all current replicas and with every later change."""
        with self._lock:
            self._watchers.append(watcher)
            for deployment, replicas in self._replicas.items():
                watcher(deployment, replicas)


registry = ReplicaRegistry()
