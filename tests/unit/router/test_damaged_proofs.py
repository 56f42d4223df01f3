"""Damaged files of proofs, adapters and students are refused with the file and the key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from router import adapters, student
from router.encoder_check import load_encoders
from router.proof import Proof
from router.strict import ConfigError, parse_args
from tests.support.bridges import (
    proof_of,
    with_fingerprints,
    write_adapter,
    write_measured,
    write_student,
)

ARGS: dict[str, Any] = {
    "models": {
        name: {"engine": {"kind": "fake", "seed": seed}, "dimensions": 64, "max_tokens": 512}
        for seed, name in enumerate(("small", "large"))
    },
    "tiers": {"fast": "small"},
}


def refused(args: dict[str, Any], collection: dict[str, Any] | None = None) -> str:
    collections = {} if collection is None else {"docs": collection}
    with pytest.raises(ConfigError) as error:
        load_encoders(parse_args({**args, "collections": collections}))
    assert len(error.value.problems) == 1
    return error.value.problems[0]


def put(file: Path, change: dict[str, Any]) -> None:
    content: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **change}))


def problem_of(read: Callable[[Path], object], file: Path) -> str | None:
    try:
        read(file)
    except ValueError as error:
        return str(error)
    return None


DAMAGE: list[tuple[str, Any, str]] = [
    ("recall", float("nan"), "recall must be a number from 0 to"),
    ("recall", float("inf"), "recall must be a number from 0 to"),
    ("recall", None, "recall must be a number from 0 to"),
    ("recall", "0.9", "recall must be a number from 0 to"),
    ("recall", True, "recall must be a number from 0 to"),
    ("recall", -0.1, "recall must be a number from 0 to"),
    ("recall", 1e9, "recall must be a number from 0 to"),
    ("recall", 10**400, "recall must be a number from 0 to"),
    ("recall", 5.0, "recall is 5 times 0.8, which is more than 1"),
    ("ndcg_high", float("nan"), "ndcg_high must be a number from 0 to"),
    ("own_recall", 2.0, "own_recall must be a number from 0 to 1"),
    ("queries", 0, "queries must be a whole number of at least 1"),
    ("queries", 9.5, "queries must be a whole number of at least 1"),
    ("other", 1, "other is unknown"),
]


@pytest.mark.parametrize(("key", "value", "said"), DAMAGE)
@pytest.mark.parametrize("part", ["unseen", "fitted_by_language.de"])
async def test_a_damaged_figure_of_any_proof_is_refused_with_its_file_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, key: str, value: Any, said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    whole = proof_of(0.9, None, {"de": 0.9}).as_json()
    figures = whole
    for name in part.split("."):
        figures = figures[name]
    figures[key] = value
    monkeypatch.setattr(Proof, "as_json", lambda _: whole)
    measured = write_measured(args, tmp_path, "large/64", {"small/64": 0.9})
    adapter = write_adapter(args, tmp_path, "small", "large/64")
    tiny = write_student(args, tmp_path, "large/64")
    several = {"spaces": ["small/64", "large/64"], "proof": measured}
    model = {"engine": {"kind": "student", "weights": tiny}, "space_of": "large/64"}
    for file, problem in (
        (measured, refused(args, several)),
        (adapter, refused(args, {"space": "large/64", "adapters": [adapter]})),
        (tiny, refused({**args, "models": {**args["models"], "tiny": model}})),
    ):
        assert file in problem
        assert f"{part}.{said}" in problem


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kept": []}, "kept must be an object"),
        ({"kept": {"small/64": None}}, "kept.small/64: it must be an object"),
        ({"kept": {"small/64": {}}}, "kept.small/64: judged_by is missing"),
        ({"fingerprints": {"small": None}}, "fingerprints.small must be text"),
        ({"space": 3}, "space must be text"),
        ({"instruction": 3}, "instruction must be text"),
    ],
)
async def test_another_damaged_file_of_measured_recall_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    file = Path(write_measured(args, tmp_path, "large/64", {"small/64": 0.9}))
    put(file, change)
    several = {"spaces": ["small/64", "large/64"], "proof": str(file)}
    problem = refused(args, several)
    assert f"{file} holds no measured recall: {said}" in problem


async def test_a_file_with_changed_bytes_is_refused_or_read_and_no_traceback(
    tmp_path: Path,
) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    readers = {
        Path(write_adapter(args, tmp_path, "small", "large/64")): adapters.load,
        Path(write_student(args, tmp_path, "large/64")): student.load,
    }
    rng = np.random.default_rng(0)
    failed = 0
    for file, read in readers.items():
        whole = file.read_bytes()
        for place in rng.integers(0, len(whole), 60):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
            if (said := problem_of(read, file)) is not None:
                failed += 1
                assert str(file) in said
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="is not"):
            read(file)
    assert failed > 60
