"""Simulated traffic: request shapes and arrival times."""

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, pairwise
from random import Random
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from router.calls import BulkSize, cuts, max_rows
from router.codes import usual_script
from router.domain import Features, Model, OnMiss, Request, Work, attention, work_of
from router.fair import Sender
from router.model_config import ModelConfig

BLOCK = 1024  # shapes drawn together
VARIETY = 256  # different multi-text requests of a class for each language and budget
LANGUAGES, BUDGETS, LENGTHS = 1 << 8, 1 << 8, 1 << 22  # the range of each in a key


class Piece(NamedTuple):
    """A part of a request that is sent as one chunk."""

    lengths: npt.NDArray[np.int32]
    tokens: int
    tokens_sq: int


_Parts: TypeAlias = tuple[dict[str, Work], dict[str, tuple[Piece, ...]]]


class Shape:
    """Everything about a request except its time; many requests share one shape."""

    __slots__ = (
        "budget_s", "bulk", "candidates", "features", "group", "input_type", "kind", "on_miss",
        "permitted", "pieces", "pinned", "points", "sender", "sent", "strict", "target", "tenant",
        "unread", "work",
    )  # fmt: skip

    def __init__(
        self,
        kind: str,
        tenant: str,
        features: Features,
        work: dict[str, Work],
        pieces: Mapping[str, tuple[Piece, ...]],
        budget_s: float | None = None,
        bulk: bool = False,
        input_type: str | None = None,
        on_miss: OnMiss = OnMiss.DEGRADE,
        target: str | None = None,
        pinned: bool = False,
        strict: bool = False,
        candidates: frozenset[str] | None = None,
        permitted: frozenset[str] | None = None,
        unread: Mapping[str, float] | None = None,
        models: Mapping[str, Model] | None = None,
        weight: float = 1.0,
    ) -> None:
        self.kind, self.tenant, self.features, self.work = kind, tenant, features, work
        self.group = (kind, tenant, features.language or "unknown")
        self.sender = Sender(tenant, weight)
        # tokens sent to replicas, by model
        self.sent = {name: sum(one.tokens for one in own) for name, own in pieces.items()}
        self.pieces, self.budget_s, self.bulk, self.input_type = pieces, budget_s, bulk, input_type
        self.on_miss, self.target, self.pinned, self.strict = on_miss, target, pinned, strict
        self.candidates, self.permitted, self.unread = candidates, permitted, unread or {}
        self.points = {  # None: the config gives no figure
            name: model.quality_of(features, work[name])
            for name, model in (models or {}).items()
            if name in work
        }

    def request(self, arrived_s: float) -> Request:
        """The decision's input for a request that arrives at `arrived_s`."""
        return Request(
            self.work,
            self.features,
            None if self.budget_s is None else arrived_s + self.budget_s,
            self.target,
            self.pinned,
            self.strict,
            self.candidates,
            self.permitted,
            self.on_miss,
            self.input_type,
            self.unread,
        )


class Arrival(NamedTuple):
    """A request that arrives at `at_s`."""

    at_s: float
    shape: Shape


class Kind(NamedTuple):
    """One class of requests, as the scenario declares it."""

    name: str
    share: float
    tokens: tuple[int, int]  # of a text, uniform between the two
    languages: Mapping[str, float]
    budgets_s: Mapping[float | None, float]
    texts: int = 1
    bulk: bool = False
    code: float = 0.0
    input_type: str | None = None
    on_miss: OnMiss = OnMiss.DEGRADE
    tenant: str = ""
    model: str | None = None  # pinned
    weight: float = 1.0  # of its tenant


class Shapes:
    """Draws shapes of the declared classes, a block at a time."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        models: Mapping[str, Model],
        configs: Mapping[str, ModelConfig],
        tokens: Iterable[int] | None = None,
    ) -> None:
        """`tokens` gives the text lengths in order and replaces the declared ones."""
        self._kinds, self._models, self._configs = kinds, models, configs
        self._lengths = None if tokens is None else iter(tokens)
        self._known: dict[int, Shape] = {}
        self._parts: dict[tuple[str | None, tuple[int, ...]], _Parts] = {}  # by pinned model
        self._drawn: Iterator[Shape] | None = None
        self._source: np.random.Generator | None = None

    def draw(self, rng: Random) -> Shape:
        """The next request's shape. Raises StopIteration when the given lengths have ended."""
        if self._drawn is None:
            self._drawn = self.stream(rng)
        return next(self._drawn)

    def stream(self, rng: Random) -> Iterator[Shape]:
        """The shapes of the next requests, until the given lengths have ended."""
        while block := self._block(rng):
            yield from block

    def _block(self, rng: Random) -> list[Shape]:
        """Draw the next shapes. One-text requests with the same key share a shape. A class has
        `VARIETY` multi-text shapes for each language and budget.
        """
        if self._source is None:
            self._source = np.random.default_rng(rng.getrandbits(64))
        source, many = self._source, BLOCK
        given = None
        if self._lengths is not None:
            given = np.asarray(list(islice(self._lengths, many)), np.int64)
            many = len(given)
        places = _picks([kind.share for kind in self._kinds], source.random(many))
        keys = np.zeros(many, np.int64)
        for place, kind in enumerate(self._kinds):
            rows = np.flatnonzero(places == place)
            languages, budgets, codes, sizes = source.random((4, len(rows)))
            least, most = kind.tokens
            if given is not None:
                own = given[rows]
            elif kind.texts == 1:
                own = least + (sizes * (most - least + 1)).astype(np.int64)
            else:
                own = (sizes * VARIETY).astype(np.int64)
            key = place * LANGUAGES + _picks(list(kind.languages.values()), languages)
            key = key * BUDGETS + _picks(list(kind.budgets_s.values()), budgets)
            key = key * 2 + (codes < kind.code)
            keys[rows] = key * LENGTHS + _coarse(np.minimum(own, LENGTHS - 1))
        return [self._known.get(key) or self._new(key) for key in keys.tolist()]

    def _new(self, key: int) -> Shape:
        rest, size = divmod(key, LENGTHS)
        rest, code = divmod(rest, 2)
        rest, budget = divmod(rest, BUDGETS)
        place, language = divmod(rest, LANGUAGES)
        kind = self._kinds[place]
        counts: tuple[int, ...] = (size,)
        if self._lengths is None and kind.texts > 1:
            rng, (least, most) = Random(key), kind.tokens
            drawn = [rng.randint(least, most) for _ in range(kind.texts)]
            counts = tuple(_coarse(np.asarray(drawn, np.int64)).tolist())
        shape = self._known[key] = self._made(
            kind, list(kind.languages)[language], list(kind.budgets_s)[budget], bool(code), counts
        )
        return shape

    def _made(
        self,
        kind: Kind,
        language: str,
        budget_s: float | None,
        code: bool,
        counts: tuple[int, ...],
    ) -> Shape:
        features = Features(4 * sum(counts), language, usual_script(language), False, code)
        parts = self._parts.get((kind.model, counts))
        if parts is None:
            parts = self._parts[kind.model, counts] = self._cut(kind, counts)
        work, pieces = parts
        return Shape(
            kind.name,
            kind.tenant or kind.name,
            features,
            work,
            pieces,
            budget_s,
            kind.bulk,
            kind.input_type,
            kind.on_miss,
            target=kind.model,
            pinned=kind.model is not None,
            candidates=None if kind.model is None else frozenset({kind.model}),
            models=self._models,
            weight=kind.weight,
        )

    def _cut(self, kind: Kind, counts: tuple[int, ...]) -> _Parts:
        """The work and the pieces of texts of these lengths, in any language and budget."""
        work, pieces = dict[str, Work](), dict[str, tuple[Piece, ...]]()
        for name, config in self._configs.items():
            if kind.model is not None and name != kind.model:
                continue
            model = self._models[name]
            work[name] = work_of(counts, config.attention_tokens, model.long)
            pieces[name] = pieces_of(counts, model.curve.batch_tokens, config)
        return work, pieces


def pieces_of(
    counts: Sequence[int],
    batch_tokens: int,
    config: ModelConfig,
    bulk: BulkSize | None = None,
) -> tuple[Piece, ...]:
    """The chunks that a request's texts are cut into."""
    found = list[Piece]()
    for start, stop in cuts(counts, None, batch_tokens, max_rows(config.dimensions), bulk):
        own = counts[start:stop]
        tokens_sq = attention(own, config.attention_tokens)
        found.append(Piece(np.asarray(own, np.int32), sum(own), tokens_sq))
    return tuple(found)


class Rate:
    """Requests per second over time: linear between points, times a factor in bursts."""

    def __init__(
        self,
        points: Sequence[tuple[float, float]],
        bursts: Sequence[tuple[float, float, float]] = (),
    ) -> None:
        """`points` are (second, requests/s); `bursts` (second, seconds, factor)."""
        self._times = [at_s for at_s, _ in points]
        self._rates = [rate for _, rate in points]
        self._bursts = tuple(bursts)

    def highest(self, seconds: float) -> float:
        """The least upper bound of the rate in the first `seconds`."""
        return max(
            max(self._base(start_s), self._base(stop_s)) * self._factor(start_s)
            for start_s, stop_s in self._parts(seconds)
        )

    def total(self, seconds: float) -> float:
        """The expected number of requests in the first `seconds`."""
        return sum(
            (self._base(start_s) + self._base(stop_s))
            / 2
            * self._factor(start_s)
            * (stop_s - start_s)
            for start_s, stop_s in self._parts(seconds)
        )

    def _parts(self, seconds: float) -> Iterable[tuple[float, float]]:
        """Starts and ends of the times in which the rate is a straight line."""
        marks = {*self._times, *(start_s for start_s, *_ in self._bursts)}
        marks |= {start_s + length_s for start_s, length_s, _ in self._bursts}
        return pairwise([0.0, *sorted(mark for mark in marks if 0.0 < mark < seconds), seconds])

    def at(self, at_s: float) -> float:
        """The rate at one moment."""
        return self._base(at_s) * self._factor(at_s)

    def _base(self, at_s: float) -> float:
        """The rate without bursts."""
        times, rates = self._times, self._rates
        place = bisect.bisect_right(times, at_s)
        if place == 0 or place == len(times):
            return rates[max(0, place - 1)]
        before, after = times[place - 1], times[place]
        part = (at_s - before) / (after - before)
        return rates[place - 1] + part * (rates[place] - rates[place - 1])

    def _factor(self, at_s: float) -> float:
        """The product of the bursts at one moment."""
        product = 1.0
        for start_s, seconds, factor in self._bursts:
            if start_s <= at_s < start_s + seconds:
                product *= factor
        return product

    @property
    def changes(self) -> bool:
        """Whether the rate changes over time."""
        return len(self._rates) > 1 or bool(self._bursts)


def poisson(rate: Rate, seconds: float, shapes: Shapes, rng: Random) -> Iterator[Arrival]:
    """Generate Poisson arrivals; if the rate changes, by thinning."""
    at_s, highest, changes = 0.0, rate.highest(seconds), rate.changes
    drawn, random = shapes.stream(rng), rng.random
    while highest > 0.0:
        at_s -= math.log(1.0 - random()) / highest
        if at_s >= seconds:
            return
        if changes and random() * highest >= rate.at(at_s):
            continue
        yield Arrival(at_s, next(drawn))


def replayed(
    times: Sequence[float], rate: float, seconds: float, shapes: Shapes, rng: Random
) -> Iterator[Arrival]:
    """Replay the arrivals of a trace, with its clock scaled to a mean rate of `rate`; none at 0."""
    if not rate:
        return
    own = (len(times) - 1) / max(times[-1] - times[0], 1e-9)
    for time_s in times:
        at_s = (time_s - times[0]) * own / rate
        if at_s >= seconds:
            return
        yield Arrival(at_s, shapes.draw(rng))


def device_seconds(shape: Shape, model: Model) -> float:
    """Device time of one request in full steps: the minimum that the curve allows."""
    work, curve = shape.work[model.id], model.curve
    part = work.tokens / curve.batch_tokens
    if curve.fixed_s > curve.base_s + curve.s_per_token * curve.batch_tokens:
        return curve.fixed_s * part  # full steps of short texts take no longer
    return (
        curve.base_s * part
        + curve.s_per_token * work.tokens
        + curve.s_per_token_sq * work.tokens_sq
        + curve.s_per_text * work.texts
    )


def full_rate(
    shapes: Shapes,
    models: Mapping[str, Model],
    replicas: Mapping[str, float],
    seed: int = 0,
    draws: int = 4000,
) -> float:
    """Requests per second that keep a model's replicas busy with full steps: the largest model's if
    it answered all requests that are not pinned, or a smaller one's if requests that are pinned to
    it keep it busy sooner. Models without replicas do not count; 0 if none is left.
    """
    rng, ready = Random(seed), {name: one for name, one in models.items() if replicas[name]}
    largest = max(ready.values(), key=lambda model: model.rank, default=None)
    each: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(draws):
        shape = shapes.draw(rng)
        model = ready.get(shape.target or "") if shape.pinned else largest
        if model is not None:
            each[model.id].append(device_seconds(shape, model))
    return min(
        (replicas[name] / (math.fsum(own) / draws) for name, own in each.items() if own),
        default=0.0,
    )


def _coarse(tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Round lengths above 256 down to seven bits, so that few shapes are created."""
    if tokens.max(initial=0) <= 256:
        return tokens
    bits = np.frexp(tokens)[1].astype(np.int64)
    grain: npt.NDArray[np.int64] = np.where(tokens > 256, 1 << np.maximum(bits - 7, 0), 1)
    return tokens // grain * grain


def _picks(shares: Sequence[float], at: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The index of the share that each number in [0, 1) falls into."""
    sums = np.cumsum(shares)
    places = np.searchsorted(sums / sums[-1], at, side="right")
    return np.minimum(places, len(shares) - 1).astype(np.int64)
