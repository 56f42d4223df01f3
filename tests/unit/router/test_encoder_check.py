from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router.encoder_check import load_encoders
from router.encoders import Encoder
from router.space import Space
from router.strict import ConfigError, parse_args
from tests.support.bridges import proof_of, with_fingerprints, write_adapter

MODELS = {
    name: {
        "engine": {"kind": "fake", "seed": seed},
        "dimensions": 64,
        "max_tokens": 512,
        "matryoshka": [32],
        "quality": {"en": 80.0, "default": 50.0},
    }
    for seed, name in enumerate(("small", "large", "huge"))
}
ARGS: dict[str, Any] = {"models": MODELS, "tiers": {"fast": "small"}}


def problems_of(args: dict[str, Any], **collection: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        load_encoders(
            parse_args({**args, "collections": {"docs": {"space": "large/64", **collection}}})
        )
    assert len(refused.value.problems) == 1
    return refused.value.problems[0]


def encoders_of(args: dict[str, Any], **collection: Any) -> dict[str, Encoder]:
    """Those of a collection that are not native, by their model."""
    docs = {"space": "large/64", **collection}
    loaded = load_encoders(parse_args({**args, "collections": {"docs": docs}}))
    return {one.model: one for one in loaded.of_collection["docs"] if not one.native}


async def test_an_adapter_below_the_average_floor_may_serve_a_share(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.83)
    for key in ("adapters", "encoders"):
        (encoder,) = encoders_of(args, **{key: [weak]}).values()
        assert (encoder.kind, encoder.sides, encoder.expected_recall()) == (
            "adapter",
            "queries",
            0.83,
        )


async def test_no_share_above_0_keeps_a_floor_of_1(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.83)
    said = problems_of(args, adapters=[weak], min_recall=1.0)
    assert "collections.docs.adapters[0]" in said
    assert "keeps 83.0% of the recall of large/64's own model" in said
    assert "for documents left out of its fit" in said
    assert "min_recall is 100.0%, so no share of its answers can keep that" in said
    assert "documents: fixed" not in said


async def test_documents_left_out_count_unless_the_collection_is_fixed(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    change = {"proof": proof_of(0.4, fitted=0.97)}
    file = write_adapter(args, tmp_path, "small", "large/64", change=change)
    said = problems_of(args, adapters=[file])
    assert "keeps 40.0%" in said
    assert "write `documents: fixed`" in said
    fixed = {"space": "large/64", "adapters": [file], "documents": "fixed"}
    (loaded,) = encoders_of(args, **fixed).values()
    assert loaded.expected_recall() == 0.97


async def test_no_adapter_may_keep_less_than_the_least_of_any(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.45)
    said = problems_of(args, adapters=[weak], min_recall=0.4)
    assert "keeps 45.0%" in said
    assert "min_recall_each is 50.0%" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target": Space("huge", 64)}, "it leads to huge/64, the collection's space is large/64"),
        ({"source": Space("gone", 64)}, "it needs gone, which is not one of the models"),
        ({"source": Space("large", 64)}, "it leads from large to itself"),
        ({"source_fingerprint": "other"}, "it was made with another small"),
        ({"target_fingerprint": "other"}, "it was made with another large"),
        (
            {"source": Space("small", 32), "matrix": np.ones((32, 64), np.float32)},
            "it reads 32 dimensions, small makes 64",
        ),
    ],
    ids=[
        "other space",
        "unknown model",
        "itself",
        "other source weights",
        "other target weights",
        "other size",
    ],
)
async def test_an_adapter_serves_only_what_it_was_made_for(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    assert said in problems_of(
        args, adapters=[write_adapter(args, tmp_path, "small", "large/64", change=change)]
    )


async def test_a_model_without_a_fingerprint_has_no_adapters(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    path = write_adapter(args, tmp_path, "small", "large/64")
    args["models"]["small"].pop("fingerprint")
    assert "models.small has no `fingerprint`" in problems_of(args, adapters=[path])


async def test_a_collection_takes_one_adapter_from_each_model(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    twice = [write_adapter(args, tmp_path, "small", "large/64") for _ in range(2)]
    assert "there is one from small already" in problems_of(args, adapters=twice)
