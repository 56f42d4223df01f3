"""What clients of configs/qwen3.yaml rely on, whatever front the service has: tests for the modules
that start it.
"""

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.engines.base import Batch
from deployments.engines.transformers import TransformersEngine
from router import engine_config as settings
from router.tokenizer import load
from tests.support.launched import Launched
from tests.support.tiny_qwen3 import quick_dtype

WIDTHS = {"qwen3-embedding-0.6b": 1024, "qwen3-embedding-4b": 2560, "qwen3-embedding-8b": 4096}
TEXTS = {
    "short": "What is the capital of China?",
    "chinese": "中华人民共和国的首都是哪一座城市？请用一句话回答。",
    "long": "The quick brown fox jumps over the lazy dog near the river bank. " * 70,
    "mixed": "naïve café 🙂 — Ελληνικά, عربى, ภาษาไทย",
}
INSTRUCTED = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


def embed(qwen3: Launched, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{qwen3.url}/v1/embeddings", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed


def vectors(answer: dict[str, Any]) -> np.ndarray:
    return np.array(
        [
            np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
            if isinstance(item["embedding"], str)
            else item["embedding"]
            for item in answer["data"]
        ],
        np.float32,
    )


def reference(checkpoint: Path, width: int, texts: list[str]) -> tuple[np.ndarray, list[int]]:
    """What transformers makes of these texts as they stand, and their token counts."""
    made = TransformersEngine(
        settings.TransformersEngineConfig(
            kind="transformers", source=str(checkpoint), pooling="last", dtype=quick_dtype()
        ),
        width,
        32768,
        None,
    )
    ids = load(str(checkpoint))(texts, "document").ids
    assert ids is not None
    assert all(row[-1] == 151643 for row in ids), "every input ends in <|endoftext|>"

    async def run() -> np.ndarray:
        await made.start()
        try:
            return (await made.embed(Batch(ids=ids))).vectors
        finally:
            await made.stop()

    return asyncio.run(run()), [len(row) for row in ids]


@pytest.mark.parametrize("model", WIDTHS)
def test_every_width_equals_transformers_with_its_prompts(
    qwen3: Launched, checkpoints: dict[str, Path], model: str
) -> None:
    texts = [*TEXTS.values(), *(INSTRUCTED + text for text in TEXTS.values())]
    expected, counts = reference(checkpoints[model], WIDTHS[model], texts)
    half = len(TEXTS)
    for side, part in (("document", slice(0, half)), ("query", slice(half, None))):
        batch = embed(
            qwen3,
            input=list(TEXTS.values()),
            model=model,
            input_type=side,
            encoding_format="base64",
        )
        assert batch["usage"]["prompt_tokens"] == sum(counts[part])
        assert batch["routing"]["space"] == f"{model}/{WIDTHS[model]}"
        cosines = np.einsum("ij,ij->i", vectors(batch), expected[part])
        assert cosines.min() >= 0.999, dict(zip(TEXTS, cosines, strict=True))
    alone = vectors(
        embed(qwen3, input=TEXTS["short"] + " ", model=model, instruction="Find the answer")
    )
    own, _ = reference(
        checkpoints[model], WIDTHS[model], [f"Instruct: Find the answer\nQuery:{TEXTS['short']} "]
    )
    assert (alone @ own.T).item() >= 0.999


def test_models_are_known_by_their_hub_names(qwen3: Launched) -> None:
    for name in ("Qwen/Qwen3-Embedding-0.6B", "Qwen3-Embedding-0.6B", "qwen3-embedding-0.6b"):
        answer = httpx.post(
            f"{qwen3.url}/v1/embeddings", json={"input": "hello", "model": name}, timeout=60
        )
        # The tiny config has no hub ids left to compare a prefix with, so only the last part
        # counts.
        assert answer.json()["model"] == "qwen3-embedding-0.6b"


@pytest.mark.parametrize("size", [32, 512, 1000])
def test_smaller_spaces_are_cut_and_renormalised(qwen3: Launched, size: int) -> None:
    whole = vectors(embed(qwen3, input=TEXTS["chinese"], model="best"))
    cut = embed(qwen3, input=TEXTS["chinese"], model="best", dimensions=size)
    expected = whole[:, :size] / np.linalg.norm(whole[:, :size])
    np.testing.assert_allclose(vectors(cut), expected, atol=1e-6)
    assert cut["routing"]["space"] == f"qwen3-embedding-8b/{size}"


def test_base64_equals_float_bit_for_bit(qwen3: Launched) -> None:
    texts = list(TEXTS.values())
    for model in WIDTHS:
        floats = vectors(embed(qwen3, input=texts, model=model, encoding_format="float"))
        assert (
            floats.tobytes()
            == vectors(embed(qwen3, input=texts, model=model, encoding_format="base64")).tobytes()
        )


def test_2048_vectors_of_4096_numbers_fit_in_one_request(qwen3: Launched) -> None:
    answer = embed(
        qwen3,
        input=[f"row {index}" for index in range(2048)],
        model="best",
        encoding_format="base64",
    )
    made = vectors(answer)
    assert made.shape == (2048, 4096)
    assert [item["index"] for item in answer["data"]] == list(range(2048))
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-4)
    again = vectors(embed(qwen3, input="row 1234 ", model="best"))
    near = vectors(embed(qwen3, input=["row 1234", "row 1235"], model="best"))
    np.testing.assert_array_equal(near[0], made[1234])
    assert again.shape == (1, 4096)


def test_a_40k_token_text_is_refused_with_its_count(qwen3: Launched) -> None:
    answer = httpx.post(
        f"{qwen3.url}/v1/embeddings", json={"input": "word " * 40_000, "model": "best"}, timeout=60
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "40002 tokens with its prompt and qwen3-embedding-8b reads 32768" in error["message"]
