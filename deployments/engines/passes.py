"""Choose which texts share a forward pass that is padded to its longest text.

Padding costs as much as text, so texts of like length should share a pass; and every pass has a
cost of its own, so there should be few. `Passes` learns both costs from the passes that run,
and cuts the texts, sorted by length, into the cheapest passes by dynamic programming.
"""

from collections.abc import Sequence

import numpy as np

SEEN = 64  # shapes of passes to learn from
PAIRS = 1000  # of tokens that attend to each other: the unit of their cost
# The costs before the first pass, in tokens: of a pass, of a token, and of so many pairs.
PRIOR = np.array([64.0, 1.0, 0.2])
TRUST = 0.001  # in the prior, in passes; it decides where passes are too alike to tell costs apart


class Passes:
    """Cuts texts into passes of at most `max_tokens` tokens with padding, or one longer text."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        # seconds of the last pass of each shape, so that one shape does not push out the others
        self._seen = dict[tuple[int, int], float]()
        self.costs = PRIOR

    def observe(self, texts: int, longest: int, seconds: float) -> None:
        """Learn from a pass."""
        if seconds > 0.0:
            self._seen.pop((texts, longest), None)
            self._seen[texts, longest] = seconds
            if len(self._seen) > SEEN:
                del self._seen[next(iter(self._seen))]

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """The places of each pass's texts, for lengths in ascending order."""
        self._learn()
        fixed, token, pairs = self.costs.tolist()
        count = len(lengths)
        best, first = np.zeros(count + 1), [0] * (count + 1)
        for end in range(1, count + 1):
            longest = lengths[end - 1]
            starts = np.arange(max(0, end - max(1, self._max_tokens // longest)), end)
            each = token * longest + pairs * longest * longest / PAIRS
            total = best[starts] + fixed + (end - starts) * each
            place = int(np.argmin(total))
            best[end], first[end] = total[place], int(starts[place])
        passes = list[list[int]]()
        while count:
            passes.append(list(range(first[count], count)))
            count = first[count]
        return passes[::-1]

    def _learn(self) -> None:
        """Fit the costs to the passes by least squares on relative errors, near the prior."""
        if not self._seen:
            return
        texts, longest = map(np.array, zip(*self._seen, strict=True))
        seconds = np.array([*self._seen.values()])
        tokens = texts * longest
        terms = np.stack([np.ones(len(texts)), tokens, tokens * longest / PAIRS], axis=1) * PRIOR
        scale = float(np.median(seconds / terms.sum(axis=1)))
        rows = np.concatenate([terms * (scale / seconds)[:, None], np.eye(3) * TRUST**0.5])
        aims = np.concatenate([np.ones(len(terms)), np.full(3, TRUST**0.5)])
        self.costs = PRIOR * np.maximum(np.linalg.lstsq(rows, aims, rcond=None)[0], 0.0)
