"""Build and run a simulation from a scenario and a config."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from router.capacity import Autoscaler
from router.config import Autoscaling, RouterArgs
from router.decision_log import Logged
from router.domain import Curve, Model, Request, Work
from router.models import build_policy
from router.sim.backlog import Backlog
from router.sim.baselines import CHOOSERS
from router.sim.oracle import Bound, fluid_bound
from router.sim.outcome import Outcome
from router.sim.replicas import EXACT, Noise
from router.sim.routers import ALL, Chooser, Corrections
from router.sim.scaling import Bounds, ByTokensScaler
from router.sim.scenario import Class, Scenario
from router.sim.simulation import Fault, Simulation, SimulationInputs
from router.sim.traffic import (
    Arrival,
    Kind,
    Piece,
    Rate,
    Shape,
    Shapes,
    full_rate,
    pieces_of,
    poisson,
    replayed,
)
from router.strict import ConfigError


@dataclass(frozen=True, slots=True)
class Fleet:
    """The parts of a config file outside `args:`: replicas of each model and how they scale."""

    replicas: Mapping[str, int]
    bounds: Mapping[str, Bounds]
    scaling: Autoscaling
    scales: bool = False  # the config scales by tokens


@dataclass(frozen=True, slots=True)
class World:
    """Everything a run needs except its policy; the same world gives the same arrivals."""

    scenario: Scenario
    args: RouterArgs
    models: Mapping[str, Model]  # curves as the routers know them
    profile: str  # where the curves come from, for display
    fleet: Fleet
    trace: Sequence[tuple[float, int]] = ()  # seconds and tokens
    log: Sequence[Logged] = ()
    # in the place of the scenario's and the config's; `traffic.load` is still a share of theirs
    other_replicas: Mapping[str, int] = field(default_factory=dict)

    @property
    def declared_replicas(self) -> dict[str, int]:
        """Replicas at the start, as the scenario or the config says."""
        given = self.scenario.replicas
        return {name: given.get(name, self.fleet.replicas.get(name, 1)) for name in self.models}

    @property
    def replicas(self) -> dict[str, int]:
        """Replicas at the start."""
        return {**self.declared_replicas, **self.other_replicas}

    def with_replicas(self, replicas: Mapping[str, int]) -> "World":
        """Return a copy with other replicas and the same traffic."""
        return replace(self, other_replicas=dict(replicas))

    def updated(self, **changes: Any) -> "World":
        """Return a copy with changed fields of the scenario."""
        return replace(self, scenario=self.scenario.model_copy(update=changes))

    def under(self, way: "PolicyVariant") -> "World":
        """Return a copy whose requests get the tiers and the default budget of a policy."""
        return self if way.args is None else replace(self, args=way.args)


@dataclass(frozen=True, slots=True)
class PolicyVariant:
    """A way to choose models in a run."""

    name: str
    args: RouterArgs | None = None  # replaces the config's, with other routing and tiers
    chooser: str | None = None  # a baseline
    choose: Chooser | None = None  # a baseline that has no name
    informed: bool = False  # one router, no stale reports, and steps exactly as the curves predict
    corrections: Corrections | None = None
    plain: bool = False  # every request is dispatched at once, to any replica
    two_choices: bool = False  # small texts go to the less loaded of two replicas


def shapes_of(world: World, tokens: Iterable[int] | None = None) -> Shapes:
    """Create the generator of request shapes for the declared classes."""
    default_ms = world.args.routing.default_budget_ms
    classes = world.scenario.traffic.classes
    kinds = [_kind(name, one, default_ms) for name, one in classes.items()]
    return Shapes(kinds, world.models, world.args.models, tokens)


def mean_rate(world: World) -> float:
    """Requests per second without bursts; the highest in the scenario's time where rates are given
    by hour. `load` is a share of the rate that keeps the declared replicas fully busy.

    Raises ConfigError if they are none.
    """
    traffic = world.scenario.traffic
    if traffic.load is not None:
        shapes = shapes_of(world, _repeated(world))
        full = full_rate(shapes, world.models, world.declared_replicas)
        if not full:
            raise ConfigError(
                [
                    "traffic.load is a share of what replicas can do, and no model that the "
                    "requests need has one; write `replicas:` above 0, or requests_per_s"
                ]
            )
        return traffic.load * full * traffic.scale
    if isinstance(traffic.requests_per_s, Mapping):
        return Rate(_points(world, 0.0)).highest(world.scenario.seconds)
    return (traffic.requests_per_s or 0.0) * traffic.scale


def arrivals(world: World, rate: float) -> Iterator[Arrival]:
    """Every request of the scenario, in order."""
    scenario = world.scenario
    rng = Random(f"arrivals {scenario.seed}")
    if world.log:
        return logged(world)
    if world.trace:
        times = [at_s for at_s, _ in world.trace]
        return replayed(times, rate, scenario.seconds, shapes_of(world, _repeated(world)), rng)
    return poisson(rate_of(world, rate), scenario.seconds, shapes_of(world), rng)


def rate_of(world: World, rate: float) -> Rate:
    """The rate over time of declared traffic; `rate` unless it is given by hour."""
    bursts = [(one.at_s, one.seconds, one.times) for one in world.scenario.traffic.bursts]
    return Rate(_points(world, rate), bursts)


def _points(world: World, rate: float) -> list[tuple[float, float]]:
    traffic = world.scenario.traffic
    if not isinstance(traffic.requests_per_s, Mapping):
        return [(0.0, rate)]
    hours = sorted(traffic.requests_per_s.items())
    return [(3600.0 * hour, each * traffic.scale) for hour, each in hours]


def run(
    world: World,
    way: PolicyVariant,
    rate: float | None = None,
    watch: Callable[[float], None] | None = None,
    scaling: Callable[..., Autoscaler] = Autoscaler,
    backlog: Backlog | None = None,
) -> Outcome:
    """Simulate the scenario with one way of choosing models, and one of scaling them; `backlog`
    counts too.
    """
    rate = mean_rate(world) if rate is None else rate
    arriving, scaler = arrivals(world.under(way), rate), _scaler(world, scaling)
    simulation = Simulation(setup_of(world, way), arriving, length_s(world, rate), scaler, watch)
    simulation.outcome.backlog = backlog
    return simulation.run()


def length_s(world: World, rate: float) -> float:
    """Seconds with arrivals: the scenario's, or its trace's if that ends earlier."""
    seconds = world.scenario.seconds
    return min(seconds, (len(world.trace) - 1) / rate) if world.trace else seconds


def setup_of(world: World, way: PolicyVariant) -> SimulationInputs:
    """Build the inputs of the simulation."""
    scenario, args = world.scenario, way.args or world.args
    policy = build_policy(args.routing, args.tiers)
    noise = Noise(
        scenario.noise.sigma, scenario.noise.stall_share, scenario.noise.stall_ms / 1000.0
    )
    reports, error = scenario.reports, scenario.profile_error
    setup = SimulationInputs(
        args,
        world.models,
        policy,
        world.replicas,
        packs={name: one.engine.reports_vllm_metrics for name, one in args.models.items()},
        curves={
            name: slowed(model.curve, error) for name, model in world.models.items() if error != 1.0
        },
        routers=scenario.routers,
        noise=noise,
        report_every_s=None if reports.every_ms is None else reports.every_ms / 1000.0,
        reports_in_replies=reports.in_replies,
        corrections=way.corrections or ALL,
        faults=tuple(
            Fault(one.at_s, one.model, one.replicas, one.times, one.seconds or 0.0, one.restart_s)
            for one in scenario.faults
        ),
        plain=way.plain,
        two_choices=way.two_choices,
        warm_up_s=scenario.warm_up_s,
        seed=scenario.seed,
    )
    if way.chooser is not None:
        setup = replace(setup, choose=CHOOSERS[way.chooser])
    if way.choose is not None:
        setup = replace(setup, choose=way.choose)
    if way.informed:
        setup = replace(
            setup,
            noise=EXACT,
            curves={},
            models=true_models(world),
            routers=1,
            report_every_s=None,
            reports_in_replies=True,
        )
    return setup


def slowed(curve: Curve, times: float) -> Curve:
    """A curve whose steps take `times` times as long."""
    return replace(
        curve,
        fixed_s=curve.fixed_s * times,
        base_s=curve.base_s * times,
        s_per_token=curve.s_per_token * times,
        s_per_token_sq=curve.s_per_token_sq * times,
        s_per_text=curve.s_per_text * times,
    )


def true_models(world: World) -> Mapping[str, Model]:
    """The models with the curves that steps follow, which routers do not know if the scenario has a
    `profile_error`.
    """
    error = world.scenario.profile_error
    if error == 1.0:
        return world.models
    return {
        name: replace(model, curve=slowed(model.curve, error))
        for name, model in world.models.items()
    }


def bound_of(world: World) -> Bound:
    """The fluid bound on a world's arrivals, whose replicas are fixed."""
    args, rate = world.args, mean_rate(world)
    replicas = {  # the first request for a model can start one
        name: many or int(args.models[name].cold_start_s is not None)
        for name, many in world.replicas.items()
    }
    return fluid_bound(
        arrivals(world, rate), true_models(world), replicas, world.scenario.warm_up_s
    )


def logged(world: World) -> Iterator[Arrival]:
    """The requests of a decision log, under the config's own tiers and budgets."""
    scale, seconds = world.scenario.traffic.scale, world.scenario.seconds
    first_s = min(one.entry.began_s for one in world.log)
    for one in sorted(world.log, key=lambda one: one.entry.began_s):
        at_s = (one.entry.began_s - first_s) / scale
        if at_s >= seconds:
            return
        if any(name in world.models for name in one.entry.request.work):  # not only a student
            yield Arrival(at_s, _shape(one, world))


def check_log(log: Sequence[Logged], args: RouterArgs, name: str) -> None:
    """Raise ConfigError if the log is empty, names a model that the config does not have, or lacks
    one that a request could use.
    """
    if not log:
        raise ConfigError([f"{name} has no requests; `decision_log:` in the config writes them"])
    for one in log:
        request, problem = one.entry.request, None
        if unknown := [model for model in request.work if model not in args.models]:
            problem = f"has model {unknown[0]!r}, this config has {', '.join(args.models)}"
        elif missing := [model for model in _usable(request, args) if model not in request.work]:
            problem = f"lacks model {missing[0]!r} of this config"
        if problem is not None:
            raise ConfigError(
                [
                    f"{name} is a log of another config: it {problem}; give the config that it was "
                    "written under with --config"
                ]
            )


def _usable(request: Request, args: RouterArgs) -> list[str]:
    """The simulated models that this request is allowed; none if it is not simulated."""
    if args.native.keys().isdisjoint(request.work):
        return []
    allowed = [each for each in (request.permitted, request.candidates) if each is not None]
    return [name for name in args.native if all(name in each for each in allowed)]


def _shape(one: Logged, world: World) -> Shape:
    entry, args = one.entry, world.args
    request, default_ms = entry.request, args.routing.default_budget_ms
    own = {name: work for name, work in request.work.items() if name in world.models}
    if entry.own_budget and request.deadline_s is not None:
        budget_s: float | None = request.deadline_s - entry.arrived_s
    else:
        budget_s = None if default_ms is None else default_ms / 1000.0
    target, strict = request.target, request.strict
    if entry.tier is not None:
        tiers: Mapping[Any, str] = args.tiers
        target = tiers.get(entry.tier)
        strict = target is not None and args.routing.strict_tiers
    pieces = {
        name: pieces_of(_lengths(work), world.models[name].curve.batch_tokens, args.models[name])
        if work.tokens
        else tuple[Piece, ...]()
        for name, work in own.items()
    }
    key = entry.use.key if entry.use is not None else ""
    return Shape(
        "log",
        key or "log",
        request.features,
        own,
        pieces,
        budget_s,
        entry.priority == "bulk",
        request.input_type,
        request.on_miss,
        target,
        request.pinned,
        strict,
        request.candidates,
        request.permitted,
        request.unread,
        world.models,
        args.keys[key].weight if key in args.keys else 1.0,
    )


def _lengths(work: Work) -> list[int]:
    """Text lengths that add up to a request's work: the longest, and equal ones for the rest."""
    longest = min(work.longest, work.tokens)
    rest, others = work.tokens - longest, work.texts - 1
    if not others:
        return [work.tokens]
    each, more = divmod(rest, others)
    return [longest, *(max(1, each + (place < more)) for place in range(others))]


def _kind(name: str, one: Class, default_ms: float | None) -> Kind:
    budgets: Mapping[float | None, float]
    if isinstance(one.budget_ms, Mapping):
        budgets = {each / 1000.0: share for each, share in one.budget_ms.items()}
    else:
        own_ms = default_ms if one.budget_ms is None else one.budget_ms
        budgets = {None if own_ms is None else own_ms / 1000.0: 1.0}
    return Kind(
        name,
        one.share,
        one.tokens,
        one.languages,
        budgets,
        one.texts,
        one.priority == "bulk",
        one.code,
        one.input_type,
        one.on_budget_miss,
        one.tenant,
        one.model,
        one.weight,
    )


def _repeated(world: World) -> Iterator[int] | None:
    """The trace's own lengths, repeated forever; None if the scenario does not use them."""
    if not world.scenario.traffic.trace_lengths:
        return None

    def lengths() -> Iterator[int]:
        while True:
            for _, tokens in world.trace:
                yield max(1, tokens)

    return lengths()


def _scaler(world: World, made: Callable[..., Autoscaler]) -> ByTokensScaler | None:
    given, fleet = world.scenario.autoscaling, world.fleet
    if given is None:
        return None
    kept = fleet.scaling

    def first(value: float | None, other: float) -> float:
        return other if value is None else value

    policy = made(
        first(given.utilisation, kept.utilisation),
        first(given.drain_s, kept.drain_s),
        max(given.start_s, kept.start_s) if fleet.scales else given.start_s,
        first(given.hold_s, kept.hold_s),
        first(given.slack, kept.slack),
    )
    bounds = {}
    for name in world.models:
        if name not in fleet.bounds and given.max_replicas is None:
            continue  # its number of replicas is fixed
        own = fleet.bounds.get(name, Bounds(1, 10, 3.0, 10.0))
        bounds[name] = Bounds(
            own.least if given.min_replicas is None else given.min_replicas,
            own.most if given.max_replicas is None else given.max_replicas,
            first(given.upscale_delay_s, own.up_delay_s),
            first(given.downscale_delay_s, own.down_delay_s),
        )
    return ByTokensScaler(policy, bounds, given.start_s, given.every_s, kept.devices)
