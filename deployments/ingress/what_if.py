"""/v1/what-if: other routing rules, and how the last requests would have moved under them.

A policy is checked like a config reload, so its errors are the sentences of `check-config`. The
requests are those of one router replica (deployments/service/recent.py). router/replay.py decides
them again, each with the loads of its own moment, so times are predictions.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import yaml

from deployments.service.recent import Recent, milliseconds
from router.config import RouterArgs
from router.decision_log import Logged
from router.domain import Tier
from router.errors import InvalidJson, InvalidValue, UnknownField
from router.replay import Other, Side, Summary, replay
from router.strict import ConfigError, changed
from router.strict_yaml import read

SECTIONS = ("routing", "tiers")
MAX_BODY_BYTES = 32 * 1024  # ten times the longest policy we have seen; YAML is read at 100 kB/s
MAX_DEPTH = 16
MAX_PROBLEMS = 20
# fields of a policy that are shown even at their defaults
SHOWN = (
    "policy",
    "default_tier",
    "rules",
)


class WhatIf:
    """Replays the last decisions, one policy at a time and in a thread, so that served requests
    never wait for it.
    """

    def __init__(self, recent: Recent) -> None:
        self._recent = recent
        self._one_at_a_time = asyncio.Semaphore(1)

    async def answer(self, args: RouterArgs, body: bytes, content_type: str, routers: int) -> bytes:
        """The JSON answer for a policy in `body`; `args` is the router's current config. Raises
        RouterError.
        """
        async with self._one_at_a_time:
            return await asyncio.to_thread(
                self._answer, args, body, content_type, self._recent.logged(), routers
            )

    def _answer(
        self, args: RouterArgs, body: bytes, content_type: str, log: list[Logged], routers: int
    ) -> bytes:
        other = parse(args, body, content_type)
        summary = replay(
            log, Other(other.routing, {Tier(tier): model for tier, model in other.tiers.items()})
        )
        since, until = (log[0].entry.at_s, log[-1].entry.at_s) if log else (None, None)
        return orjson.dumps(
            {
                "object": "what_if",
                "router": self._recent.router,
                "routers": routers,
                "since_s": since,
                "until_s": until,
                **shown(summary),
            }
        )


def current(args: RouterArgs) -> bytes:
    """The routing rules and tiers in force, as the YAML that /v1/what-if takes."""
    routing = args.routing.model_dump(mode="json")
    plain = args.routing.model_dump(mode="json", exclude_defaults=True)
    policy = {
        "routing": {
            name: plain.get(name, value)
            for name, value in routing.items()
            if name in SHOWN or name in plain
        },
        "tiers": {str(tier): model for tier, model in args.tiers.items()},
    }
    # Conditions of rules on one line, as people write them; tiers on separate lines.
    parts = (
        yaml.safe_dump(
            {name: policy[name]},
            sort_keys=False,
            allow_unicode=True,
            default_flow_style=flow,
            width=70,
        )
        for name, flow in (("routing", None), ("tiers", False))
    )
    return "".join(parts).encode()


def parse(args: RouterArgs, body: bytes, content_type: str) -> RouterArgs:
    """`args` with the routing and tiers in `body`: JSON if the content type says so, otherwise
    YAML. Raises RouterError.
    """
    data = (
        _json(body)
        if content_type.partition(";")[0].strip().lower() == "application/json"
        else _yaml(body)
    )
    if not isinstance(data, Mapping):
        raise InvalidValue("the body must be a mapping with `routing:`, `tiers:` or both")
    for key in data:
        if key not in SECTIONS:
            raise UnknownField(str(key), SECTIONS)
    try:
        return changed(args.model_dump(mode="json"), data)
    except ConfigError as error:
        raise _refused(error) from None


def shown(summary: Summary) -> dict[str, Any]:
    """A replay's summary for HTTP, in milliseconds."""
    measured = summary.measured
    return summary.as_dict() | {
        "before": _side(summary.before),
        "after": _side(summary.after),
        "measured": {
            "p50_ms": milliseconds(measured.p50_s),
            "p95_ms": milliseconds(measured.p95_s),
            "misses": measured.misses,
        },
    }


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not JSON: {error}; send YAML as application/yaml") from None


def _yaml(body: bytes) -> Any:
    if not body.strip():
        raise InvalidValue("the body is empty; GET /v1/what-if has the policy to start from")
    try:
        depth = 0
        for event in yaml.parse(body, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
                event, yaml.CollectionEndEvent
            )
            if depth > MAX_DEPTH:
                raise InvalidValue(f"the policy is nested deeper than {MAX_DEPTH} levels")
            # a few of them can expand to more data than a machine holds
            if isinstance(event, yaml.AliasEvent):
                raise InvalidValue(
                    f"YAML aliases are not read here; write out what *{event.anchor} stands for"
                )
    except (yaml.YAMLError, ValueError):
        pass  # `read` reports it with its line
    try:
        return read(body)
    except ConfigError as error:
        raise _refused(error) from None
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # bytes that are not text, an invalid date, a number of too many digits
        raise InvalidValue(f"not YAML: {' '.join(str(error).split())}") from None


def _refused(error: ConfigError) -> InvalidValue:
    first, rest = error.problems[:MAX_PROBLEMS], len(error.problems) - MAX_PROBLEMS
    return InvalidValue("\n".join([*first, *([f"and {rest} more"] if rest > 0 else [])]))


def _side(side: Side) -> dict[str, Any]:
    data = side._asdict()
    return {
        "p50_ms": milliseconds(data.pop("p50_s")),
        "p95_ms": milliseconds(data.pop("p95_s")),
        **data,
    }
