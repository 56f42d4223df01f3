"""The CPUs, GPUs and types of cards that a config books, and the deployments that would wait for
them.

Ray books resources and never measures them: a replica whose booking fits on no node waits forever,
and Serve reports that only in its log. A cluster can grow, so a shortage there is reported as a
sentence, not as an error.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from router.config import RouterArgs
from router.model_config import ModelConfig

ROUTER = "router"
TYPE = "accelerator_type:"
SERVE_CPUS = 1.0  # of a replica whose deployment gives none
AUTO_REPLICAS = 100  # at most, if a deployment has `num_replicas: auto`
LIGHT_CPUS = 0.1  # of a replica that forwards texts or looks vectors up


class DeploymentResources(NamedTuple):
    """The resources of each replica of one deployment, and its minimum number of replicas."""

    deployment: str
    cpus: float
    gpus: float
    accelerator: str | None  # as Ray writes its type: L4, H100
    replicas: int
    required: bool  # /health waits for it
    most: int = 1  # the most replicas that its autoscaling can start


class Wait(NamedTuple):
    """A deployment without room for a replica, the reason, and the remedy."""

    deployment: str
    resource: Literal["gpus", "cpus"]  # what is short
    found: str
    todo: str

    @property
    def sentence(self) -> str:
        """The reason and the remedy."""
        return f"{self.found}; {self.todo}"


class Node:
    """The free resources of one machine, in Ray's names. Cards are listed one by one, since a share
    must come from a single card.
    """

    def __init__(self, cpus: float, gpus: float, accelerators: Iterable[str] | None) -> None:
        self.cpus, self.cards = cpus, [1.0] * int(gpus)
        self.accelerators = None if accelerators is None else frozenset(accelerators)

    def has_type(self, accelerator: str | None) -> bool:
        """Whether its cards are of this type; true if their type is not known."""
        return accelerator is None or self.accelerators is None or accelerator in self.accelerators

    def take(self, booking: DeploymentResources) -> bool:
        """Place one replica here, if it fits."""
        if booking.cpus > self.cpus + 1e-9 or not self.has_type(booking.accelerator):
            return False
        if 0 < booking.gpus < 1:
            fitting = [i for i, left in enumerate(self.cards) if left + 1e-9 >= booking.gpus]
            if not fitting:
                return False
            # the fullest card that has room
            self.cards[min(fitting, key=self.cards.__getitem__)] -= booking.gpus
        elif booking.gpus:
            whole = [i for i, left in enumerate(self.cards) if left == 1.0]
            if len(whole) < booking.gpus:
                return False
            for i in whole[: int(booking.gpus)]:
                self.cards[i] = 0.0
        self.cpus -= booking.cpus
        return True


def node(resources: Mapping[str, float]) -> Node:
    """Build a node from Ray's resources."""
    types = [name.removeprefix(TYPE) for name in resources if name.startswith(TYPE)]
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0), types)


def default_cpus(model: ModelConfig) -> float:
    """The CPUs that a replica of this model books if its deployment gives none."""
    return LIGHT_CPUS if model.engine.is_light else SERVE_CPUS


def bookings(args: RouterArgs, application: Mapping[str, Any]) -> list[DeploymentResources]:
    """The fewest replicas of each deployment of a Serve config's application, the router first; 0
    of a model that its first request starts.
    """
    given = {
        deployment.get("name"): deployment for deployment in application.get("deployments") or ()
    }
    found = [_booking(ROUTER, given.get(ROUTER, {}), SERVE_CPUS, True)]
    found += [
        _booking(name, given.get(name, {}), default_cpus(model), model.required)
        for name, model in args.deployed.items()
    ]
    return found


def _booking(name: str, own: Mapping[str, Any], cpus: float, required: bool) -> DeploymentResources:
    scaling = own.get("autoscaling_config")
    replicas = (scaling or {}).get("min_replicas", own.get("num_replicas", 1))
    max_replicas = replicas if scaling is None else scaling.get("max_replicas", 1)
    options = own.get("ray_actor_options")
    if bundles := own.get("placement_group_bundles"):
        total = [sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in ("CPU", "GPU")]
        booked = {"num_cpus": total[0], "num_gpus": total[1]}
    elif options is None:
        booked = {"num_cpus": cpus}
    else:  # Serve uses these instead of ours
        booked = {"num_cpus": options.get("num_cpus"), "num_gpus": options.get("num_gpus")}
    return DeploymentResources(
        name,
        SERVE_CPUS if booked["num_cpus"] is None else float(booked["num_cpus"]),
        float(booked.get("num_gpus") or 0.0),
        (options or {}).get("accelerator_type"),
        replicas if isinstance(replicas, int) else 1,
        required,
        max_replicas if isinstance(max_replicas, int) else AUTO_REPLICAS,
    )


def total(booked: Sequence[DeploymentResources]) -> str:
    """All CPUs and GPUs of the fewest replicas, in words: `5 CPUs and 2.5 GPUs`."""
    cpus = sum(booking.cpus * booking.replicas for booking in booked)
    gpus = sum(booking.gpus * booking.replicas for booking in booked)
    return _count(cpus, "CPU") + (f" and {_count(gpus, 'GPU')}" if gpus else "")


def waiting(booked: Sequence[DeploymentResources], nodes: Sequence[Node]) -> list[Wait]:
    """The deployments without room for all their replicas on these nodes.

    First replicas are placed before second ones, and the largest first; Serve can place them
    otherwise.
    """
    return [_why(booking, booked, nodes) for booking in _place(booked, copy.deepcopy(nodes))]


def _place(
    booked: Sequence[DeploymentResources], free: Sequence[Node]
) -> list[DeploymentResources]:
    """Place all replicas; returns the deployments of those without room."""
    order = sorted(
        booked, key=lambda booking: (-bool(booking.accelerator), -booking.gpus, -booking.cpus)
    )
    short: dict[str, DeploymentResources] = {}
    for turn in range(max((booking.replicas for booking in booked), default=0)):
        for booking in order:
            if turn < booking.replicas and not any(each.take(booking) for each in free):
                short.setdefault(booking.deployment, booking)
    return list(short.values())


def waiting_later(booked: Sequence[DeploymentResources], nodes: Sequence[Node]) -> list[Wait]:
    """The deployments that start at zero replicas and whose first replica would find no room beside
    the others: a request for such a model waits until it times out, or is refused.

    Empty if the others do not fit either, which `waiting` reports.
    """
    free = copy.deepcopy(nodes)
    if _place(booked, free):
        return []
    found = []
    for cold in booked:
        first = cold._replace(replicas=1)
        if not cold.replicas and cold.most and _place([first], copy.deepcopy(free)):
            others = [booking for booking in booked if booking is not cold]
            found.append(_why(first, [*others, first], nodes))
    return found


def first_ones(booked: Sequence[DeploymentResources]) -> list[DeploymentResources]:
    """One replica of each deployment that /health waits for."""
    return [
        booking._replace(replicas=1) for booking in booked if booking.required and booking.replicas
    ]


def _why(
    booking: DeploymentResources, booked: Sequence[DeploymentResources], nodes: Sequence[Node]
) -> Wait:
    cpus, cards = sum(each.cpus for each in nodes), sum(len(each.cards) for each in nodes)
    typed = any(each.cards and each.has_type(booking.accelerator) for each in nodes)
    all_cpus = sum(each.cpus * each.replicas for each in booked)
    all_gpus = sum(each.gpus * each.replicas for each in booked)
    resource: Literal["gpus", "cpus"] = "gpus"
    if booking.gpus and not cards:
        short, todo = "there is no GPU", "use a machine that has one, or a config without num_gpus"
    elif not typed and booking.accelerator is not None:
        types = sorted({kind for each in nodes for kind in each.accelerators or ()})
        short = f"no card is of type {booking.accelerator}, yours are {' and '.join(types)}"
        todo = "write one of these as its accelerator_type, or remove that line"
    elif booking.gpus and all_gpus > cards:
        short = f"the config books {_count(all_gpus, 'GPU')}, there are {cards}"
        todo = "share cards (num_gpus below 1, configs/qwen3-one-gpu.yaml), or leave a model out"
    elif all_cpus > cpus:
        resource, short = "cpus", f"the config books {_count(all_cpus, 'CPU')}, there are {cpus:g}"
        todo = "lower num_cpus under deployments (Ray books CPUs and does not enforce them)"
    else:
        resource = "gpus" if booking.gpus else "cpus"
        short, todo = "no node has room for it beside the others", "lower what it or they book"
    found = f"{booking.deployment} waits for {_needs(booking)}: {short}"
    return Wait(booking.deployment, resource, found, todo)


def _needs(resources: DeploymentResources) -> str:
    kind = "" if resources.accelerator is None else f" of type {resources.accelerator}"
    parts = [_count(resources.gpus, "GPU") + kind] if resources.gpus else []
    return " and ".join([*parts, _count(resources.cpus, "CPU")])


def _count(amount: float, what: str) -> str:
    return f"{amount:g} {what}{'' if amount == 1 else 's'}"
