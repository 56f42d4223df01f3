"""Cut texts that are too long for a model; their prompts stay whole."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from router.schema import Side
from router.tokenizer import Tokenizer

CLOSE_TOKENS = 4  # so many below the limit is close enough

T = TypeVar("T")


def longest_that_fits(
    text: str,
    count: int,
    limit: int,
    tokenizer: Tokenizer,
    side: Side,
    before: str,
    after: str,
    where: Literal["end", "start"],
) -> str:
    """Cut a text, which has `count` tokens with its prompt, to `limit`; empty if none fits.

    A tokenizer that returns offsets reads the whole text once more. The rest is tokenised
    again to check that it fits, because the tokens at the cut can change.
    """

    def part(length: int) -> str:
        return text[:length] if where == "end" else text[len(text) - length :]

    def counted(length: int) -> int:
        return tokenizer([before + part(length) + after], side).counts[0] if length else 0

    offsets = tokenizer.offsets(before + text + after)
    if offsets is None:
        return part(by_counting(counted, count, len(text), limit))
    lengths = _lengths(offsets, len(before), len(text), where)
    return part(_by_offsets(counted, lengths, count, limit))


def spliced(
    values: Sequence[T] | None, places: Sequence[int], others: Sequence[T] | None
) -> Sequence[T] | None:
    """`values` with `others` at `places`."""
    if values is None or others is None:
        return values
    result = list(values)
    for place, other in zip(places, others, strict=True):
        result[place] = other
    return result


def _lengths(
    offsets: Sequence[tuple[int, int]], start: int, characters: int, where: Literal["end", "start"]
) -> list[int]:
    """Lengths of a text of `characters` from `start` on, cut to end, or to start, with each of its
    tokens in turn.
    """
    own = [(a - start, b - start) for a, b in offsets if start < b <= start + characters]
    if where == "end":
        return [end for _, end in own]
    return [characters - max(0, begin) for begin, _ in reversed(own)]


def _by_offsets(
    counted: Callable[[int], int], lengths: Sequence[int], count: int, limit: int
) -> int:
    """The length without the surplus tokens; 0 where no token fits."""
    keep = len(lengths)
    while count > limit:
        keep -= count - limit
        if keep <= 0:
            return 0
        count = counted(lengths[keep - 1])
    return lengths[keep - 1]


def by_counting(counted: Callable[[int], int], count: int, length: int, limit: int) -> int:
    """The same for a tokenizer that only counts. Each guess assumes tokens as long as those counted
    last, so that only a few texts are counted, hardly longer than what fits.
    """
    low, high, aim = 0, length, limit - CLOSE_TOKENS // 2
    at, seen, each = length, count, length / count
    while high - low > 1:
        guess = min(high - 1, max(low + 1, at + round((aim - seen) * each)))
        count = counted(guess)
        if count != seen and guess != at:
            each = max(each / 2, min(each * 2, (guess - at) / (count - seen)))
        at, seen = guess, count
        if count > limit:
            high = guess
        elif (low := guess) and limit - count <= CLOSE_TOKENS:
            break
    return low
