"""The calls with which `embedding-router calibrate` measures a model, and how long they take."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from router.domain import Curve, attention

SHORTEST = 8  # tokens; in a full batch of these what a text costs shows beside what its tokens do
MOST_TEXTS = 512  # of one call
REPEATS = 7  # of every size


class Cell(NamedTuple):
    """One size of call."""

    tokens: int  # of each text
    texts: int


def cells(max_tokens: int, batch_tokens: int, most_texts: int) -> list[Cell]:
    """Text lengths 8, 16, 32, ... and `max_tokens`, each with 1, 2, 4, ... texts and as many as
    fill a batch, or `most_texts`.
    """
    lengths, found = [], list[Cell]()
    length = min(SHORTEST, max_tokens)
    while length < max_tokens:
        lengths.append(length)
        length *= 2
    for length in [*lengths, max_tokens]:
        full = min(max(1, batch_tokens // length), most_texts)
        found += [Cell(length, 2**power) for power in range(int(math.log2(full)) + 1)]
        if found[-1].texts != full:
            found.append(Cell(length, full))
    return found


def calls(sizes: Sequence[Cell], batch_tokens: int, repeats: int) -> int:
    """How many calls measure these sizes `repeats` times: those of one step once more to warm up,
    those of several a third as often.
    """
    return sum(_times(cell, batch_tokens, repeats) for cell in sizes)


def _times(cell: Cell, batch_tokens: int, repeats: int) -> int:
    one_step = cell.tokens * cell.texts <= batch_tokens
    return repeats + 1 if one_step else math.ceil(repeats / 3)


def expected_s(
    curve: Curve, max_tokens: int, most_texts: int, span: int | None, repeats: int = REPEATS
) -> float:
    """Seconds that measuring a model takes, by a curve that is known of it; `span` is its
    `attention_tokens`.
    """
    total_s = 0.0
    for cell in cells(max_tokens, curve.batch_tokens, most_texts):
        tokens, squares = cell.tokens * cell.texts, attention([cell.tokens] * cell.texts, span)
        steps = math.ceil(tokens / curve.batch_tokens)
        step_s = curve.step(tokens / steps, squares / steps, cell.texts / steps)
        total_s += _times(cell, curve.batch_tokens, repeats) * steps * step_s
    return total_s
