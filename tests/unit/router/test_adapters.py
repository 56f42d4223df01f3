import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router import adapters
from router.adapters import (
    METHODS,
    Adapter,
    Method,
    as_ranked,
    fit,
    load,
    load_adapters,
    save,
)
from router.models import build_models
from router.retrieval import nearest
from router.space import Space
from router.strict import ConfigError, parse_args
from tests.support.bridges import proof_of, with_fingerprints, write_adapter

PROOF = proof_of(0.96, fitted=0.99, by_language={"de": 0.9})


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def orthogonal(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((max(rows, columns),) * 2))[0][:rows, :columns]


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(8, 8), (6, 10), (10, 6)]))
def test_procrustes_equals_the_rotation_of_zero_padded_vectors(
    seed: int, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    x, y = (
        unit(rng.standard_normal((50, sizes[0])) + 1),
        unit(rng.standard_normal((50, sizes[1])) - 1),
    )
    matrix, offset = fit(x, y)
    np.testing.assert_allclose(x.mean(axis=0) @ matrix + offset, y.mean(axis=0), atol=1e-5)
    centred = [(rows - rows.mean(axis=0)).astype(np.float64) for rows in (x, y)]
    scale = np.linalg.norm(centred[1]) / np.linalg.norm(centred[0])
    if sizes[0] <= sizes[1]:  # else the padding has directions of its own, which no vector reaches
        np.testing.assert_allclose(matrix @ matrix.T, scale**2 * np.eye(sizes[0]), atol=1e-5)
    padded = [np.pad(rows, ((0, 0), (0, max(sizes) - rows.shape[1]))) for rows in centred]
    left, _, right = np.linalg.svd(padded[0].T @ padded[1])
    best = scale * np.trace(padded[0].T @ padded[1] @ (left @ right).T)
    np.testing.assert_allclose(np.trace(centred[0].T @ centred[1] @ matrix.T), best, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(24, 24), (16, 24)], ids=["same size", "into a larger space"])
@pytest.mark.parametrize("method", METHODS)
def test_a_space_that_is_only_turned_is_mapped_onto_itself(
    method: Method, sizes: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    x = unit(rng.standard_normal((2000, sizes[0])))
    y = unit(x @ orthogonal(*sizes, rng))
    if method == "low-rank":
        sizes = (sizes[0], sizes[1])
        x = unit(x[:, :6] @ rng.standard_normal((6, sizes[0])))  # what a low rank can carry
        y = unit(x @ orthogonal(*sizes, rng))
    matrix, offset = fit(x[:1500], y[:1500], method)
    mapped = adapter(matrix=matrix, offset=offset, method=method).map(x[1500:])
    assert (nearest(mapped, y[1500:], 1)[:, 0] == np.arange(500)).mean() > 0.99


def test_what_all_vectors_of_a_model_have_in_common_does_not_drown_what_they_differ_in() -> None:
    rng = np.random.default_rng(0)
    apart = rng.standard_normal((2000, 24))
    # as multilingual-e5 is: no two texts are further apart than 0.7
    narrow = unit(apart + 20 * rng.standard_normal(24))
    wide = unit(apart @ orthogonal(24, 24, rng))
    matrix, offset = fit(narrow[:1500], wide[:1500])
    mapped = adapter(matrix=matrix, offset=offset).map(narrow[1500:])
    assert (nearest(mapped, wide[1500:], 1)[:, 0] == np.arange(500)).mean() > 0.95


def test_vectors_of_different_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="not of the same texts"):
        fit(np.ones((3, 2), np.float32), np.ones((4, 2), np.float32))


def adapter(
    matrix: np.ndarray | None = None, offset: np.ndarray | None = None, **changes: Any
) -> Adapter:
    matrix = np.eye(4, 6, dtype=np.float32) if matrix is None else matrix
    offset = np.zeros(matrix.shape[1], np.float32) if offset is None else offset
    values: dict[str, Any] = {
        "source": Space("a", matrix.shape[0]),
        "target": Space("b", matrix.shape[1]),
        "method": "procrustes",
        "source_fingerprint": "1",
        "target_fingerprint": "2",
        "texts": 100,
        "proof": PROOF,
    }
    return Adapter(matrix=matrix, offset=offset, **{**values, **changes})


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 9))
def test_a_mapped_row_does_not_depend_on_the_rows_beside_it(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    bridge = adapter(
        rng.standard_normal((32, 48)).astype(np.float32), rng.standard_normal(48).astype(np.float32)
    )
    x = unit(rng.standard_normal((rows, 32)))
    together = bridge.map(x)
    for row in range(rows):
        np.testing.assert_array_equal(bridge.map(x[row : row + 1])[0], together[row])
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(together, unit(x @ bridge.matrix + bridge.offset), atol=1e-5)


def test_an_adapter_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    wrote = adapter(
        rng.standard_normal((5, 7)).astype(np.float32),
    )
    save(wrote, tmp_path / "x.adapter")
    read = load(tmp_path / "x.adapter")
    np.testing.assert_array_equal(read.matrix, wrote.matrix)
    assert (read.source, read.target, read.proof) == (wrote.source, wrote.target, wrote.proof)
    assert (read.kept_for("de"), read.kept_for("fr"), read.kept_for(None)) == (0.9, 0.96, 0.96)
    assert replace(read, documents="fixed").kept_for(None) == 0.99


def test_an_adapter_of_the_old_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "old.npz"
    about = json.dumps({"format": "embedding-router adapter 1", "source": "a/4", "target": "b/6"})
    np.savez_compressed(
        path,
        matrix=np.eye(4, 6, dtype=np.float32),
        offset=np.zeros(6, np.float32),
        about=np.frombuffer(about.encode(), np.uint8),
    )
    with pytest.raises(ValueError, match=r"old\.npz was judged only by .* run `embedding-router"):
        load(path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"not a zip"),
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.unlink(),
        lambda path: np.savez(path, matrix=np.eye(2)),
        lambda path: save(adapter(np.full((4, 6), np.nan, np.float32)), path),
        lambda path: save(adapter(source=Space("a", 5)), path),
    ],
    ids=["other bytes", "cut short", "gone", "other arrays", "not finite", "other size"],
)
def test_what_is_not_an_adapter_is_refused_by_name(tmp_path: Path, spoil: Any) -> None:
    path = tmp_path / "bad.npz"
    save(adapter(), path)
    spoil(path)
    with pytest.raises(ValueError, match=r"bad\.npz is not an adapter"):
        load(path)


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
        load_adapters(
            parse_args({**args, "collections": {"docs": {"space": "large/64", **collection}}})
        )
    assert len(refused.value.problems) == 1
    return refused.value.problems[0]


async def test_a_weak_adapter_is_refused_until_the_floor_is_lowered(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    weak = write_adapter(args, tmp_path, "small", "large/64", recall=0.83)
    said = problems_of(args, adapters=[weak])
    assert "collections.docs.adapters[0]" in said
    assert "keeps 83.0% of the recall of large/64's own model" in said
    assert "for documents left out of its fit" in said
    assert "min_recall is 95.0%" in said
    assert "documents: fixed" not in said
    loaded = load_adapters(
        parse_args(
            {
                **args,
                "collections": {
                    "docs": {"space": "large/64", "adapters": [weak], "min_recall": 0.8}
                },
            }
        )
    )
    assert list(loaded["docs"]) == ["small"]


async def test_documents_left_out_count_unless_the_collection_is_fixed(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    change = {"proof": proof_of(0.8, fitted=0.97)}
    file = write_adapter(args, tmp_path, "small", "large/64", change=change)
    said = problems_of(args, adapters=[file])
    assert "keeps 80.0%" in said
    assert "write `documents: fixed`" in said
    fixed = {"space": "large/64", "adapters": [file], "documents": "fixed"}
    (loaded,) = load_adapters(parse_args({**args, "collections": {"docs": fixed}}))["docs"].values()
    assert loaded.kept_for(None) == 0.97


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
        ({"source": Space("gone", 64)}, "it leads from gone, which is not one of the models"),
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


async def test_in_a_space_its_own_model_ranks_first_and_others_by_what_they_keep(
    tmp_path: Path,
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    paths = [
        write_adapter(args, tmp_path, *pair)
        for pair in (("small", "large/64", 0.97), ("huge", "large/64", 0.96))
    ]
    bridges = {one.source.model: one for one in map(adapters.load, map(Path, paths))}
    ranked = as_ranked(build_models(parse_args(args)), Space("large", 64), bridges)
    assert sorted(ranked, key=lambda name: ranked[name].rank) == ["huge", "small", "large"]
    assert ranked["small"].quality == {
        "en": pytest.approx(80 * 0.97),
        "default": pytest.approx(50 * 0.97),
    }
