"""The service as a model of mteb: its protocol, spoken by hand-made tasks, for mteb's own data sets
need a hub.
"""

import inspect
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import httpx
import numpy as np
import pytest
from scipy import stats

from deployments.mteb_encoder import ServiceEncoder
from deployments.tools.client import RequestRefused
from tests.support.advise_data import labelled
from tests.support.local_service import LocalRouter

pytestmark = pytest.mark.models


class PromptType(StrEnum):
    """As in mteb."""

    query = "query"
    document = "document"


class Loader:
    """A data loader of mteb's: batches with their texts under "text"."""

    def __init__(self, texts: list[str], batch: int = 7) -> None:
        self._texts, self._batch = texts, batch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for start in range(0, len(self._texts), self._batch):
            some = self._texts[start : start + self._batch]
            yield {"text": some, "id": [str(start + place) for place in range(len(some))]}


def called(encoder: ServiceEncoder, texts: list[str], side: PromptType | None) -> np.ndarray:
    """As mteb calls it, with everything it says."""
    return encoder.encode(
        Loader(texts),
        task_metadata=object(),
        hf_split="test",
        hf_subset="default",
        prompt_type=side,
        batch_size=32,
    )


def asked(url: str, texts: list[str], **options: Any) -> np.ndarray:
    body = {"input": texts, **options}
    return np.array(
        [
            row["embedding"]
            for row in httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
        ]
    )


@pytest.mark.parametrize(
    ("side", "input_type"),
    [(PromptType.query, "query"), (PromptType.document, "document"), (None, "clustering")],
)
def test_the_side_of_a_task_is_the_side_of_the_prompt(
    url: str, side: PromptType | None, input_type: str
) -> None:
    texts = [f"{place} birds over the sea" for place in range(20)]
    encoder = ServiceEncoder("multilingual-e5-small", base_url=url, batch=6)
    made = called(encoder, texts, side)
    np.testing.assert_allclose(
        made, asked(url, texts, model="multilingual-e5-small", input_type=input_type), atol=1e-5
    )
    other = asked(
        url,
        texts,
        model="multilingual-e5-small",
        input_type="document" if input_type != "document" else "query",
    )
    assert np.abs(made - other).max() > 0.01
    assert encoder.space == "multilingual-e5-small/384"


async def test_it_encodes_where_a_loop_runs_already_as_in_a_notebook(url: str) -> None:
    assert called(
        ServiceEncoder("wordllama-256", base_url=url), ["a bird", "a boat"], None
    ).shape == (2, 256)


def test_a_similarity_task_scores_as_its_cosines_do(url: str) -> None:
    rows = labelled()
    pairs = [(rows[place], rows[(place * 7) % len(rows)]) for place in range(60)]
    gold = [float(one[1] == other[1]) for one, other in pairs]
    encoder = ServiceEncoder("wordllama-256", base_url=url)
    first = called(encoder, [one[0] for one, _ in pairs], None)
    second = called(encoder, [other[0] for _, other in pairs], None)
    cosines = encoder.similarity_pairwise(first, second)
    np.testing.assert_allclose(cosines, np.diag(encoder.similarity(first, second)), atol=1e-6)
    assert stats.spearmanr(gold, cosines).statistic > 0.4


def test_a_search_finds_the_topic(url: str) -> None:
    rows = labelled()
    encoder = ServiceEncoder("wordllama-256", base_url=url)
    documents = called(encoder, [text for text, _ in rows], PromptType.document)
    queries = called(
        encoder,
        ["a violin at the concert", "the goalkeeper and the referee of the match"],
        PromptType.query,
    )
    best = encoder.similarity(queries, documents).argmax(axis=1)
    assert [rows[place][1] for place in best] == ["music", "football"]


def test_smaller_vectors_are_those_of_the_service(url: str) -> None:
    encoder = ServiceEncoder("wordllama-256", base_url=url, dimensions=64)
    assert called(encoder, ["a short text"], None).shape == (1, 64)
    assert encoder.space == "wordllama-256/64"


def test_plain_texts_and_the_older_name_of_a_document_are_taken(url: str) -> None:
    encoder = ServiceEncoder("wordllama-256", base_url=url)
    texts = ["one text", "", "another"]  # some of mteb's data sets have empty texts
    assert encoder.encode(texts, prompt_type="passage", task_name="x").shape == (3, 256)


def test_what_is_not_text_and_what_the_service_refuses_is_an_error(
    running: tuple[str, LocalRouter],
) -> None:
    url, _ = running
    with pytest.raises(ValueError, match="embeds text, not int"):
        ServiceEncoder("wordllama-256", base_url=url).encode([{"text": [1, 2]}])
    with pytest.raises(RequestRefused, match="no-such-model"):
        ServiceEncoder("no-such-model", base_url=url).encode(["a text"])


def test_a_tier_that_changes_its_space_midway_is_an_error(url: str) -> None:
    encoder = ServiceEncoder("auto", base_url=url, batch=1)
    with pytest.raises(ValueError, match="name a model, not a tier"):
        encoder.encode(
            ["an English sentence about the weather", "今天的天气非常好，我们去公园散步"]
        )


def test_it_has_what_the_protocol_asks_for() -> None:
    mteb = pytest.importorskip(
        "mteb", reason="mteb is not installed; the protocol is spoken by hand above"
    )
    encoder = ServiceEncoder("some-model")
    assert encoder.mteb_model_meta.name == "embedding-router/some-model"
    wanted = inspect.signature(mteb.models.models_protocols.EncoderProtocol.encode).parameters
    assert {"inputs", "prompt_type"} <= set(wanted)
    assert isinstance(encoder, mteb.models.models_protocols.EncoderProtocol)
