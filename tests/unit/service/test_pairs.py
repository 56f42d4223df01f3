"""A rerank query is counted, limited and read off the event loop as a text to embed is."""

import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.service.pairs import PairPreparer, PairReader, PreparedPairs
from deployments.service.prepare import Preparer
from deployments.service.reader import OFF_LOOP_CHARACTERS
from deployments.service.reading_pool import ReadingPool
from deployments.service.rerank_planner import view_of
from router.config import Limits
from router.errors import InvalidValue, MaxTokensPerRequest
from router.language_id import NO_PRIOR
from router.rerank_schema import RerankRequest
from router.schema import EmbeddingsRequest
from router.strict import parse_args
from router.tokenised_texts import TokenisedTexts
from tests.support.counted_tokenizer import Counted
from tests.support.local_service import FAKE

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

FAKE_RERANKER = {
    "engine": {"kind": "fake"},
    "tokenizer": FAKE["tokenizer"],
    "template": "{query} | {document}",
}
ARGS = parse_args(
    {
        "models": {"model": {**FAKE, "max_tokens": 8192}},
        "tiers": {"fast": "model"},
        "rerankers": {
            "pairs": FAKE_RERANKER,
            "cosine": {"engine": {"kind": "similarity", "model": "model"}},
        },
        "rerank_tiers": {"fast": "pairs", "best": "cosine"},
    }
)
LONG = "word " * 400_000


class Watched(Counted):
    """Also says which thread read."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.threads: set[threading.Thread] = set()

    def __call__(self, texts: Sequence[str], input_type: str) -> TokenisedTexts:
        self.threads.add(threading.current_thread())
        return super().__call__(texts, input_type)


def reader_of(
    query: str, documents: Sequence[str], limits: Limits | None = None, most: int | None = None
) -> tuple[PairReader, Watched]:
    """What reads one request, and the tokenizer that it reads with."""
    limits = limits or Limits()
    preparer = Preparer(view_of(ARGS))
    inner = preparer.tokenizers["cosine"]
    assert inner is not None
    watched = Watched(inner)
    preparer.tokenizers.update(pairs=watched, cosine=watched)
    request = RerankRequest(
        query, EmbeddingsRequest(documents, None, side="document"), max_tokens_per_doc=most
    )
    pairs = PairPreparer(preparer, ARGS.rerankers, request)
    pool = ReadingPool(limits.max_reading_characters)
    return PairReader(pairs, request, NO_PRIOR, limits, pool), watched


async def read(reader: PairReader, *models: str) -> dict[str, Any]:
    documents = reader.request.documents
    return (await reader.read(documents, "document", None, None, models)).prepared


@pytest.mark.parametrize("model", ["pairs", "cosine"])
@pytest.mark.parametrize("most", [None, 5])
async def test_a_long_query_is_read_off_the_loop_and_counted(model: str, most: int | None) -> None:
    query = "word " * OFF_LOOP_CHARACTERS
    reader, tokenizer = reader_of(query, ["a"], most=most)
    assert reader.reading(["a"], "document", None, (model,)) > len(query)
    assert list(await read(reader, model)) == [model]
    assert tokenizer.threads
    assert threading.current_thread() not in tokenizer.threads


def test_a_long_query_with_one_short_document_is_not_taken_for_short() -> None:
    reader, _ = reader_of("word " * OFF_LOOP_CHARACTERS, ["a"])
    assert not reader.is_short(["a"], None)


async def test_a_short_query_is_read_on_the_loop_with_its_document() -> None:
    reader, tokenizer = reader_of("which?", ["a", "b"])
    prepared = await read(reader, "pairs", "cosine")
    assert tokenizer.threads == {threading.current_thread()}
    assert prepared["pairs"].query is None
    assert isinstance(prepared["cosine"], PreparedPairs)
    assert prepared["cosine"].query is not None


async def test_a_query_has_the_limit_of_tokens_and_is_not_read_beyond_it() -> None:
    limits = Limits(max_tokens_per_request=1000)
    reader, tokenizer = reader_of(LONG, ["a"], limits)
    with pytest.raises(MaxTokensPerRequest) as caught:
        await read(reader, "cosine")
    assert caught.value.param == "query"
    assert caught.value.message.startswith("query has more than 1000 tokens")
    assert tokenizer.characters < len(LONG) / 4


async def test_the_query_and_the_documents_have_one_limit_of_tokens() -> None:
    limits = Limits(max_tokens_per_request=150)
    for words, fits in ((60, True), (100, False)):
        reader, _ = reader_of("word " * words, ["word " * 60], limits)
        if fits:
            assert list(await read(reader, "cosine")) == ["cosine"]
        else:
            with pytest.raises(MaxTokensPerRequest):
                await read(reader, "cosine")


async def test_a_query_that_makes_prompts_too_long_is_named() -> None:
    reader, _ = reader_of(LONG, ["a"])
    with pytest.raises(InvalidValue) as caught:
        await read(reader, "pairs", "cosine")
    assert caught.value.param == "query"
    assert "max_prompt_characters" in caught.value.message


async def test_pairs_of_one_query_and_instruction_have_one_prefix() -> None:
    async def prefix(query: str, *documents: str, model: str = "pairs") -> bytes | None:
        reader, _ = reader_of(query, documents)
        made = (await read(reader, model))[model]
        cut, _ = reader.pairs.cut(made, documents, model, "end", None)
        assert made.prefix == cut.prefix
        return made.prefix

    own = await prefix("which?", "a")
    assert own is not None
    assert own == await prefix("which?", "another", "list")
    assert own != await prefix("who?", "a")
    assert await prefix("which?", "a", model="cosine") is None, "documents are read alone"


async def test_the_features_are_those_of_the_pairs() -> None:
    reader, _ = reader_of("wo ist der Bahnhof von Heidelberg", ["Where is the railway station?"])
    features = (await reader.read(reader.request.documents, None, None, None, ("pairs",))).features
    assert (features.language, features.languages) == ("en", {"en": 1, "de": 1})
    assert reader.documents is not None
    assert (reader.documents.language, reader.documents.languages) == ("en", {})


@pytest.mark.parametrize("documents", [["a"], ["a", "b"]])
async def test_a_reader_is_gone_with_its_request(documents: list[str]) -> None:
    gc.collect()
    gc.disable()
    try:
        reader, _ = reader_of("which?", documents)
        await read(reader, "pairs", "cosine")
        gone = weakref.ref(reader)
        del reader
        assert gone() is None
    finally:
        gc.enable()
