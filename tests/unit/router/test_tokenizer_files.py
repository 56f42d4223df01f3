"""Which tokenizer files take the fast way, and which of them share their ids."""

import random
from pathlib import Path
from typing import Any

import pytest

from router.file_tokenizers import FastTokenizer
from router.tokenizer import load
from tests.support.tokenizer_files import GOOD_MERGES, HARD, same, toy, written

pytestmark = pytest.mark.usefixtures("kept_tokenizers")
LETTERS = [*HARD, "abc", "aabcc", "xabcabc abc", "bcabc", " x  x   x"]


def test_a_file_built_like_qwens_takes_the_fast_way(tmp_path: Path) -> None:
    own = written(toy(GOOD_MERGES), tmp_path)
    fast = load(str(tmp_path))
    assert isinstance(fast, FastTokenizer)
    same(fast, own, LETTERS)


@pytest.mark.parametrize(
    "merges",
    [[("b", "c"), ("a", "b"), ("ab", "c")], [("a", "a"), ("a", "b"), ("a", "ab")]],
    ids=["an earlier merge takes a part", "the leftmost pair goes first"],
)
def test_a_token_that_merges_do_not_reach_takes_the_slow_way(
    tmp_path: Path, merges: list[tuple[str, str]]
) -> None:
    """tiktoken would find the token in its table, whatever the merges say."""
    own = written(toy(merges), tmp_path)
    slow = load(str(tmp_path))
    assert len(own.encode(merges[-1][0] + merges[-1][1], add_special_tokens=False).ids) > 1
    assert not isinstance(slow, FastTokenizer)
    same(slow, own, LETTERS)


def test_whatever_the_merges_the_fast_way_is_taken_only_where_it_gives_the_same_ids(
    tmp_path: Path,
) -> None:
    taken = 0
    for seed in range(120):
        rng = random.Random(seed)
        tokens, merges = ["a", "b", "c"], list[tuple[str, str]]()
        while len(merges) < 7:
            left, right = rng.choice(tokens), rng.choice(tokens)
            if left + right not in tokens:
                tokens.append(left + right)
                merges.append((left, right))
        own = written(toy(merges), tmp_path)
        tokenizer = load(str(tmp_path))
        same(
            tokenizer, own, ["".join(rng.choices("abc", k=rng.randrange(1, 25))) for _ in range(60)]
        )
        taken += isinstance(tokenizer, FastTokenizer)
    assert 10 <= taken <= 110


def test_merges_that_are_not_in_the_order_of_ids_take_the_slow_way(tmp_path: Path) -> None:
    parts = toy([("a", "b"), ("b", "c"), ("Ġ", "x")])
    merges = parts["model"]["merges"]
    parts["model"]["merges"] = [merges[1], merges[0], merges[2]]
    own = written(parts, tmp_path)
    assert not isinstance(load(str(tmp_path)), FastTokenizer)
    same(load(str(tmp_path)), own, LETTERS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["normalizer"], None),
        (["normalizer"], {"type": "NFKC"}),
        (["model", "ignore_merges"], True),
        (["model", "byte_fallback"], True),
        (["pre_tokenizer", "pretokenizers", 0, "pattern"], {"Regex": r"\s+|\S+"}),
        (["pre_tokenizer", "pretokenizers", 0, "behavior"], "Removed"),
        (["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True),
        (["added_tokens", 0, "normalized"], True),
    ],
    ids=["no normaliser", "another normaliser", "whole words first", "byte fallback",
    "another split", "another use of the split",
         "a prefix space", "added tokens that are normalised"],
)  # fmt: skip
def test_a_file_that_is_not_quite_like_qwens_takes_the_slow_way(
    tmp_path: Path, path: list[str | int], value: object
) -> None:
    parts = toy(GOOD_MERGES)
    place: Any = parts
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    own = written(parts, tmp_path)
    slow = load(str(tmp_path))
    assert not isinstance(slow, FastTokenizer)
    same(slow, own, LETTERS)


def test_files_that_differ_in_added_tokens_share_ordinary_text_and_only_that(
    tmp_path: Path,
) -> None:
    written(toy(GOOD_MERGES, ("<|endoftext|>", "<think>")), tmp_path / "small")
    written(toy(GOOD_MERGES), tmp_path / "large")
    small, large = load(str(tmp_path / "small")), load(str(tmp_path / "large"))
    assert small.key != large.key
    ordinary, thoughts = ["how do I reset my password?", "x < y"], ["fine", "I <think> so"]
    assert small.key_for(ordinary) == large.key_for(ordinary)
    assert small.key_for(thoughts) != large.key_for(thoughts)
    assert [row.tolist() for row in small(ordinary, "query").ids or ()] == [
        row.tolist() for row in large(ordinary, "query").ids or ()
    ]
    assert small(thoughts, "query").counts != large(thoughts, "query").counts


def test_files_that_differ_in_more_share_nothing(tmp_path: Path) -> None:
    written(toy(GOOD_MERGES), tmp_path / "one")
    written(toy(GOOD_MERGES[:-1]), tmp_path / "other")
    assert load(str(tmp_path / "one")).key_for(["a"]) != load(str(tmp_path / "other")).key_for(
        ["a"]
    )


def test_added_tokens_that_are_normalised_are_never_shared(tmp_path: Path) -> None:
    """The Kelvin sign becomes a K, so that a text may hold such a token without showing it."""
    parts = toy(GOOD_MERGES, ("<|endoftext|>", "K2"))
    parts["added_tokens"][1]["normalized"] = True
    written(parts, tmp_path)
    tokenizer = load(str(tmp_path))
    assert tokenizer.key_for(["\u212a2"]) == tokenizer.key_for(["x"]) == tokenizer.key


def test_special_tokens_are_part_of_the_key(tmp_path: Path) -> None:
    written(toy(GOOD_MERGES), tmp_path)
    with_special, without = load(str(tmp_path), True), load(str(tmp_path), False)
    assert with_special.key != without.key
    assert with_special.key_for(["a"]) != without.key_for(["a"])
