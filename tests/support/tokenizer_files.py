"""Texts that are hard to split, and small tokenizer files built like Qwen's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from router.tokenizer import Tokenizer
from tests.support.qwen_tokenizer import SPLIT

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
