"""A model's card proves its weights: a tiny Qwen3 checkpoint with a card of its own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from deployments import engines
from deployments.engines.base import Engine
from deployments.replica.first_vectors import OfThisProcess
from deployments.replica.identity import Identity, WrongModel, proof_of
from deployments.replica.offline import Offline
from deployments.service.fingerprints import check_reading
from deployments.service.prepare import Preparer
from router.arrays import Vectors
from router.engine_config import TransformersEngineConfig
from router.fingerprint import digest_of
from router.model_config import ModelConfig
from router.strict import ConfigError, parse_args
from tests.support.tiny_qwen3 import write_tiny_qwen3

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QUERY_PROMPT = f"Instruct: {INSTRUCTION}\nQuery:"
QUERIES = ("What is the capital of China?", "Explain gravity")
DOCUMENTS = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical "
    "objects and is responsible for the movement of planets around the sun.",
)
NAME, WIDTH = "tiny", 64


def model(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "engine": {"kind": "transformers", "source": str(folder), "pooling": "last"},
        "tokenizer": str(folder),
        "dimensions": WIDTH,
        "max_tokens": 512,
        "prompts": {
            "query": "Instruct: {instruction}\nQuery:{text}",
            "instruction": INSTRUCTION,
        },
        **changes,
    }


def card_of(similarities: Any, **more: Any) -> dict[str, Any]:
    return {
        "card": {
            "queries": QUERIES,
            "documents": DOCUMENTS,
            "similarities": similarities,
            "query_prompt": QUERY_PROMPT,
            "pooling": "last",
            **more,
        }
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    base = tmp_path_factory.mktemp("cards")
    return {
        seed: write_tiny_qwen3(base / str(seed), hidden=WIDTH, seed=seed, heads=2, reads_bytes=True)
        for seed in (0, 1)
    }


@pytest.fixture(scope="module")
def published(folders: dict[int, Path]) -> list[list[float]]:
    """What the card of the first checkpoint says: its own similarities, rounded as cards are."""
    args = parse_args({"models": {NAME: model(folders[0])}, "tiers": {"fast": NAME}})

    async def vectors() -> tuple[Vectors, Vectors]:
        async with Offline(args, NAME) as one:
            return await one.embed(QUERIES, "query"), await one.embed(DOCUMENTS, "document")

    queries, documents = asyncio.run(vectors())
    similarities: list[list[float]] = np.round(queries @ documents.T, 4).tolist()
    return similarities


def configured(data: dict[str, Any]) -> ModelConfig:
    return parse_args({"models": {NAME: data}, "tiers": {"fast": NAME}}).models[NAME]


STARTED: dict[TransformersEngineConfig, Engine] = {}


@pytest.fixture(scope="module", autouse=True)
def _engines_end() -> Iterator[None]:
    """Each engine is started once; an engine here belongs to no event loop."""
    yield
    for engine in STARTED.values():
        asyncio.run(engine.stop())
    STARTED.clear()


async def proving(
    config: ModelConfig, first: OfThisProcess | None = None, own: ModelConfig | None = None
) -> Identity:
    """The proof of a config, over the engine of `own` if that is another one."""
    settings = (own or config).engine
    assert isinstance(settings, TransformersEngineConfig)
    if settings not in STARTED:
        engine = engines.create(own or config, None)
        await engine.start()
        STARTED[settings] = engine
    identity = proof_of(STARTED[settings], NAME, config, None, first or OfThisProcess())
    assert identity is not None
    return identity


@pytest.mark.models
async def test_the_checkpoint_of_the_card_is_accepted_again_and_again(
    folders: dict[int, Path], published: Any
) -> None:
    config = configured(model(folders[0], fingerprint=card_of(published)))
    identity = await proving(config)
    await identity.prove()
    await identity.prove()
    assert (identity.passed, identity.failed) == (2, 0)


@pytest.mark.models
async def test_another_seed_is_refused_by_the_cards_numbers(
    folders: dict[int, Path], published: Any
) -> None:
    config = configured(model(folders[1], fingerprint=card_of(published)))
    identity = await proving(config)
    with pytest.raises(
        WrongModel,
        match=r"tiny: the similarity of .* is .*, its card says .*"
        "not the card's weights",
    ):
        await identity.prove()
    assert identity.failed == 1


@pytest.mark.models
async def test_another_pooling_is_refused_by_name_and_without_it_by_the_numbers(
    folders: dict[int, Path], published: Any
) -> None:
    mean = {"kind": "transformers", "source": str(folders[0]), "pooling": "mean"}
    for fingerprint, sentence in (
        (card_of(published), "its engine pools by 'mean', the card's model by 'last'"),
        (card_of(published, pooling=None), "its card says"),
    ):
        config = configured(model(folders[0], engine=mean, fingerprint=fingerprint))
        identity = await proving(config)
        with pytest.raises(WrongModel, match=sentence):
            await identity.prove()


@pytest.mark.models
async def test_a_missing_prompt_is_refused_before_anything_starts_and_by_the_numbers(
    folders: dict[int, Path], published: Any
) -> None:
    bare = {"query": "{text}"}
    with pytest.raises(ConfigError, match=r"the card puts 'Instruct: .*' before a query"):
        configured(model(folders[0], prompts=bare, fingerprint=card_of(published)))
    unsaid = card_of(published, query_prompt=None)
    config = configured(model(folders[0], prompts=bare, fingerprint=unsaid))
    identity = await proving(config)
    with pytest.raises(WrongModel, match="its card says"):
        await identity.prove()


@pytest.mark.models
async def test_an_instruction_of_ones_own_is_no_other_prompt(
    folders: dict[int, Path], published: Any
) -> None:
    own = {"query": "Instruct: {instruction}\nQuery:{text}", "instruction": "Find recipes"}
    fingerprint = card_of(published, instruction=INSTRUCTION)
    config = configured(model(folders[0], prompts=own, fingerprint=fingerprint))
    await (await proving(config)).prove()


@pytest.mark.models
async def test_later_replicas_must_make_the_vectors_of_the_first(
    folders: dict[int, Path], published: Any
) -> None:
    """Two checkpoints that one lax card accepts are still two models; another precision that moves
    no vector by much is the same.
    """
    lax = card_of(published, tolerance=2.0)
    first = OfThisProcess()
    await (await proving(configured(model(folders[0], fingerprint=lax)), first)).prove()
    copy = {"kind": "transformers", "source": str(folders[0]), "pooling": "last"}
    half = configured(model(folders[0], engine=copy | {"dtype": "bfloat16"}, fingerprint=lax))
    await (await proving(half, first)).prove()
    # the same config, other weights under it
    exchanged = configured(model(folders[0], fingerprint=lax))
    identity = await proving(exchanged, first, own=configured(model(folders[1])))
    with pytest.raises(WrongModel, match=r"has cosine .*the vectors of this model's first replica"):
        await identity.prove()


@pytest.mark.models
def test_the_router_knows_a_card_by_its_digest(folders: dict[int, Path], published: Any) -> None:
    args = parse_args(
        {
            "models": {NAME: model(folders[0], fingerprint=card_of(published))},
            "tiers": {"fast": NAME},
        }
    )
    proofs = check_reading(args, Preparer(args))
    fingerprint = args.models[NAME].fingerprint
    assert fingerprint is not None
    assert proofs[NAME].digest == digest_of(fingerprint, NAME, None)
    # a card alone does not name the weights: another commit may answer it too
    assert proofs[NAME].digest != digest_of(fingerprint, NAME, None, "another commit")
    other = configured(model(folders[0], fingerprint=card_of([[0.1, 0.2], [0.3, 0.4]])))
    assert other.fingerprint is not None
    assert digest_of(other.fingerprint, NAME, None) != proofs[NAME].digest


@pytest.mark.parametrize(
    ("fingerprint", "sentence"),
    [
        ({"file": "a.json", "card": card_of([[0, 0], [0, 0]])["card"]}, "either a file or a card"),
        ({"min_cosine": 0.9}, "either a file or a card"),
        (card_of([[0.5, 0.5]]), "2 rows"),
    ],
)
def test_a_card_that_says_too_little_or_too_much_is_refused(
    tmp_path: Path, fingerprint: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((ConfigError, ValidationError), match=sentence):
        configured(model(tmp_path, fingerprint=fingerprint))


@pytest.mark.parametrize("revision", ["main", "v1.0", "97B0C614" * 5, "97b0c6"])
def test_a_revision_is_a_commit(tmp_path: Path, revision: str) -> None:
    with pytest.raises(ConfigError, match="40 hexadecimal digits"):
        configured(model(tmp_path, revision=revision))


@pytest.mark.parametrize(
    "engine",
    [
        {"kind": "vllm", "source": "Qwen/Qwen3-Embedding-4B", "args": {"dtype": "float16"}},
        {"kind": "vllm", "source": "/models/Qwen3-Embedding-8B", "args": {"dtype": "half"}},
        {
            "kind": "transformers",
            "source": "Qwen/Qwen3-Embedding-0.6B",
            "pooling": "last",
            "dtype": "float16",
        },
    ],
)
def test_half_precision_is_refused_for_qwen3_embedding_by_name(
    tmp_path: Path, engine: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"Qwen3-Embedding overflows in (half|float16)"):
        configured(model(tmp_path, engine=engine))
    configured(model(tmp_path, engine={**engine, "source": "BAAI/bge-m3"}))
