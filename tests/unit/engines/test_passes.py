"""Texts share a forward pass where padding costs less than another pass, by costs that are learned
from the passes that ran.
"""

from collections.abc import Iterator, Sequence
from random import Random

import pytest

from deployments.engines.passes import PAIRS, Passes

GRID = [(texts, longest) for texts in (1, 4, 16, 64) for longest in (8, 32, 128)]
OTHERS = [(2, 64), (8, 16), (32, 100), (50, 120)]


def taught(max_tokens: int, fixed: float, token: float, pairs: float) -> Passes:
    passes = Passes(max_tokens)
    for texts, longest in GRID:
        each = token * longest + pairs * longest * longest / PAIRS
        passes.observe(texts, longest, fixed + texts * each)
    return passes


def cost(passes: Sequence[Sequence[int]], lengths: Sequence[int], of: Passes) -> float:
    fixed, token, pairs = of.costs
    total = 0.0
    for one in passes:
        longest = max(lengths[place] for place in one)
        total += fixed + len(one) * (token * longest + pairs * longest * longest / PAIRS)
    return total


def every_cut(count: int) -> Iterator[list[list[int]]]:
    for cuts in range(2 ** (count - 1)):
        passes = [[0]]
        for place in range(1, count):
            if cuts >> (place - 1) & 1:
                passes.append([])
            passes[-1].append(place)
        yield passes


def test_a_long_text_does_not_pad_short_ones() -> None:
    assert Passes(8192).cut([8] * 20 + [250]) == [list(range(20)), [20]]


def test_short_texts_are_padded_where_a_pass_costs_more() -> None:
    assert taught(8192, 0.02, 1e-6, 0.0).cut([8] * 20 + [250]) == [list(range(21))]


@pytest.mark.parametrize("max_tokens", [1, 60, 8192])
def test_no_text_is_lost_and_no_pass_is_too_large(max_tokens: int) -> None:
    rng = Random(max_tokens)
    lengths = sorted(rng.randrange(1, 120) for _ in range(50))
    passes = Passes(max_tokens).cut(lengths)
    assert [place for one in passes for place in one] == list(range(50))
    for one in passes:
        assert len(one) == 1 or len(one) * lengths[one[-1]] <= max_tokens


@pytest.mark.parametrize("seed", range(10))
def test_no_other_cut_costs_less(seed: int) -> None:
    rng = Random(seed)
    passes = taught(10_000, rng.choice([1e-4, 0.002, 0.01]), 2e-5, rng.choice([0.0, 1e-5]))
    lengths = sorted(rng.randrange(4, 200) for _ in range(9))
    found = passes.cut(lengths)
    least = min(cost(one, lengths, passes) for one in every_cut(len(lengths)))
    assert cost(found, lengths, passes) == pytest.approx(least)


@pytest.mark.parametrize("fixed", [0.0005, 0.02])
@pytest.mark.parametrize("pairs", [0.0, 1e-5])
def test_costs_are_those_of_the_passes_that_ran(fixed: float, pairs: float) -> None:
    passes = taught(8192, fixed, 2e-5, pairs)
    passes.cut([1])
    expected = [fixed + n * (2e-5 * m + pairs * m * m / PAIRS) for n, m in OTHERS]
    found = [cost([list(range(n))], [m] * n, passes) for n, m in OTHERS]
    unit = expected[0] / found[0]
    assert [unit * one for one in found] == pytest.approx(expected, rel=0.05)


def test_a_pass_that_was_held_up_changes_little() -> None:
    passes, held_up = taught(8192, 0.002, 2e-5, 0.0), taught(8192, 0.002, 2e-5, 0.0)
    held_up.observe(1, 8, 60.0)
    lengths = sorted(Random(1).randrange(4, 200) for _ in range(40))
    cut, other = passes.cut(lengths), held_up.cut(lengths)
    assert cost(other, lengths, passes) <= 1.05 * cost(cut, lengths, passes)


def test_passes_that_are_all_alike_do_not_mislead() -> None:
    passes = Passes(8192)
    for _ in range(100):
        passes.observe(1, 16, 0.001)
    assert passes.cut([8] * 20 + [250]) == [list(range(20)), [20]]
    assert len(passes.cut([16] * 20)) == 1


def test_nothing_is_cut_of_nothing() -> None:
    assert Passes(8192).cut([]) == []


def test_passes_of_one_shape_do_not_push_out_what_the_others_taught() -> None:
    lengths = [10] * 4 + [40] * 4
    passes = taught(4096, 300.0, 1.0, 0.1)
    before = passes.cut(lengths)
    assert before != Passes(4096).cut(lengths)  # else there is nothing to forget
    for _ in range(200):  # health checks of an idle replica
        passes.observe(1, 1, 301.0)
    assert passes.cut(lengths) == before
