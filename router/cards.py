"""The devices of each model's replicas, and the models that share one."""

from collections.abc import Iterable, Mapping


class Cards:
    """The devices of every replica, by node."""

    def __init__(self) -> None:
        self._replicas: dict[str, tuple[str, frozenset[tuple[str, str]]]] = {}
        # for each model the others on its devices, with the share of its replicas that have one
        self.neighbours: Mapping[str, Mapping[str, float]] = {}

    def joined(self, replica: str, model: str, node: str, devices: Iterable[str]) -> None:
        """Register a replica of `model` with its devices on `node`; none if it runs on a CPU."""
        self._replicas[replica] = model, frozenset((node, device) for device in devices)
        self.neighbours = self._neighbours()

    def left(self, replica: str) -> None:
        """Remove a replica."""
        self._replicas.pop(replica, None)
        self.neighbours = self._neighbours()

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

    def _neighbours(self) -> dict[str, dict[str, float]]:
        on: dict[tuple[str, str], set[str]] = {}
        replicas: dict[str, list[frozenset[tuple[str, str]]]] = {}
        for model, devices in self._replicas.values():
            replicas.setdefault(model, []).append(devices)
            for device in devices:
                on.setdefault(device, set()).add(model)
        found: dict[str, dict[str, float]] = {}
        for model, each in replicas.items():
            for devices in each:
                for other in set().union(*(on[device] for device in devices)) - {model}:
                    shares = found.setdefault(model, {})
                    shares[other] = shares.get(other, 0.0) + 1.0 / len(each)
        return found
