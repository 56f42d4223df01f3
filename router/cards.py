"""The devices of each model's replicas, and the models that share one."""

from collections.abc import Iterable


class Cards:
    """The devices of every replica, by node."""

    def __init__(self) -> None:
        self._replicas: dict[str, tuple[str, frozenset[tuple[str, str]]]] = {}
        # for each replica that shares a device: the other replicas there, and their models
        self.beside: dict[str, dict[str, str]] = {}

    def joined(self, replica: str, model: str, node: str, devices: Iterable[str]) -> None:
        """Register a replica of `model` with its devices on `node`; none if it runs on a CPU."""
        self.left(replica)
        own = frozenset((node, device) for device in devices)
        for other, (neighbour, theirs) in self._replicas.items():
            if own & theirs:
                self.beside.setdefault(replica, {})[other] = neighbour
                self.beside.setdefault(other, {})[replica] = model
        self._replicas[replica] = model, own

    def left(self, replica: str) -> None:
        """Remove a replica."""
        self._replicas.pop(replica, None)
        for other in self.beside.pop(replica, {}):
            del self.beside[other][replica]
            if not self.beside[other]:
                del self.beside[other]

    def groups(self) -> dict[tuple[str, ...], tuple[str, str]]:
        """Models that share a device, sorted by name, with the node and the number of one such
        device.
        """
        models: dict[tuple[str, str], set[str]] = {}
        for model, devices in self._replicas.values():
            for device in devices:
                models.setdefault(device, set()).add(model)
        return {
            tuple(sorted(names)): device
            for device, names in sorted(models.items(), reverse=True)
            if len(names) > 1
        }

    def shared_with(self, model: str) -> list[str]:
        """The other models that have a replica on a device of this one."""
        groups = self.groups()
        return sorted({name for names in groups if model in names for name in names} - {model})
