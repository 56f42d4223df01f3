from collections import Counter
from pathlib import Path

import orjson
import pytest

from deployments.tools.vocabulary import examples, tokenizer, vocabulary, wordpieces, words_of

PIECES = ["a", "b", "##a", "##b", "river"]


def test_words_are_counted_as_a_student_reads_them() -> None:
    assert words_of(["Rivers, rivers", "人口"]) == Counter({"rivers": 2, ",": 1, "人": 1, "口": 1})


def test_frequent_words_follow_the_pieces_and_rare_ones_are_left_out() -> None:
    counts = Counter({"river": 9, "zebra": 3, "apple": 3, "once": 1, "x" * 60: 5})
    assert vocabulary(PIECES, counts, 10, 2) == [*PIECES, "apple", "zebra"]
    assert vocabulary(PIECES, counts, 1, 2) == [*PIECES, "apple"]


def test_a_word_of_the_vocabulary_is_found_whole_and_others_in_pieces() -> None:
    made = tokenizer([*PIECES, "abba"])
    assert made.encode("ABBA aab zzz", add_special_tokens=False).tokens == [
        "abba",
        "a",
        "##a",
        "##b",
        "[UNK]",
    ]


def test_a_piece_has_words_of_few_pieces_as_examples_and_frequent_ones_of_these() -> None:
    counts = Counter({"aab": 9, "ab": 2, "bb": 5, "river": 7, "zb": 4, "bab": 1})
    assert examples(PIECES, counts, 3) == {"##b": ["bb", "ab", "aab"], "##a": ["aab", "bab"]}


def test_the_pieces_of_a_tokenizer_are_read_without_its_special_tokens(tmp_path: Path) -> None:
    model = {"type": "WordPiece", "vocab": {"[PAD]": 0, "[unused3]": 1, "b": 3, "a": 2}}
    file = tmp_path / "tokenizer.json"
    file.write_bytes(orjson.dumps({"model": model, "added_tokens": [{"content": "[PAD]"}]}))
    assert wordpieces(file) == ["a", "b"]
    file.write_bytes(orjson.dumps({"model": {**model, "type": "BPE"}}))
    with pytest.raises(ValueError, match="is not a WordPiece tokenizer"):
        wordpieces(file)
