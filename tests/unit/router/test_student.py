from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.tools.vocabulary import tokenizer
from router.student import load, quantised, save
from tests.support.students import TOKENS, student


def test_a_vector_is_the_weighted_sum_of_the_rows_of_the_text() -> None:
    one = student()
    rows = one.rows * one.scales[:, None] * one.weights[:, None]
    made = one.encode(["Iron  rivers", "iron"])
    wanted = rows[1] + rows[3] + rows[4]
    np.testing.assert_allclose(made[0], wanted / np.linalg.norm(wanted), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-5)


def test_eight_bits_move_a_vector_by_less_than_a_degree() -> None:
    rows = np.random.default_rng(1).standard_normal((50, 384)).astype(np.float32)
    bits, scales = quantised(rows)
    cosines = (rows * (bits * scales[:, None])).sum(axis=1) / np.linalg.norm(rows, axis=1)
    cosines /= np.linalg.norm(bits * scales[:, None], axis=1)
    assert cosines.min() > np.cos(np.radians(1))


def test_what_cannot_be_read_is_left_out_and_nothing_at_all_is_zeros() -> None:
    one = student()
    np.testing.assert_array_equal(one.encode(["zebra iron"]), one.encode(["iron"]))
    assert not one.encode(["zebra"]).any()
    assert not one.encode([""]).any()
    assert one.encode(["zebra 人"]).any()


def test_a_vector_does_not_depend_on_the_texts_beside_it() -> None:
    one = student()
    texts = ["iron", "bread river", "stones iron", "人", ""]
    together = one.encode(texts)
    for place, text in enumerate(texts):
        np.testing.assert_array_equal(one.encode([text])[0], together[place])


def test_a_student_reads_back_as_it_was_written(tmp_path: Path) -> None:
    wrote = student()
    save(wrote, tmp_path / "x.student")
    read = load(tmp_path / "x.student")
    assert (read.about, read.fingerprint) == (wrote.about, wrote.fingerprint)
    texts = ["iron stones", "人 bread"]
    np.testing.assert_array_equal(read.encode(texts), wrote.encode(texts))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.ones(9, np.float32)},
        {"scales": np.ones(9, np.float32)},
        {"rows": np.ones((9, 16), np.int8)},
        {"tokenizer": tokenizer(TOKENS[::-1])},
    ],
    ids=["weights", "scales", "rows", "tokenizer"],
)
def test_whatever_decides_a_vector_is_in_the_fingerprint(change: dict[str, Any]) -> None:
    assert student(**change).fingerprint != student().fingerprint


def _with_other_rows(path: Path) -> None:
    with np.load(path) as arrays:
        held = dict(arrays)
    held["rows"] = held["rows"][::-1]
    np.savez(path.with_suffix(""), **held)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"not a zip"), "is not a student"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is not a student"),
        (lambda path: path.unlink(), "is not a student"),
        (lambda path: np.savez(path, rows=np.eye(2)), "is not a student"),
        (_with_other_rows, "its rows are not those that it was measured with"),
        (
            lambda path: save(student(rows=np.ones((4, 16), np.int8)), path),
            "it must have 9 rows of 16",
        ),
    ],
    ids=["other bytes", "cut short", "gone", "other arrays", "other rows", "other shape"],
)
def test_what_is_not_a_student_is_refused_by_name(tmp_path: Path, spoil: Any, said: str) -> None:
    path = tmp_path / "bad.npz"
    save(student(), path)
    spoil(path)
    with pytest.raises(ValueError, match=r"bad\.npz is not a student.*") as refused:
        load(path)
    assert said in str(refused.value)
