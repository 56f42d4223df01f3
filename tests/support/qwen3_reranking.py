"""Qwen3-Reranker as its model card describes it: the ids of a pair, and its score by transformers.

The two-way softmax of "no" and "yes" at the last position, in float32.
"""

from collections.abc import Sequence
from pathlib import Path

PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
SUFFIX_IDS = [151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
TASK = "Given a web search query, retrieve relevant passages that answer the query"
YES, NO = 9693, 2152
WITHIN = 0.003  # of the score in transformers
QUERY = "What is the capital of China?"
DOCUMENTS = [
    "The capital of China is Beijing.",
    "Gravity attracts bodies towards each other.",
    "今天天气很好，我们去公园散步吧。",
    "def mean(values):\n    return sum(values) / len(values)",
    "word " * 300,
    "naïve café 🙂 — Ελληνικά, عربى, ภาษาไทย",
]


def pairs_of(
    checkpoint: Path, documents: Sequence[str], max_tokens: int, query: str = QUERY
) -> list[list[int]]:
    """Ids as in Qwen's own example: three pieces without special tokens; the middle one is cut."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return found

    before, after = ids(PREFIX), ids(SUFFIX)
    assert after == SUFFIX_IDS
    room = max_tokens - len(before) - len(after)
    bodies = [f"<Instruct>: {TASK}\n<Query>: {query}\n<Document>: {one}" for one in documents]
    return [before + ids(body)[:room] + after for body in bodies]


def scores_of(checkpoint: Path, pairs: Sequence[list[int]]) -> list[float]:
    """The scores of these ids in transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(checkpoint), dtype=torch.float32).eval()
    with torch.no_grad():
        last = [model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1] for ids in pairs]
    return [float(torch.softmax(row[[NO, YES]], 0)[1]) for row in last]
