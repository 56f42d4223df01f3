"""`distill` from a teacher with Qwen3's architecture: a last-token decoder that reads queries with
a prompt. Its weights are random, so this shows that the machinery works, not what a student keeps.
"""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from router import student
from router.arrays import Vectors
from router.space import fit as cut
from tests.support.space_project import TEXTS, WORDS, Project, run
from tests.support.tiny_qwen3 import write_tiny_qwen3

WIDTH, CUT = 128, 64


async def teachers(config: Path) -> tuple[Vectors, Vectors]:
    """The teacher's own vectors of the texts as queries and as documents, in the cut space."""
    args, _ = application(config)
    async with Offline(args, "tiny") as model:
        queries, documents = [await model.embed(TEXTS, side) for side in ("query", "document")]
    return cut(queries, CUT), cut(documents, CUT)


@pytest.mark.models
@pytest.mark.long
def test_a_student_of_qwen3_learns_its_queries_in_a_cut_space(tmp_path: Path) -> None:
    project = Project(tmp_path)
    folder = write_tiny_qwen3(tmp_path / "qwen3", WIDTH, heads=2, reads_bytes=True)
    project.args = {
        "models": {
            "tiny": {
                "engine": {"kind": "transformers", "source": str(folder), "pooling": "last"},
                "tokenizer": str(folder),
                "dimensions": WIDTH,
                "matryoshka": [CUT],
                "max_tokens": 512,
                "prompts": {"query": "Instruct: Find it\nQuery:{text}"},
            }
        },
        "tiers": {"fast": "tiny"},
    }
    project.write()
    project.fingerprints()
    project.name_fingerprints()
    pieces = {piece: place for place, piece in enumerate(WORDS)}
    (tmp_path / "pieces.json").write_text(
        json.dumps({"model": {"type": "WordPiece", "vocab": pieces}})
    )
    made = run(
        "distill",
        *("--config", project.path("config.yaml"), "--to", f"tiny/{CUT}"),
        *("--vocabulary", project.path("pieces.json"), "--texts", project.path("texts.jsonl")),
        *("-o", project.path("student")),
    )
    assert made.exit_code == 0, made.output
    one = student.load(tmp_path / "student" / "student.npz")
    assert str(one.about.space) == f"tiny/{CUT}"
    assert one.about.proof is not None
    assert one.about.proof.unseen.recall > 0.4  # ten of 327 documents at random: 0.03
    queries, documents = asyncio.run(teachers(tmp_path / "config.yaml"))
    own = one.encode(TEXTS)
    near = (own * queries).sum(axis=1).mean()
    others = (own * np.roll(queries, 1, axis=0)).sum(axis=1).mean()
    as_documents = (own * documents).sum(axis=1).mean()
    assert near > 0.95
    assert near > max(others, as_documents) + 0.05
