"""Latency curves that are learned from served steps, and corrected by completions.

    Learner          the curve of a model without a profile, from the steps it serves
    ProfileLearner   the curve of a model whose profile is of another device
    Correction       factors on every prediction of a model: `bias`, a clipped running mean, for
                     the median; `margin`, an online quantile, for the tail; `crowding` for the
                     tail where there is other work

The margin has two loops, because answers arrive late: the inner one compares with the current
factors, the outer one counts answers that exceeded the margin of their own decision.
docs/internals.md has the formulas and the literature; router/curve_fit.py fits curves to measured
steps, and router/profile.py reads profiles.
"""

import math
import operator

from router.domain import Curve

MARGIN_ETA = 0.2
AIM_ETA, MAX_AIM = 0.1, 1.5
BIAS_GAIN, BIAS_CLIP = 0.2, 0.4
CROWD_ETA = 0.5  # three late answers multiply `crowding` by 4; decision 12 compares others


class Learner:
    """Learns base and slope of a curve from the steps that a model serves, starting at `prior`.

    Recursive least squares on relative errors, forgetting over about 100 steps. A step counts as at
    most twice the expected time, so that a stall does not look like a slow model. Terms that cannot
    be separated (attention, the cost of a text) are taken from `prior`. Short texts can all lie in
    the flat part, which reveals nothing about longer ones. So they count as flat, and beyond the
    largest step seen the slope is that of `prior` if it is steeper. This ends with a step of ENOUGH
    times a full one, or of SOME if steps rise by RISE up to there.
    """

    __slots__ = (
        "_base_s",
        "_covariance",
        "_largest_tokens",
        "_mean_tokens",
        "_per_knot",
        "_prior",
        "count",
    )

    FORGET = 0.99
    ENOUGH = 0.25  # of a full step
    SOME, RISE = 1 / 32, 0.25  # of a full step, and of the base
    MEAN_OF = 100  # steps
    # the unit of the slope, so that both unknowns are of similar size
    KNOT_TOKENS = 1000.0

    def __init__(self, prior: Curve) -> None:
        self.count = 0
        self._largest_tokens = 0
        self._mean_tokens = 0.0
        self._prior = prior
        self._base_s = max(prior.fixed_s, prior.base_s)
        self._per_knot = prior.s_per_token * self.KNOT_TOKENS
        spread = max(self._base_s, self._per_knot, 1e-4) ** 2
        self._covariance = (100.0 * spread, 0.0, 100.0 * spread)  # symmetric: (base, both, slope)

    def observe(self, tokens: int, tokens_sq: int, seconds: float, texts: int = 1) -> None:
        """Learn from a step of `texts` texts with `tokens` tokens that took `seconds`.

        Impossible numbers are ignored.
        """
        if not (tokens > 0 and 0.0 < seconds < math.inf):
            return
        self._largest_tokens = max(self._largest_tokens, min(tokens, self._prior.batch_tokens))
        self._mean_tokens += (tokens - self._mean_tokens) / min(self.count + 1, self.MEAN_OF)
        knots = tokens / self.KNOT_TOKENS
        known_s = self._prior.s_per_token_sq * tokens_sq + self._prior.s_per_text * texts
        expected_s = max(self._base_s + self._per_knot * knots, 1e-6)
        error_s = min(max(seconds - known_s, 0.0), 2.0 * expected_s) - expected_s
        base, both, slope = self._covariance
        toward_base, toward_slope = base + both * knots, both + slope * knots
        # without this limit, steps of constant size make the covariance grow without bound
        forget = self.FORGET if base + slope < 1e4 * expected_s * expected_s else 1.0
        gain = 1.0 / (forget * expected_s * expected_s + toward_base + toward_slope * knots)
        base_s, per_knot = (
            self._base_s + gain * toward_base * error_s,
            self._per_knot + gain * toward_slope * error_s,
        )
        base = (base - gain * toward_base * toward_base) / forget
        both = (both - gain * toward_base * toward_slope) / forget
        slope = (slope - gain * toward_slope * toward_slope) / forget
        # Neither can be below 0. The steps determine a sum of the two, so when one is held at 0
        # the other moves with it.
        if base_s < 0.0 < base:
            base_s, per_knot = 0.0, per_knot - both / base * base_s
        if per_knot < 0.0 < slope:
            base_s, per_knot = base_s - both / slope * per_knot, 0.0
        self._base_s, self._per_knot, self._covariance = (
            max(0.0, base_s),
            max(0.0, per_knot),
            (base, both, slope),
        )
        self.count += 1

    @property
    def curve(self) -> Curve:
        """The curve learned so far; `prior` before the first step."""
        return self.curve_with(self._prior.overhead_s) if self.count else self._prior

    def curve_with(self, overhead_s: float) -> Curve:
        """The curve learned so far, with another overhead."""
        prior = self._prior
        if not self.count:
            return prior.with_overhead(overhead_s)
        slope, base_s, flat_s = self._per_knot / self.KNOT_TOKENS, self._base_s, 0.0
        largest = self._largest_tokens
        enough = self.ENOUGH if slope * largest < self.RISE * base_s else self.SOME
        if slope < prior.s_per_token and largest < enough * prior.batch_tokens:
            flat_s = base_s + slope * self._mean_tokens
            base_s += (slope - prior.s_per_token) * largest  # the lines meet at the largest step
            slope = prior.s_per_token
        return Curve(
            flat_s, base_s, slope, prior.s_per_token_sq, prior.batch_tokens, overhead_s,
            prior.s_per_text,
        )  # fmt: skip


class ProfileLearner:
    """Learns a factor for each term of another device's profile from the steps that a model serves.

    Recursive least squares on relative errors, as in `Learner`. The profile's ratios between the
    terms are a good guess, so the first steps scale all terms alike; differences are learned from
    the steps that show them. A term that the profile lacks remains 0, except the base: another
    device can have one. Steps in the profile's flat part contain no information about the line, and
    change `fixed_s` alone.
    """

    __slots__ = ("_covariance", "_factors", "_flat", "_flat_seen", "_prior", "_units", "count")

    FORGET = 0.99
    ALIKE, APART = 100.0, 9.0  # variances, in units of a step's squared relative error
    MAX_RATIO = 2.0  # a step counts as at most this many times the expected time, because of stalls
    FIRST, MAX_FIRST = 10, 8.0  # the limit for the first steps: the device can be much slower
    FLAT_GAIN, FLAT_CLIP = 0.03, 0.7

    def __init__(self, prior: Curve) -> None:
        self.count = 0
        self._prior = prior
        base_s = max(prior.base_s, prior.fixed_s, 1e-4)
        self._units = (base_s, prior.s_per_token, prior.s_per_token_sq, prior.s_per_text)
        self._factors = [prior.base_s / base_s, 1.0, 1.0, 1.0]
        self._flat, self._flat_seen = 1.0, 0
        first = self._factors
        self._covariance = [
            [
                self.ALIKE * one * other + self.APART * (row == column)
                for column, other in enumerate(first)
            ]
            for row, one in enumerate(first)
        ]

    def observe(self, tokens: int, tokens_sq: int, seconds: float, texts: int = 1) -> None:
        """Learn from a step of `texts` texts with `tokens` tokens that took `seconds`.

        Impossible numbers are ignored.
        """
        if not (tokens > 0 and 0.0 < seconds < math.inf):
            return
        self.count += 1
        terms = [
            unit * size
            for unit, size in zip(self._units, (1.0, tokens, tokens_sq, texts), strict=True)
        ]
        line_s = sum(map(operator.mul, self._factors, terms))
        flat_s = self._flat * self._prior.fixed_s
        if self._prior.step(tokens, tokens_sq, texts) <= self._prior.fixed_s:
            self._flat_seen += 1
            off = min(max(math.log(seconds / flat_s), -self.FLAT_CLIP), self.FLAT_CLIP)
            self._flat *= math.exp(max(self.FLAT_GAIN, 1.0 / self._flat_seen) * off)
            return
        line_s = max(line_s, 1e-6)
        terms = [term / line_s for term in terms]
        toward = [sum(map(operator.mul, row, terms)) for row in self._covariance]
        spread = max(sum(map(operator.mul, toward, terms)), 1e-9)
        most = self.MAX_RATIO if self.count > self.FIRST else self.MAX_FIRST
        gain = (min(seconds / line_s, most) - 1.0) / (self.FORGET + spread)
        # Only what the step shows is forgotten (directional forgetting, Kulhavy 1987). If all were,
        # steps of one size would make the variance of the rest grow without bound, and a little
        # noise would then change the factors by any amount.
        change = (1.0 - self.FORGET) / spread - 1.0 / (self.FORGET + spread)
        self._covariance = [
            [
                value + one * other * change / self.FORGET
                for value, other in zip(row, toward, strict=True)
            ]
            for row, one in zip(self._covariance, toward, strict=True)
        ]
        self._factors = self._held(
            [factor + gain * one for factor, one in zip(self._factors, toward, strict=True)]
        )

    def _held(self, factors: list[float]) -> list[float]:
        """The factors with none below 0. Steps determine sums of terms, so when one factor is held
        at 0 the others move with it.
        """
        for _ in factors:
            place = min(range(len(factors)), key=factors.__getitem__)
            below, own = factors[place], self._covariance[place][place]
            if below >= 0.0:
                break
            if own > 0.0:
                factors = [
                    factor - row[place] / own * below
                    for factor, row in zip(factors, self._covariance, strict=True)
                ]
            factors[place] = 0.0
        return [max(0.0, factor) for factor in factors]

    @property
    def curve(self) -> Curve:
        """The curve learned so far."""
        return self.curve_with(self._prior.overhead_s)

    def curve_with(self, overhead_s: float) -> Curve:
        """The curve learned so far, with another overhead."""
        base_s, s_per_token, s_per_token_sq, s_per_text = map(
            operator.mul, self._factors, self._units
        )
        return Curve(
            self._flat * self._prior.fixed_s, base_s, s_per_token, s_per_token_sq,
            self._prior.batch_tokens, overhead_s, s_per_text,
        )  # fmt: skip


class Quantile:
    """An online estimate of the value that a declared share exceeds; see the top of this file."""

    __slots__ = ("eta", "highest", "lowest", "share", "value")

    def __init__(
        self,
        share: float,
        eta: float,
        value: float = 1.0,
        lowest: float = 0.1,
        highest: float = 100.0,
    ) -> None:
        if not 0.0 < share < 1.0:
            raise ValueError(f"the share that can be exceeded lies between 0 and 1, not {share}")
        self.share, self.eta, self.value, self.lowest, self.highest = (
            share,
            eta,
            value,
            lowest,
            highest,
        )

    def observe(self, value: float) -> bool:
        """Add one value; returns whether it exceeded the quantile before the update."""
        exceeded = value > self.value
        moved = self.value * math.exp(self.eta * (exceeded - self.share))
        self.value = min(max(moved, self.lowest), self.highest)
        return exceeded


class Correction:
    """The factors of one model: pass `bias` and `margin` to `Ledger.load`, and every completion to
    `observe`.

    Texts that come later can join a call and make it longer. That happens under load, and says
    nothing about an idle model. So answers from such calls change `crowding` alone, which is
    another factor on the tail of requests that find other work: an online quantile too, for which
    all others count as in time.
    """

    __slots__ = ("_crowding", "_margin", "_missed", "_share", "bias", "crowding", "margin")

    MIN_MARGIN = 0.5
    MIN_BIAS = 0.1
    MAX_BIAS = 100.0
    MAX_CROWDING = 10.0  # calls that waited for a hung replica must not stop all traffic

    def __init__(self, miss_share: float) -> None:
        # factor on the curve that makes half of the predictions too long and half too short
        self.bias = 1.0
        # factor on the corrected prediction that only the declared share of requests exceeds
        self.margin = 1.0
        self._margin = Quantile(miss_share, MARGIN_ETA, lowest=self.MIN_MARGIN)
        self.crowding = 1.0
        self._crowding = Quantile(miss_share, CROWD_ETA, 1.0, 1.0, self.MAX_CROWDING)
        self._share = miss_share
        self._missed = 0.0  # misses above (> 0) or below the declared share, in steps of AIM_ETA

    def relax(self, times: int) -> None:
        """Lower crowding, and a margin above 1, as `times` answers in time would; only real answers
        bring the margin below 1.
        """
        if self.crowding > 1.0:
            relaxed = self.crowding * math.exp(-CROWD_ETA * self._share * times)
            self.crowding = self._crowding.value = max(1.0, relaxed)
        if self.margin > 1.0:
            relaxed = self.margin * math.exp(-MARGIN_ETA * self._share * times)
            self.margin = self._margin.value = max(1.0, relaxed)

    def doubt(self) -> None:
        """Lower the margin, and then the bias, by so much that the declared share of misses undoes
        it.
        """
        self.relax(1)
        lowered = self.bias * math.exp(-BIAS_GAIN * BIAS_CLIP * self._share)
        self.bias = max(lowered, self.MIN_BIAS)

    def observe(
        self,
        actual_s: float,
        predicted_s: float,
        bias: float,
        margin: float | None = None,
        joined: bool = False,
    ) -> None:
        """Learn from a request that took `actual_s`. `predicted_s` is its prediction, made with the
        factors `bias` and `margin` (None: the current margin); texts that came later `joined` it.

        Times that are not positive are ignored.
        """
        if not (actual_s > 0.0 and predicted_s > 0.0):
            return
        ratio = actual_s * bias / (predicted_s * self.bias)
        self._crowding.observe(ratio / self.margin if joined else 0.0)
        self.crowding = self._crowding.value
        if joined:
            return
        missed = actual_s > predicted_s * (self.margin if margin is None else margin)
        self._missed = min(max(self._missed + AIM_ETA * (missed - self._share), -MAX_AIM), MAX_AIM)
        self._margin.share = min(self._share * math.exp(-self._missed), 0.5)
        self._margin.observe(ratio)
        self.margin = self._margin.value
        self.bias *= math.exp(BIAS_GAIN * min(max(math.log(ratio), -BIAS_CLIP), BIAS_CLIP))
        self.bias = min(max(self.bias, self.MIN_BIAS), self.MAX_BIAS)
