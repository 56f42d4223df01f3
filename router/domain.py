"""The router's basic types as plain values, used by all other modules of this package.

Units are in the names: `_s` seconds, `_tokens` tokens. Times are floats on the caller's clock;
nothing in this file reads a clock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

UNKNOWN_LANGUAGE = "unknown"


class Tier(StrEnum):
    """The quality tier of a request. The config maps each tier to a model, except `auto`, for which
    the routing rules choose the model.
    """

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"
    AUTO = "auto"


TIERS = frozenset(tier.value for tier in Tier)


class OnMiss(StrEnum):
    """The reaction if no allowed model is predicted to meet the latency budget: `degrade` uses the
    fastest model, `serve` uses the model of the tier or rule, and `reject` returns 503.
    """

    DEGRADE = "degrade"
    SERVE = "serve"
    REJECT = "reject"


class Reason(StrEnum):
    """The reason for the choice of a model or for a refusal. In headers RULE is followed by the
    rule's name.
    """

    PINNED = "pinned"  # the caller named the model or its space
    TIER = "tier"  # the caller requested a tier
    RULE = "rule"  # the highest floor that a rule raised
    AUTO = "auto"  # no rule applied: the default tier
    QUALITY = "quality"  # no rule applied, and this model has more points for the text
    CONTEXT = "context"  # the target cannot read a text this long
    UNAVAILABLE = "unavailable"  # the target has no ready replica
    BUDGET = "budget"  # the target would be too late; this is the best model that is in time
    LATE = "late"  # no allowed model fits the budget; answered anyway, as on_budget_miss says
    NO_MODEL = "no_model"  # refused: no model is allowed to serve this request
    OVER_BUDGET = "over_budget"  # refused: no allowed model fits the budget


class Why(StrEnum):
    """The reason why a single model was, or was not, chosen."""

    CHOSEN = "chosen"
    NOT_PERMITTED = "not permitted for this key"
    NOT_IN_SPACE = "cannot serve the pinned model, space or dimensions"
    BELOW_FLOOR = "keeps less than the collection's min_recall, and its queries keep no more now"
    BELOW_EACH = "keeps less than the collection's min_recall_each in the text's language"
    OTHER_INSTRUCTION = "does not read the instruction, which the space's own model does"
    OTHER_PROOF = "was measured with another instruction"
    OTHER_CUT = "reads more or fewer tokens of a long text than the space's own model"
    TOO_LONG = "cannot read a text this long"
    NOT_READY = "no ready replica"
    ABOVE_TARGET = "larger than the target"
    BELOW_TARGET = "smaller than the target, which is strict"
    OVER_BUDGET = "predicted to miss the latency budget"
    LESS_QUALITY = "fits, but a better model fits too"
    NOT_NAMED = "has more points for this text, but the target is taken as it is"
    UNREAD = "its tokenizer does not know most of the text"


class Work(NamedTuple):
    """The work of a request for one model, in that model's own tokens."""

    tokens: int  # of all texts together, including special tokens and prompts
    longest: int  # of the longest text
    tokens_sq: int  # the attention term, see `attention`
    texts: int = 1
    long: float = 0.0  # share of the texts that count as long for this model, see `LongTexts`


NO_WORK = Work(0, 0, 0)


def attention(counts: Iterable[int], span: int | None) -> int:
    """The number of pairs of tokens that attend to each other, summed over texts.

    For each text it is its tokens squared, or its tokens times min(tokens, `span`).
    """
    if span is None:
        return sum([count * count for count in counts])
    return sum([count * min(count, span) for count in counts])


@dataclass(frozen=True, slots=True)
class TextKind:
    """A group of similar texts in a list, and their number."""

    language: str | None
    script: str | None
    mixed: bool
    code: bool
    texts: int = 1


@dataclass(frozen=True, slots=True)
class Features:
    """The features of a request's text. For a list they are those of most of its texts, and `kinds`
    has the details.
    """

    characters: int
    language: str | None  # ISO 639-1
    script: str | None  # ISO 15924, e.g. Latn; Hans is reported as Hani
    mixed: bool
    code: bool
    kinds: tuple[TextKind, ...] = ()  # for a list of several texts; most frequent first

    @property
    def languages(self) -> dict[str, int]:
        """Texts by language for a list, most frequent first; empty for one text."""
        counts: dict[str, int] = {}
        for kind in self.kinds:
            name = kind.language or UNKNOWN_LANGUAGE
            counts[name] = counts.get(name, 0) + kind.texts
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def share(self, holds: Callable[["Features | TextKind"], bool]) -> float:
        """Share of the texts for which `holds` is true."""
        if not self.kinds:
            return float(holds(self))
        texts = sum(kind.texts for kind in self.kinds)
        return sum(kind.texts for kind in self.kinds if holds(kind)) / texts


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency of one engine step on N texts of T tokens: a line in T, sum(L^2) and N, never below
    `fixed_s`.

    max(fixed_s, base_s + s_per_token * T + s_per_token_sq * sum(L^2) + s_per_text * N), where L is
    the tokens of each text. It is flat up to a knee, then linear, plus attention for long texts
    (the shape published for embedding prefill, and measured for each model by `embedding-router
    calibrate`), plus the engine's cost per text, however short it is.
    """

    fixed_s: float
    base_s: float
    s_per_token: float
    s_per_token_sq: float
    batch_tokens: int  # maximum tokens of one step
    overhead_s: float = 0.0  # router, transport and encoding, per request
    s_per_text: float = 0.0

    def step(self, tokens: float, tokens_sq: float = 0.0, texts: float = 0.0) -> float:
        """Seconds of one step with `texts` texts of `tokens` tokens in all, whose squared lengths
        sum to `tokens_sq`.
        """
        seconds = (
            self.base_s
            + self.s_per_token * tokens
            + self.s_per_token_sq * tokens_sq
            + self.s_per_text * texts
        )
        return seconds if seconds > self.fixed_s else self.fixed_s

    def with_overhead(self, overhead_s: float) -> "Curve":
        """The same curve with another overhead."""
        return Curve(
            self.fixed_s, self.base_s, self.s_per_token, self.s_per_token_sq, self.batch_tokens,
            overhead_s, self.s_per_text,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LongTexts:
    """Quality points on texts of at least `from_tokens` tokens, in any language or script."""

    from_tokens: int
    points: float


def share_of_long(long: LongTexts | None, counts: Sequence[int]) -> float:
    """Share of the texts of these token counts that are long for a model."""
    if long is None or not counts:
        return 0.0
    return sum(count >= long.from_tokens for count in counts) / len(counts)


def work_of(
    counts: Sequence[int],
    span: int | None,
    long: LongTexts | None,
    new: Sequence[int] | None = None,
) -> Work:
    """The work of texts with these token counts for a model with an attention span of `span`.

    `new` is the counts of the texts that are not in the cache (None: all).
    """
    new = counts if new is None else new
    share = share_of_long(long, counts)
    return Work(sum(new), max(counts), attention(new, span), len(new), share)


@dataclass(frozen=True, slots=True)
class Model:
    """One embedding model, for the decision; `rank` orders models from small (0) to large."""

    id: str
    rank: int
    max_tokens: int
    curve: Curve
    quality: Mapping[str, float]  # by ISO 639-1 language, "code", "mixed" or "default"
    devices: float = 1.0  # accelerators one replica occupies
    long: LongTexts | None = None

    def with_curve(self, curve: Curve) -> "Model":
        """The same model with another curve."""
        return Model(
            self.id, self.rank, self.max_tokens, curve, self.quality, self.devices, self.long
        )

    def quality_of(self, features: Features, work: Work = NO_WORK) -> float | None:
        """Quality points on this text, the mean for a list; None if the config gives no figure."""
        kinds = features.kinds
        points = self._mean_points(kinds) if kinds else self._points_of(features)
        if self.long is None or not work.long:
            return points
        if work.long == 1.0:
            return self.long.points
        return None if points is None else points + work.long * (self.long.points - points)

    def _points_of(self, text: Features | TextKind) -> float | None:
        quality = self.quality
        if text.code and "code" in quality:
            return quality["code"]
        if text.mixed and "mixed" in quality:
            return quality["mixed"]
        points = quality.get(text.language or "default")
        return quality.get("default") if points is None else points

    def _mean_points(self, kinds: tuple[TextKind, ...]) -> float | None:
        total, texts = 0.0, 0
        for kind in kinds:
            points = self._points_of(kind)
            if points is None:
                return None
            total += points * kind.texts
            texts += kind.texts
        return total / texts


class Load(NamedTuple):
    """The current load of a model, as known to this router.

    `ahead_tokens` wait at the better of two sampled replicas, behind the step that runs there. A
    model without a ready replica is unavailable, or cold if `cold_start_s`, the time until it is
    ready, is set. `beside_s` has the seconds of work of each busy replica on the same device.
    """

    ready_replicas: int = 1
    ahead_tokens: int = 0
    running_rest_s: float = 0.0  # remaining time of the running step, or of two in flight
    margin: float = 1.0  # factor on the prediction that only the declared share of requests exceeds
    cold_start_s: float | None = None
    bias: float = 1.0  # factor on the curve that makes the median prediction right
    beside_s: tuple[float, ...] = ()
    crowding: float = 1.0  # the part of `margin` that is due to texts that join calls


class Request(NamedTuple):
    """One request as the input of a decision.

    `candidates` are the models that can make the pinned vectors (None: a free request); `permitted`
    are those that its key allows (None: all). `target` is the model of an explicit tier or pin;
    with None the rules set it. `unread` is the share of a text's tokens that a model's tokenizer
    does not know; for a list, the share that enough of its texts reach to count.
    """

    work: Mapping[str, Work]
    features: Features
    deadline_s: float | None = None  # on the clock of `now`
    target: str | None = None
    pinned: bool = False
    strict: bool = False  # never below the target
    candidates: frozenset[str] | None = None
    permitted: frozenset[str] | None = None
    on_miss: OnMiss = OnMiss.DEGRADE
    input_type: str | None = None
    unread: Mapping[str, float] = MappingProxyType({})  # by model, only if above 0
    # share of the best search that each encoder of the spaces keeps, if there are several
    recalls: Mapping[str, float] = MappingProxyType({})
    unfit: Mapping[str, Why] = MappingProxyType({})  # encoders that must not make these vectors


class Prediction(NamedTuple):
    """Seconds until the answer is ready, and the part of it that is waiting."""

    total_s: float
    wait_s: float


class Candidate(NamedTuple):
    """One model in a decision: its prediction, and why it was or was not chosen."""

    model: str
    predicted_s: float | None  # None if the model was excluded before a prediction was made
    wait_s: float | None
    why: Why


class Decision(NamedTuple):
    """The chosen model; for a refused request, `model` None and a retry time."""

    model: str | None
    target: str | None
    reason: Reason
    rule: str | None
    predicted_s: float | None
    wait_s: float | None
    degraded: bool  # fewer points on this text than the target; smaller where a figure is missing
    whys: Mapping[str, Why]  # of every model
    predictions: Mapping[str, Prediction]  # only for models that were not excluded before
    retry_after_s: float | None = None
    # not sent to the target because of budget or load, and the chosen model is no better for the
    # text
    pushed_down: bool = False

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every model with its prediction and why it was or was not chosen."""
        made = ((name, why, self.predictions.get(name)) for name, why in self.whys.items())
        return tuple(Candidate(name, p and p.total_s, p and p.wait_s, why) for name, why, p in made)

    @property
    def label(self) -> str:
        """The reason as headers and metrics carry it, e.g. `rule:not-english`."""
        return f"{self.reason}:{self.rule}" if self.reason is Reason.RULE else str(self.reason)
