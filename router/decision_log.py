"""The decision log: one JSON line per request, with all inputs of `decide`, but never the text.

    setting   the models and the policy; before the first request that was decided by them, and
              again whenever they change
    request   the request, the load of every model, the decision and the outcome
    lost      the number of requests that were not written because the writer could not keep up

Several routers can share a file: each line names its router. Some properties of a model differ from
request to request: its learned curve, and its quality in a space that it reaches by an adapter. A
request line therefore carries the properties that differ from its setting. JSON keeps every bit of
a float: deciding a logged request again under its own setting gives exactly the same decision
(router/replay.py).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import orjson

from router.domain import (
    Curve,
    Decision,
    Features,
    Load,
    LongTexts,
    Model,
    OnMiss,
    Prediction,
    Reason,
    Request,
    TextKind,
    Tier,
    Why,
    Work,
)
from router.rules import Floor, Policy
from router.stamps import Stamps
from router.usage import Use

FORMAT = 1
ANSWERED = "answered"
RERANK = "rerank"  # the arm of rerank requests


class LogError(ValueError):
    """A line that does not belong to a decision log; the message says which and why."""


class DecisionContext(NamedTuple):
    """The models, from small to large, and the parts of the config that decisions depend on."""

    models: Mapping[str, Model]
    policy: Policy
    tiers: Mapping[Tier, str]
    strict_tiers: bool
    default_budget_s: float | None
    # of an experiment; its requests are logged as those of a separate router
    arm: str | None = None


class LogEntry(NamedTuple):
    """One request, its decision and its outcome."""

    at_s: float  # of its end, seconds since 1970; the next two are on the router's own clock
    arrived_s: float
    now: float  # of the decision
    request: Request
    tier: Tier | None  # as requested; None if a model or a space was named
    own_budget: bool  # the caller gave the budget, not the config
    models: Mapping[str, Model]  # with their curves at that time
    loads: Mapping[str, Load]
    decision: Decision
    outcome: str  # "answered", the code of the error the caller got, or "cancelled"
    actual_s: float | None  # from arrival to the vectors
    space: str | None = None  # of the vectors; None: refused, or no vectors were requested
    encoder: str | None = None  # the kind of encoder that made them
    use: Use | None = None  # the usage of its key, if it was answered
    priority: str = "interactive"  # or "bulk"
    stamps: Stamps | None = None  # if they are recorded
    # models of whose encoders' recall, in `request.recalls`, a part was not measured
    assumed: frozenset[str] = frozenset()

    @property
    def began_s(self) -> float:
        """Its arrival in seconds since 1970; of a request that failed after its decision, later
        than it was by the time in between.
        """
        took_s = self.now - self.arrived_s if self.actual_s is None else self.actual_s
        return self.at_s - took_s

    @property
    def expected_recall(self) -> float | None:
        """The recall that the texts keep of the best search; None for the space's own model, and if
        a part of it was not measured.
        """
        model = self.decision.model
        if model is None or self.encoder in (None, "native") or model in self.assumed:
            return None
        return self.request.recalls.get(model)


class Logged(NamedTuple):
    """An entry and the setting under which it was decided."""

    context: DecisionContext
    entry: LogEntry


def setting_line(context: DecisionContext, router: str) -> bytes:
    """The line that precedes the requests decided by `context`."""
    policy = context.policy
    return _line(
        {
            "kind": "setting",
            "format": FORMAT,
            "router": router,
            "models": [asdict(model) for model in context.models.values()],
            "policy": {
                "default": policy.default,
                "floors": [asdict(floor) for floor in policy.floors],
                "min_share": policy.min_share,
                "max_unread": policy.max_unread,
                "default_is_named": policy.default_is_named,
            },
            "tiers": context.tiers,
            "strict_tiers": context.strict_tiers,
            "default_budget_s": context.default_budget_s,
            "arm": context.arm,
        }
    )


def entry_line(entry: LogEntry, context: DecisionContext, router: str) -> bytes:
    """The line of one request; a setting line of the same router must precede it."""
    request, decision = entry.request, entry.decision
    models = {name: _changes(model, context.models[name]) for name, model in entry.models.items()}
    return _line(
        {
            "kind": "request",
            "router": router,
            "at_s": entry.at_s,
            "arrived_s": entry.arrived_s,
            "now": entry.now,
            "tier": entry.tier,
            "own_budget": entry.own_budget,
            "priority": entry.priority,
            "request": request._asdict()
            | {
                "work": {name: work._asdict() for name, work in request.work.items()},
                "features": asdict(request.features),
                "unread": dict(request.unread),
                "recalls": dict(request.recalls),
                "unfit": dict(request.unfit),
            },
            "models": {name: changes for name, changes in models.items() if changes},
            "loads": {name: load._asdict() for name, load in entry.loads.items()},
            "decision": decision._asdict()
            | {
                "predictions": {
                    name: predicted._asdict() for name, predicted in decision.predictions.items()
                },
            },
            "outcome": entry.outcome,
            "actual_s": entry.actual_s,
            "space": entry.space,
            "encoder": entry.encoder,
            **({} if entry.use is None else {"use": entry.use._asdict()}),
            **({"assumed": sorted(entry.assumed)} if entry.assumed else {}),
        }
    )


def lost_line(requests: int, router: str) -> bytes:
    """The line for a number of requests that are missing here."""
    return _line({"kind": "lost", "router": router, "requests": requests})


def read(
    lines: Iterable[bytes], on_broken: Callable[[int], None] | None = None
) -> Iterator[Logged]:
    """Read the requests of a log in the order in which they were written.

    An incomplete last line is ignored. After a first valid line, lines that are not JSON (after a
    full disk or a crash) are skipped, and so are requests without a setting after such a line;
    `on_broken` is called with the number of each. Raises LogError for a line of another kind or
    format, and for other requests without a setting.
    """
    settings: dict[str, DecisionContext] = {}
    skip = on_broken or (lambda _: None)
    good = broken = False
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            return
        try:
            data = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if not good:
                raise LogError(f"line {number} is not of a decision log: {error}") from error
            broken = True
            skip(number)
            continue
        try:
            kind = data["kind"]
            if kind == "setting":
                settings[data["router"]] = _context(data)
            elif kind == "request":
                context = settings.get(data["router"])
                if context is not None:
                    yield Logged(context, _entry(data, context))
                elif not broken:
                    raise LogError("its setting is missing; a log is read from its beginning")
                else:
                    skip(number)
            elif kind != "lost":
                raise LogError(f"there is no kind {kind!r}")
        except (KeyError, TypeError, ValueError) as error:
            why = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise LogError(f"line {number} is not of a decision log: {why}") from error
        good = True


def _context(data: dict[str, Any]) -> DecisionContext:
    if data["format"] != FORMAT:
        raise LogError(f"its format is {data['format']}, this version reads {FORMAT}")
    models = {
        each["id"]: Model(**each | {"curve": Curve(**each["curve"]), "long": _long(each)})
        for each in data["models"]
    }
    policy = dict(data["policy"])
    if policy.pop("kind", "rules") != "rules":  # of 0.1, as is `quality_weight`
        raise LogError(
            "its requests were decided by `policy: priced`, which was removed in 0.2; read it with "
            "0.1, or take a log of `policy: rules`"
        )
    policy.pop("quality_weight", None)
    floors = tuple(
        Floor(
            **floor
            | {name: _set(floor[name]) for name in ("languages", "not_languages", "scripts")}
        )
        for floor in policy["floors"]
    )
    return DecisionContext(
        models,
        Policy(**policy | {"floors": floors}),
        {Tier(tier): model for tier, model in data["tiers"].items()},
        data["strict_tiers"],
        data["default_budget_s"],
        data.get("arm"),
    )


def _entry(data: dict[str, Any], context: DecisionContext) -> LogEntry:
    request, decision, changes = data["request"], data["decision"], data["models"]
    return LogEntry(
        at_s=data["at_s"],
        arrived_s=data["arrived_s"],
        now=data["now"],
        tier=None if data["tier"] is None else Tier(data["tier"]),
        own_budget=data["own_budget"],
        priority=data.get("priority", "interactive"),
        request=Request(
            **request
            | {
                "work": {name: Work(**work) for name, work in request["work"].items()},
                "features": _features(request["features"]),
                "candidates": _set(request["candidates"]),
                "permitted": _set(request["permitted"]),
                "on_miss": OnMiss(request["on_miss"]),
                "unfit": {name: Why(why) for name, why in request.get("unfit", {}).items()},
            }
        ),
        models={
            name: _changed(model, changes.get(name, {})) for name, model in context.models.items()
        },
        loads={name: _load(load) for name, load in data["loads"].items()},
        decision=Decision(
            **decision
            | {
                "reason": Reason(decision["reason"]),
                # logs of 0.1 have no such field: degraded by budget or load means pushed down
                "pushed_down": decision.get(
                    "pushed_down",
                    decision["degraded"] and decision["reason"] in ("budget", "late"),
                ),
                "whys": {name: Why(why) for name, why in decision["whys"].items()},
                "predictions": {
                    name: Prediction(**predicted)
                    for name, predicted in decision["predictions"].items()
                },
            }
        ),
        outcome=data["outcome"],
        actual_s=data["actual_s"],
        space=data.get("space"),
        encoder=data.get("encoder"),
        use=Use(**data["use"]) if data.get("use") else None,
        assumed=frozenset(data.get("assumed", ())),
    )


def _changes(model: Model, base: Model) -> dict[str, Any]:
    """The fields of `model` that differ from its setting."""
    if model is base:
        return {}
    was = asdict(base)
    return {name: value for name, value in asdict(model).items() if value != was[name]}


def _changed(base: Model, changes: dict[str, Any]) -> Model:
    if "curve" in changes:
        changes = changes | {"curve": Curve(**changes["curve"])}
    if "long" in changes:
        changes = changes | {"long": _long(changes)}
    return replace(base, **changes) if changes else base


def _long(model: dict[str, Any]) -> LongTexts | None:
    long = model.get("long")
    return None if long is None else LongTexts(**long)


def _load(load: dict[str, Any]) -> Load:
    known = {name: value for name, value in load.items() if name != "price"}  # of 0.1
    return Load(**known | {"beside_s": tuple(load.get("beside_s", ()))})


def _features(features: dict[str, Any]) -> Features:
    kinds = tuple(TextKind(**kind) for kind in features.get("kinds", ()))
    return Features(**features | {"kinds": kinds})


def _set(values: list[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _line(data: Mapping[str, Any]) -> bytes:
    return orjson.dumps(
        data, default=_plain, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    )


def _plain(value: object) -> object:
    if isinstance(value, frozenset):
        return sorted(value)
    raise TypeError(f"a decision log has no {type(value).__name__}")
