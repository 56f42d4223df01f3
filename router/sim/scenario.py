"""The schema of a scenario file: traffic, replicas and faults."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from router.codes import by_language
from router.domain import OnMiss
from router.engine_config import (
    Flag,
    Float,
    Int,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Section,
)
from router.sim.baselines import CHOOSERS
from router.strict import ConfigError, sentences, suggestion, unknown_keys

Share = Annotated[Float, Field(ge=0.0, le=1.0)]
Shares = dict[str, NonNegativeFloat]


class Class(Section):
    """One class of requests."""

    share: PositiveFloat = 1.0  # of the requests; shares need not add up to 1
    tokens: tuple[PositiveInt, PositiveInt] = (10, 60)  # of a text, uniform between the two
    texts: PositiveInt = 1  # in each request
    languages: Shares = Field(default_factory=lambda: {"en": 1.0}, min_length=1)
    code: Share = 0.0  # share of the requests that are code
    # one budget, or several with their shares; by default none
    budget_ms: PositiveFloat | dict[PositiveFloat, PositiveFloat] | None = None
    on_budget_miss: OnMiss = OnMiss.DEGRADE
    priority: Literal["interactive", "bulk"] = "interactive"
    input_type: Literal["query", "document"] | None = None
    tenant: str = ""  # by default the name of the class
    weight: PositiveFloat = 1.0  # of the tenant in fair queueing
    model: str | None = None  # pinned by the caller

    @field_validator("languages")
    @classmethod
    def _known_languages(cls, languages: dict[str, float]) -> dict[str, float]:
        languages = by_language(languages)
        if not sum(languages.values()):
            raise ValueError("one of the languages needs a share above 0")
        return languages

    @field_validator("tokens")
    @classmethod
    def _in_order(cls, tokens: tuple[int, int]) -> tuple[int, int]:
        if tokens[0] > tokens[1]:
            raise ValueError(f"the smaller number comes first, not {tokens[0]} before {tokens[1]}")
        return tokens


class Burst(Section):
    """An interval in which the rate is multiplied by `times`."""

    at_s: NonNegativeFloat
    seconds: PositiveFloat
    times: PositiveFloat


class Traffic(Section):
    """The requests that arrive, and their rate."""

    # a rate, or rates by hour with linear interpolation
    requests_per_s: PositiveFloat | dict[NonNegativeFloat, NonNegativeFloat] | None = None
    # instead: 1 is the rate that keeps the replicas of the largest model fully busy, or those of
    # a model that requests are pinned to
    load: PositiveFloat | None = None
    scale: PositiveFloat = 1.0  # factor on the rate
    bursts: tuple[Burst, ...] = ()
    trace: str | None = None  # a file of arrival times, replayed at the rate above
    trace_lengths: Flag = False  # use the trace's token counts too
    log: str | None = None  # a decision log, replayed at its own rate times `scale`
    classes: dict[str, Class] = Field(default_factory=lambda: {"queries": Class()}, min_length=1)

    @model_validator(mode="after")
    def _one_rate(self) -> "Traffic":
        given = [self.requests_per_s is not None, self.load is not None, self.log is not None]
        if sum(given) != 1:
            raise ValueError("give one of requests_per_s, load and log")
        if isinstance(self.requests_per_s, dict) and not any(self.requests_per_s.values()):
            raise ValueError("requests_per_s needs a rate above 0 at one of its hours")
        if self.trace_lengths and self.trace is None:
            raise ValueError("trace_lengths needs a trace")
        if self.log is not None and (self.trace is not None or self.bursts):
            raise ValueError("a log has its own times: no trace and no bursts beside it")
        if self.trace is not None and (self.bursts or isinstance(self.requests_per_s, dict)):
            raise ValueError("a trace has its own times: no bursts and no rates by hour beside it")
        return self


class NoiseSection(Section):
    """Deviation of steps from the profile."""

    sigma: NonNegativeFloat = 0.05  # of the step time's logarithm
    stall_share: Share = 0.0005  # of the steps
    stall_ms: NonNegativeFloat = 50.0


class Reports(Section):
    """The reports by which routers receive the loads of replicas."""

    in_replies: Flag = True  # as in production
    every_ms: PositiveFloat | None = None  # interval of additional reports


class FaultSection(Section):
    """A fault of a model's replicas: they die, or are `times` slower for some seconds."""

    at_s: NonNegativeFloat
    model: str
    replicas: PositiveInt = 1
    times: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    restart_s: PositiveFloat | None = None  # until a dead one is replaced

    @model_validator(mode="after")
    def _whole(self) -> "FaultSection":
        if (self.times is None) != (self.seconds is None):
            raise ValueError("times and seconds go together: a replica is slower for so long")
        if self.times is not None and self.restart_s is not None:
            raise ValueError("restart_s is for replicas that die; these are slow")
        return self


class ScalingSection(Section):
    """Autoscaling; values given here override the config's."""

    start_s: PositiveFloat = 90.0  # until a started replica is ready
    every_s: PositiveFloat = 2.0
    min_replicas: Annotated[Int, Field(ge=0)] | None = None
    max_replicas: PositiveInt | None = None
    upscale_delay_s: NonNegativeFloat | None = None
    downscale_delay_s: NonNegativeFloat | None = None
    utilisation: Float | None = Field(default=None, gt=0.0, le=1.0)
    drain_s: PositiveFloat | None = None
    hold_s: NonNegativeFloat | None = None
    slack: Float | None = Field(default=None, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _in_order(self) -> "ScalingSection":
        least, most = self.min_replicas, self.max_replicas
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_replicas is {least}, more than max_replicas, {most}")
        return self


class Goal(Section):
    """The goal of a plan."""

    on_time: Share = 0.99
    # points that it can lose compared with the same decisions without load
    quality_loss: NonNegativeFloat = 1.0


class Scenario(Section):
    """A whole scenario file."""

    about: str = ""
    config: str | None = None  # relative to the scenario; --config overrides it
    profiles: str | None = None  # a file of profiles that replace the config's curves
    seconds: PositiveFloat = 60.0
    warm_up_s: NonNegativeFloat = 0.0  # earlier arrivals are not counted
    seed: Int = 0
    traffic: Traffic
    replicas: dict[str, Annotated[Int, Field(ge=0)]] = Field(default_factory=dict)
    routers: PositiveInt = 1
    reports: Reports = Reports()
    noise: NoiseSection = NoiseSection()
    slower: PositiveFloat = 1.0  # factor on the profile's seconds, for slower cards
    profile_error: PositiveFloat = 1.0  # the same, but unknown to the routers
    faults: tuple[FaultSection, ...] = ()
    autoscaling: ScalingSection | None = None
    policy: str | None = None  # a file, `rules`, or a baseline; --policy overrides it
    gpu_hour: NonNegativeFloat | dict[str, NonNegativeFloat] | None = None  # cost of one device
    goal: Goal = Goal()

    @model_validator(mode="after")
    def _fits(self) -> "Scenario":
        if self.traffic.log is None and self.warm_up_s >= self.seconds:
            raise ValueError("warm_up_s must be less than seconds, or nothing is counted")
        return self


def parse_scenario(data: Any) -> Scenario:
    """Parse a scenario. Raises ConfigError."""
    if not isinstance(data, Mapping):
        raise ConfigError(["a scenario is a mapping with `traffic:`; docs/simulator.md has them"])
    unknown = unknown_keys(Scenario, data)
    try:
        scenario = Scenario.model_validate(data)
    except ValidationError as error:
        raise ConfigError(unknown + sentences(error, data)) from None
    if unknown:
        raise ConfigError(unknown)
    return scenario


def check_models(
    scenario: Scenario, models: Mapping[str, Any], replicas: Iterable[str] = ()
) -> list[str]:
    """Return an error for each model that the scenario or `replicas` names and the config does not
    have, and for those without a cost if others have one.
    """
    named = [
        (f"replicas.{name}", name) for name in {**scenario.replicas, **dict.fromkeys(replicas)}
    ]
    named += [(f"faults[{place}].model", one.model) for place, one in enumerate(scenario.faults)]
    named += [
        (f"traffic.classes.{name}.model", one.model)
        for name, one in scenario.traffic.classes.items()
        if one.model is not None
    ]
    if isinstance(scenario.gpu_hour, dict):
        named += [(f"gpu_hour.{name}", name) for name in scenario.gpu_hour]
    problems = [
        f"{where}: the config has no model {name!r}; {suggestion(name, models, 'it has')}"
        for where, name in named
        if name not in models
    ]
    if isinstance(scenario.gpu_hour, dict) and (missing := models.keys() - scenario.gpu_hour):
        problems.append(f"gpu_hour: no cost for {', '.join(sorted(missing))}; give one for each")
    return problems


POLICIES = ("rules", *CHOOSERS)
