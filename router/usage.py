"""Who used what: the sums of requests that were answered, by time, key, model and collection.

The device seconds of a request are those of its share of full batches, by the model's latency
curve and times the devices that the model occupies. Texts whose vectors were known cost nothing.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

import orjson
from pydantic import BaseModel, ConfigDict

from router.domain import Model, Work
from router.errors import AdminKeyRequired, InvalidValue, UnknownField, shorten

HOUR_S, DAY_S = 3600, 86_400
PARAMETERS = ("from", "to", "by", "key")
_OFFSET = re.compile(r" ([0-9]{2}:[0-9]{2})$")  # of a time zone whose + a query made a space

By = Literal["key", "model", "collection"]
BY: tuple[By, ...] = get_args(By)


class Use(NamedTuple):
    """What one answered request used; "" where no key, or no collection, was named."""

    key: str
    model: str
    collection: str
    texts: int
    tokens: int
    device_s: float


class Sums(NamedTuple):
    """What several requests used; `cost` is of those whose model has a price."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    device_s: float = 0.0
    cost: float | None = None

    def plus(self, other: "Sums") -> "Sums":
        """Both together."""
        costs = [one for one in (self.cost, other.cost) if one is not None]
        return Sums(
            self.requests + other.requests,
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.device_s + other.device_s,
            sum(costs) if costs else None,
        )


class Slot(NamedTuple):
    """A stretch of time, and whose sums of it."""

    start_s: int
    length_s: int
    key: str
    model: str
    collection: str


Slots = dict[Slot, Sums]


def device_s(model: Model, work: Work) -> float:
    """The share of full batches that this work takes, in device seconds."""
    curve, share = model.curve, work.tokens / model.curve.batch_tokens
    if not work.tokens:
        return 0.0
    seconds = (
        curve.base_s * share
        + curve.s_per_token * work.tokens
        + curve.s_per_token_sq * work.tokens_sq
        + curve.s_per_text * work.texts
    )
    return max(seconds, curve.fixed_s * share) * model.devices


def add(slots: Slots, now: float, use: Use, device_hour_cost: float | None) -> None:
    """Count one request that was answered."""
    cost = None if device_hour_cost is None else use.device_s / HOUR_S * device_hour_cost
    own = Sums(1, use.texts, use.tokens, use.device_s, cost)
    merge(slots, [(Slot(int(now), 1, use.key, use.model, use.collection), own)])


def merge(slots: Slots, more: Iterable[tuple[Slot, Sums]]) -> None:
    """Count these too."""
    for slot, sums in more:
        before = slots.get(slot)
        slots[slot] = sums if before is None else before.plus(sums)


def folded(slots: Mapping[Slot, Sums], now: float) -> Slots:
    """The same sums by the second for an hour, by the minute for a day, and then by the hour."""
    made: Slots = {}
    for slot, sums in slots.items():
        age_s = now - slot.start_s
        length_s = max(slot.length_s, 1 if age_s < HOUR_S else 60 if age_s < DAY_S else HOUR_S)
        start_s = slot.start_s - slot.start_s % length_s
        merge(made, [(slot._replace(start_s=start_s, length_s=length_s), sums)])
    return made


def lines(slots: Mapping[Slot, Sums]) -> bytes:
    """The slots as JSON lines."""
    return b"".join(
        orjson.dumps([*slot, *sums], option=orjson.OPT_APPEND_NEWLINE)
        for slot, sums in slots.items()
    )


def read_lines(raw: bytes) -> Iterable[tuple[Slot, Sums]]:
    """The slots of a file; half a line at its end is passed over."""
    for line in raw.splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            yield Slot(*values[:5]), Sums(*values[5:])


class UsageQuery(NamedTuple):
    """What is asked for; `key` None: all keys."""

    from_s: float
    to_s: float
    by: tuple[By, ...]
    key: str | None

    def touches(self, start_s: float, end_s: float) -> bool:
        """Whether a stretch of time lies in the range, at least in part."""
        return start_s < self.to_s and end_s > self.from_s


class UsageRow(BaseModel):
    """What was used; null where it was not grouped by this, or none was named."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    key: str | None
    model: str | None
    collection: str | None
    requests: int
    texts: int
    tokens: int
    device_seconds: float
    cost: float | None


class Usage(BaseModel):
    """What answered requests used."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    data: list[UsageRow]
    kept: Literal["folder", "memory"]
    since: str | None


def parse_usage(
    query: Sequence[tuple[str, str]], now: float, own: str, admin: bool, path: str
) -> UsageQuery:
    """The checked query of a key; raises UnknownField, InvalidValue or AdminKeyRequired."""
    given: dict[str, str] = {}
    by = list[str]()
    for name, value in query:
        if name not in PARAMETERS:
            raise UnknownField(name, PARAMETERS)
        if name == "by":
            by += value.split(",")
        else:
            given[name] = value
    for one in by:
        if one not in BY:
            raise InvalidValue(f"by must be any of {', '.join(BY)}, it is {shorten(one)}", "by")
    key = given.get("key", None if admin else own)
    if key != own and not admin:
        raise AdminKeyRequired(path)
    from_s = _time(given["from"], "from") if "from" in given else 0.0
    to_s = _time(given["to"], "to") if "to" in given else now + DAY_S
    if to_s < from_s:
        raise InvalidValue("to must not be before from", "to")
    return UsageQuery(from_s, to_s, tuple(one for one in BY if one in by) or BY, key)


def _time(value: str, name: str) -> float:
    try:
        at = datetime.fromisoformat(_OFFSET.sub(r"+\1", value.strip()))
        if at.tzinfo is None or "T" not in value.upper().replace(" ", "T"):
            raise ValueError
        return at.timestamp()
    except (ValueError, OverflowError):
        raise InvalidValue(
            f"{name} must be a time of RFC 3339 such as 2026-01-31T12:00:00Z, it is "
            f"{shorten(value)}",
            name,
        ) from None


def usage(
    slots: Iterable[tuple[Slot, Sums]],
    asked: UsageQuery,
    kept: Literal["folder", "memory"],
    since_s: float | None,
) -> Usage:
    """The answer: sums of the slots that the range touches."""
    totals: dict[tuple[str, ...], Sums] = {}
    for slot, sums in slots:
        if not asked.touches(slot.start_s, slot.start_s + slot.length_s):
            continue
        if asked.key is None or slot.key == asked.key:
            group = tuple(getattr(slot, name) if name in asked.by else "" for name in BY)
            totals[group] = totals.get(group, Sums()).plus(sums)
    since = None if since_s is None else datetime.fromtimestamp(since_s, UTC).isoformat()
    return Usage(data=[_row(*one) for one in sorted(totals.items())], kept=kept, since=since)


def _row(group: tuple[str, ...], sums: Sums) -> UsageRow:
    named: dict[str, Any] = {name: value or None for name, value in zip(BY, group, strict=True)}
    return UsageRow(
        **named,
        requests=sums.requests,
        texts=sums.texts,
        tokens=sums.tokens,
        device_seconds=round(sums.device_s, 9),
        cost=None if sums.cost is None else round(sums.cost, 9),
    )
