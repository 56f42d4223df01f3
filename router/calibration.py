"""The measurement plan of `embedding-router calibrate`, and its expected duration."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from router.domain import Curve, attention

SHORTEST = 8  # tokens; a full batch of these shows the cost of a text beside that of its tokens
MAX_TEXTS = 512  # in one call
REPEATS = 7  # for each size


class Cell(NamedTuple):
    """One size of call."""

    tokens: int  # of each text
    texts: int


def cells(max_tokens: int, batch_tokens: int, max_texts: int) -> list[Cell]:
    """Text lengths 8, 16, 32, ... and `max_tokens`, each with 1, 2, 4, ... texts and as many as
    fill a batch, at most `max_texts`.
    """
    lengths, found = [], list[Cell]()
    length = min(SHORTEST, max_tokens)
    while length < max_tokens:
        lengths.append(length)
        length *= 2
    for length in [*lengths, max_tokens]:
        full = min(max(1, batch_tokens // length), max_texts)
        found += [Cell(length, 2**power) for power in range(int(math.log2(full)) + 1)]
        if found[-1].texts != full:
            found.append(Cell(length, full))
    return found


def calls(sizes: Sequence[Cell], batch_tokens: int, repeats: int) -> int:
    """The number of calls that measure these sizes `repeats` times.

    Sizes of one step have one more call to warm up; those of several steps a third of the calls.
    """
    return sum(_times(cell, batch_tokens, repeats) for cell in sizes)


def _times(cell: Cell, batch_tokens: int, repeats: int) -> int:
    one_step = cell.tokens * cell.texts <= batch_tokens
    return repeats + 1 if one_step else math.ceil(repeats / 3)


def expected_s(
    curve: Curve, max_tokens: int, max_texts: int, span: int | None, repeats: int = REPEATS
) -> float:
    """Estimate the seconds to measure a model from a known curve; `span` is its
    `attention_tokens`.
    """
    total_s = 0.0
    for cell in cells(max_tokens, curve.batch_tokens, max_texts):
        tokens, squares = cell.tokens * cell.texts, attention([cell.tokens] * cell.texts, span)
        steps = math.ceil(tokens / curve.batch_tokens)
        step_s = curve.step(tokens / steps, squares / steps, cell.texts / steps)
        total_s += _times(cell, curve.batch_tokens, repeats) * steps * step_s
    return total_s
