"""The words of the router as plain values; everything else here takes and returns these.

Units are in the names: `_s` seconds, `_tokens` tokens. Times are plain floats on whatever clock the
caller reads; nothing in this file reads one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Tier(StrEnum):
    """Quality tier a request may ask for; each named one maps to a model in the config, AUTO leaves
    it to the rules.
    """

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"
    AUTO = "auto"


class OnMiss(StrEnum):
    """What to do with a request that no allowed model can answer within its latency budget."""

    DEGRADE = "degrade"
    SERVE = "serve"
    REJECT = "reject"


class Reason(StrEnum):
    """Why the chosen model was chosen, or why a request was refused. RULE is followed by the rule's
    name in headers.
    """

    PINNED = "pinned"  # the caller named the model or its space
    TIER = "tier"  # the tier the caller asked for
    RULE = "rule"  # the highest floor that a rule raised
    AUTO = "auto"  # no rule applied: the default tier
    CONTEXT = "context"  # the target cannot read a text this long
    UNAVAILABLE = "unavailable"  # the target has no ready replica
    BUDGET = "budget"  # the target would be too late, this is the best model that is not
    IDLE = "idle"  # a larger model than the target has nothing better to do (`priced` only)
    LOAD = "load"  # the target's price under load is above what its quality is worth here
    LATE = "late"  # no allowed model fits the budget; answered all the same, as on_budget_miss says
    NO_MODEL = "no_model"  # refused: no model may serve this request
    OVER_BUDGET = "over_budget"  # refused: no allowed model fits the budget


class Why(StrEnum):
    """Why a single model was, or was not, chosen."""

    CHOSEN = "chosen"
    NOT_PERMITTED = "not permitted for this key"
    NOT_IN_SPACE = "cannot serve the pinned model, space or dimensions"
    TOO_LONG = "cannot read a text this long"
    NOT_READY = "no ready replica"
    ABOVE_TARGET = "larger than the target"
    BELOW_TARGET = "smaller than the target, which is strict"
    OVER_BUDGET = "predicted to miss the latency budget"
    LESS_QUALITY = "fits, but a better model fits too"
    PRICE = "quality is not worth its price at this load"


class Work(NamedTuple):
    """What a request asks of one model, in that model's own tokens."""

    tokens: int  # of all texts together, special tokens and prompt included
    longest: int  # of the longest text
    tokens_sq: int  # the attention term, see `attention`
    texts: int = 1


def attention(counts: Iterable[int], span: int | None) -> int:
    """Pairs of tokens that attend to each other, summed over texts: tokens squared, or times the
    `span` they reach at most.
    """
    if span is None:
        return sum(count * count for count in counts)
    return sum(count * min(count, span) for count in counts)


@dataclass(frozen=True, slots=True)
class Features:
    """What the router learned of a request's text; a list of texts has one, made over the whole
    list.
    """

    characters: int
    language: str | None  # ISO 639-1
    script: str | None  # ISO 15924, e.g. Latn, Hans is reported as Hani
    mixed: bool
    code: bool


@dataclass(frozen=True, slots=True)
class Curve:
    """Latency of one engine step on N texts of T tokens: a line in T, sum(L^2) and N, never below
    `fixed_s`.

    max(fixed_s, base_s + s_per_token * T + s_per_token_sq * sum(L^2) + s_per_text * N), L being the
    tokens of each text. Flat up to a knee, then linear, plus attention for long texts (the shape
    published for embedding prefill, and measured for each model by `embedding-router calibrate`),
    plus what an engine pays for a text however short it is.
    """

    fixed_s: float
    base_s: float
    s_per_token: float
    s_per_token_sq: float
    batch_tokens: int  # most tokens one step takes
    overhead_s: float = 0.0  # router, transport and encoding, per request
    s_per_text: float = 0.0

    def step(self, tokens: float, tokens_sq: float = 0.0, texts: float = 0.0) -> float:
        """Seconds of one step that carries `texts` texts of `tokens` tokens whose squared lengths
        sum to `tokens_sq`.
        """
        seconds = (
            self.base_s
            + self.s_per_token * tokens
            + self.s_per_token_sq * tokens_sq
            + self.s_per_text * texts
        )
        return seconds if seconds > self.fixed_s else self.fixed_s


@dataclass(frozen=True, slots=True)
class Model:
    """One embedding model as the decision sees it; `rank` orders models from small (0) to large."""

    id: str
    rank: int
    max_tokens: int
    curve: Curve
    quality: Mapping[str, float]  # by ISO 639-1 language, "code", "mixed" or "default"
    devices: float = 1.0  # accelerators one replica occupies: the price of a second of it

    def quality_of(self, features: Features) -> float:
        """Points of quality on text like this; 0 where nothing is known."""
        quality = self.quality
        if features.code and "code" in quality:
            return quality["code"]
        if features.mixed and "mixed" in quality:
            return quality["mixed"]
        known = quality.get(features.language or "default")
        return quality.get("default", 0.0) if known is None else known


class Load(NamedTuple):
    """What is happening at a model now, as this router knows it.

    `ahead_tokens` waits at the better of two sampled replicas, behind the step that runs there. A
    model with no ready replica is unavailable, or cold when `cold_start_s` says how long until it
    is ready.
    """

    ready_replicas: int = 1
    ahead_tokens: int = 0
    running_rest_s: float = 0.0  # what is left of the step that runs now
    margin: float = 1.0  # factor on the prediction that only the declared share of requests exceeds
    price: float = 0.0  # points of quality per device second
    cold_start_s: float | None = None
    bias: float = 1.0  # factor on the curve that makes the median prediction right


class Request(NamedTuple):
    """One request, ready to be decided.

    `candidates` are the models that can produce what the caller pinned (None: a free request);
    `permitted` those its key may use (None: all). `target` is the model of an explicit tier or pin;
    None lets the rules set it.
    """

    work: Mapping[str, Work]
    features: Features
    deadline_s: float | None = None  # on the clock that `now` is read from
    target: str | None = None
    pinned: bool = False
    strict: bool = False  # never below the target
    candidates: frozenset[str] | None = None
    permitted: frozenset[str] | None = None
    on_miss: OnMiss = OnMiss.DEGRADE
    input_type: str | None = None


class Prediction(NamedTuple):
    """Seconds until the answer is ready, and how much of that is waiting."""

    total_s: float
    wait_s: float


class Candidate(NamedTuple):
    """One model in a decision: what it was predicted to take and why it was or was not chosen."""

    model: str
    predicted_s: float | None  # None when the model was out before a prediction was made
    wait_s: float | None
    why: Why


class Decision(NamedTuple):
    """The model chosen, or `model` None and a retry time when the request is refused."""

    model: str | None
    target: str | None
    reason: Reason
    rule: str | None
    predicted_s: float | None
    wait_s: float | None
    degraded: bool  # served by a smaller model than the target
    whys: Mapping[str, Why]  # of every model
    predictions: Mapping[str, Prediction]  # of the models that got as far as one
    retry_after_s: float | None = None

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """Every model with its prediction and why it was or was not chosen; made when asked for."""
        made = ((name, why, self.predictions.get(name)) for name, why in self.whys.items())
        return tuple(Candidate(name, p and p.total_s, p and p.wait_s, why) for name, why, p in made)

    @property
    def label(self) -> str:
        """The reason as headers and metrics carry it, e.g. `rule:not-english`."""
        return f"{self.reason}:{self.rule}" if self.reason is Reason.RULE else str(self.reason)
