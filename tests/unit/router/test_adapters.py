import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.adapters import (
    METHODS,
    Adapter,
    Method,
    fit,
    load,
    save,
)
from router.retrieval import nearest
from router.space import Space
from tests.support.bridges import proof_of

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
