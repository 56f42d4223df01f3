"""Usage accounting: sums of answered requests, by time, key, model and collection.

The device seconds of a request are its share of full batches by the model's latency curve, times
the devices that the model occupies. Texts whose vectors were known cost nothing.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, get_args

import orjson
from pydantic import BaseModel, ConfigDict

from router.domain import Model, Work
from router.errors import AdminKeyRequired, InvalidValue, UnknownField, shorten

HOUR_S, DAY_S = 3600, 86_400
PARAMETERS = ("from", "to", "by", "key")
_OFFSET = re.compile(r" ([0-9]{2}:[0-9]{2})$")  # a time zone whose + became a space in the query

By = Literal["key", "model", "collection"]
BY: tuple[By, ...] = get_args(By)


class Use(NamedTuple):
    """The usage of one answered request; "" if no key, or no collection, was named."""

    key: str
    model: str
    collection: str
    texts: int
    tokens: int
    device_s: float


class Sums(NamedTuple):
    """The usage of several requests; `cost` is of those whose model has a price."""

    requests: int = 0
    texts: int = 0
    tokens: int = 0
    device_s: float = 0.0
    cost: float | None = None

    def plus(self, other: "Sums") -> "Sums":
        """The sum of both."""
        if self.cost is None or other.cost is None:
            cost = other.cost if self.cost is None else self.cost
        else:
            cost = self.cost + other.cost
        return Sums(
            self.requests + other.requests,
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.device_s + other.device_s,
            cost,
        )


NO_USE = Sums()


class Slot(NamedTuple):
    """A span of time, and the key, model and collection of its sums."""

    start_s: int
    length_s: int
    key: str
    model: str
    collection: str


Slots = dict[Slot, Sums]


def device_s(model: Model, work: Work) -> float:
    """The share of full batches that this work takes, in device seconds."""
    if not work.tokens:
        return 0.0
    curve, share = model.curve, work.tokens / model.curve.batch_tokens
    seconds = (
        curve.base_s * share
        + curve.s_per_token * work.tokens
        + curve.s_per_token_sq * work.tokens_sq
        + curve.s_per_text * work.texts
    )
    return max(seconds, curve.fixed_s * share) * model.devices


def add(slots: Slots, now: float, use: Use, device_hour_cost: float | None) -> None:
    """Count one request that was answered."""
    slot = Slot(int(now), 1, use.key, use.model, use.collection)
    requests, texts, tokens, seconds, cost = slots.get(slot, NO_USE)
    if device_hour_cost is not None:
        cost = (cost or 0.0) + use.device_s / HOUR_S * device_hour_cost
    slots[slot] = Sums(
        requests + 1, texts + use.texts, tokens + use.tokens, seconds + use.device_s, cost
    )


def merge(slots: Slots, more: Iterable[tuple[Slot, Sums]]) -> None:
    """Add the sums in `more` to `slots`."""
    for slot, sums in more:
        before = slots.get(slot)
        slots[slot] = sums if before is None else before.plus(sums)


def folded(slots: Iterable[tuple[Slot, Sums]], now: float) -> Slots:
    """Fold sums: by the second for an hour, by the minute for a day, and then by the hour."""
    made: Slots = {}
    merge(made, ((slot_at(slot, now), sums) for slot, sums in slots))
    return made


def slot_at(slot: Slot, now: float) -> Slot:
    """The slot that holds the sums of this slot at its age."""
    age_s = now - slot.start_s
    length_s = max(slot.length_s, 1 if age_s < HOUR_S else 60 if age_s < DAY_S else HOUR_S)
    return slot._replace(start_s=slot.start_s - slot.start_s % length_s, length_s=length_s)


class FoldedSlots:
    """Sums in memory, folded as by `folded`; a slot is visited again only when it is due."""

    def __init__(self) -> None:
        self._by_length = {length_s: OrderedDict[Slot, Sums]() for length_s in (1, 60, HOUR_S)}

    def __len__(self) -> int:
        return sum(map(len, self._by_length.values()))

    def merge(self, more: Iterable[tuple[Slot, Sums]], now: float) -> int:
        """Add sums, and fold the slots that became old; returns how many slots were moved."""
        for slot, sums in more:
            merge(self._by_length[slot.length_s], [(slot, sums)])
        moved = 0
        for length_s, age_s in ((1, HOUR_S), (60, DAY_S)):
            slots = self._by_length[length_s]
            while slots and now - next(iter(slots)).start_s >= age_s:
                slot, sums = slots.popitem(last=False)
                longer = slot_at(slot, now)
                merge(self._by_length[longer.length_s], [(longer, sums)])
                moved += 1
        return moved

    def items(self) -> Iterator[tuple[Slot, Sums]]:
        """All slots."""
        for slots in self._by_length.values():
            yield from slots.items()


def lines(slots: Iterable[tuple[Slot, Sums]]) -> bytes:
    """The slots as JSON lines."""
    return b"".join(
        orjson.dumps([*slot, *sums], option=orjson.OPT_APPEND_NEWLINE) for slot, sums in slots
    )


def read_lines(raw: Iterable[bytes], strict: bool = False) -> Iterator[tuple[Slot, Sums]]:
    """Read the slots of a file; skips incomplete lines, and lines of another form. With `strict`,
    the latter raise ValueError.
    """
    for line in raw:
        if line.endswith(b"\n"):
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if _is_row(values):
                yield Slot(*values[:5]), Sums(*values[5:])
            elif strict:
                raise ValueError("a line has another form")


def _is_row(values: Any) -> bool:
    """Whether these are a slot and its sums."""
    return (
        isinstance(values, list)
        and len(values) == len(Slot._fields) + len(Sums._fields)
        and all(type(value) is int for value in values[:2])
        and values[1] > 0
        and all(isinstance(value, str) for value in values[2:5])
        and all(isinstance(value, int | float) for value in values[5:-1])
        and (values[-1] is None or isinstance(values[-1], int | float))
    )


class UsageQuery(NamedTuple):
    """A query for usage; `key` None: all keys."""

    from_s: float
    to_s: float
    by: tuple[By, ...]
    key: str | None

    def touches(self, start_s: float, end_s: float) -> bool:
        """Whether a span of time overlaps the range."""
        return start_s < self.to_s and end_s > self.from_s


class UsageRow(BaseModel):
    """One row of usage. A field is null if rows are not grouped by it or requests named none."""

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
    """The usage of answered requests."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    data: list[UsageRow]
    kept: Literal["folder", "memory"]
    since: str | None


def parse_usage(
    query: Sequence[tuple[str, str]], now: float, own: str, admin: bool, path: str
) -> UsageQuery:
    """Check the query of a key; raises UnknownField, InvalidValue or AdminKeyRequired."""
    given: dict[str, str] = {}
    by = list[str]()
    for name, value in query:
        if name not in PARAMETERS:
            raise UnknownField(name, PARAMETERS)
        if name == "by":
            by += value.split(",")
        else:
            given[name] = value
    for column in by:
        if column not in BY:
            raise InvalidValue(f"by must be any of {', '.join(BY)}, it is {shorten(column)}", "by")
    key = given.get("key", None if admin else own)
    if key != own and not admin:
        raise AdminKeyRequired(path)
    from_s = _time(given["from"], "from") if "from" in given else 0.0
    to_s = _time(given["to"], "to") if "to" in given else now + DAY_S
    if to_s < from_s:
        raise InvalidValue("to must not be before from", "to")
    return UsageQuery(from_s, to_s, tuple(column for column in BY if column in by) or BY, key)


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
    query: UsageQuery,
    kept: Literal["folder", "memory"],
    since_s: float | None,
) -> Usage:
    """The answer: sums of the slots that overlap the range."""
    totals: dict[tuple[str, ...], Sums] = {}
    for slot, sums in slots:
        if not query.touches(slot.start_s, slot.start_s + slot.length_s):
            continue
        if query.key is None or slot.key == query.key:
            group = tuple(getattr(slot, name) if name in query.by else "" for name in BY)
            totals[group] = totals.get(group, Sums()).plus(sums)
    since = None if since_s is None else datetime.fromtimestamp(since_s, UTC).isoformat()
    return Usage(data=[_row(*total) for total in sorted(totals.items())], kept=kept, since=since)


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
