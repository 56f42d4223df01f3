"""`fingerprint` and `align` from a config and through a running router, up to a query that comes
over what they made.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from deployments.engines import create
from deployments.replica.identity import WrongModel
from deployments.replica.score_identity import ScoreIdentity
from router import adapters, fingerprint
from router.rerank_config import RerankerConfig
from tests.support.local_service import served
from tests.support.space_project import TEXTS, Project, run

pytestmark = pytest.mark.models


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_fingerprint_of_a_reranker_is_what_its_replica_must_reproduce(project: Project) -> None:
    reranker: dict[str, Any] = {
        "engine": {"kind": "fake", "seed": 3},
        "template": "{query}\n{document}",
    }
    alike = {"engine": {"kind": "similarity", "model": "plain"}}
    project.args["rerankers"] = {"pairs": reranker, "alike": alike}
    project.args["rerank_tiers"] = {"fast": "pairs"}
    project.write()
    options = ["--config", project.path("config.yaml"), "-o", project.path("pairs.json")]
    made = run("fingerprint", *options, "--model", "pairs", "--json")
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["dimensions"] == 1

    def refused(**changed: Any) -> str:
        config = RerankerConfig.model_validate(
            reranker | {"fingerprint": project.path("pairs.json")} | changed
        )
        identity = ScoreIdentity(create(config, None), "pairs", config, None, lambda: 0.0)
        try:
            asyncio.run(identity.prove())
        except WrongModel as error:
            return str(error)
        return ""

    assert refused() == ""
    assert "the largest difference allowed" in refused(engine={"kind": "fake", "seed": 4})
    of_similarity = run("fingerprint", *options, "--model", "alike")
    assert of_similarity.exit_code == 1
    assert "make a fingerprint of that model" in of_similarity.output


def test_a_fingerprint_through_a_router_proves_what_the_engine_makes(project: Project) -> None:
    project.fingerprints()
    here = {
        model: fingerprint.load(project.folder / f"{model}.json")
        for model in project.args["models"]
    }
    with served(project.args) as (url, _):
        project.fingerprints("--base-url", url)
    for model, before in here.items():
        there = fingerprint.load(project.folder / f"{model}.json")
        assert before.mismatch(there.vectors, 0.99999) is None
    assert here["plain"].mismatch(here["turned"].vectors, 0.5) is not None


@pytest.mark.parametrize("origin", ["config", "router"])
def test_an_adapter_serves_what_it_was_measured_to_keep(project: Project, origin: str) -> None:
    project.fingerprints()
    project.name_fingerprints()
    arguments = [
        "align",
        "--from",
        "plain",
        "--to",
        "turned/256",
        "--texts",
        project.path("texts.jsonl"),
        "-o",
        project.path("a.npz"),
    ]
    if origin == "config":
        made = run(*arguments, "--config", project.path("config.yaml"))
    else:
        with served(project.args) as (url, _):
            made = run(*arguments, "--base-url", url)
    assert made.exit_code == 0, made.output
    assert "plain/256 -> turned/256: procrustes" in made.output
    assert "judged by what the target's own model finds" in made.output
    assert (project.folder / "a.png").stat().st_size > 5000
    proof = adapters.load(project.folder / "a.npz").proof
    kept = proof.unseen
    assert kept.recall > 0.95
    assert f"{kept.recall:.1%} [{kept.recall_low:.1%}" in made.output

    collections = {"docs": {"space": "turned/256", "adapters": [project.path("a.npz")]}}
    with served({**project.args, "collections": collections}) as (url, router):
        body = {"input": "iron bread", "space": "docs", "input_type": "query"}
        native = httpx.post(f"{url}/v1/embeddings", json=body).json()
        over = httpx.post(f"{url}/v1/embeddings", json={**body, "model": "plain"}).json()
        assert native["routing"]["adapter"] is None
        assert over["routing"]["adapter"] == {
            "source": "plain/256",
            "expected_recall": round(kept.recall, 4),
        }
        one, other = (np.array(answer["data"][0]["embedding"]) for answer in (native, over))
        assert one @ other > 0.9
        assert router.service.catalogue.collections["docs"].encoders[1].model == "plain"


def test_queries_and_judgements_measure_what_a_user_searches_for(project: Project) -> None:
    project.fingerprints()
    project.name_fingerprints()
    queries = [{"id": f"q{row}", "text": f"the {text}"} for row, text in enumerate(TEXTS[::10])]
    (project.folder / "queries.jsonl").write_text(
        "".join(json.dumps(query) + "\n" for query in queries)
    )
    judged = [f"q{row}\t{text.replace(' ', '_')}\t1\n" for row, text in enumerate(TEXTS[::10])]
    (project.folder / "qrels.tsv").write_text("".join(judged))
    made = run(
        "align",
        "--config",
        project.path("config.yaml"),
        "--from",
        "plain",
        "--to",
        "turned",
        "--method",
        "ridge",
        "--texts",
        project.path("texts.jsonl"),
        "--queries",
        project.path("queries.jsonl"),
        "--qrels",
        project.path("qrels.tsv"),
        "-o",
        project.path("a.npz"),
        "--json",
    )
    assert made.exit_code == 0, made.output
    said = json.loads(made.stdout)
    adapter = adapters.load(project.folder / "a.npz")
    assert (adapter.proof.judged_by, adapter.method, adapter.proof.unseen.queries) == (
        "judgements",
        "ridge",
        len(queries),
    )
    assert adapter.proof.unseen.own_recall > 0.9
    assert adapter.proof.unseen.recall > 0.95
    proof = adapter.proof
    assert (said["recall_kept_fitted"], said["recall_kept_unseen"]) == (
        proof.fitted.recall,
        proof.unseen.recall,
    )
    assert (said["ndcg_kept_fitted"], said["ndcg_kept_unseen"]) == (
        proof.fitted.ndcg,
        proof.unseen.ndcg,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "plain", "--to", "turned"], "plain has no `fingerprint`"),
        (["--from", "gone", "--to", "turned"], "there is no model 'gone'; there are plain, turned"),
        (["--from", "plain", "--to", "gone/64"], "there is no model 'gone'"),
        (
            ["--from", "plain", "--to", "turned", "--base-url", "http://x"],
            "give either --config or --base-url",
        ),
        (["--from", "plain", "--to", "turned", "--qrels", "{texts}"], "give --queries too"),
    ],
    ids=[
        "no fingerprint",
        "unknown source",
        "unknown target",
        "two origins",
        "judgements of nothing",
    ],
)
def test_what_cannot_be_aligned_is_said(project: Project, arguments: list[str], said: str) -> None:
    given = [argument.replace("{texts}", project.path("texts.jsonl")) for argument in arguments]
    refused = run(
        "align",
        *given,
        "--config",
        project.path("config.yaml"),
        "--texts",
        project.path("texts.jsonl"),
        "-o",
        project.path("a.npz"),
    )
    assert refused.exit_code != 0
    assert said in refused.output
    assert not (project.folder / "a.npz").exists()


def test_a_size_that_a_model_does_not_serve_is_no_target(project: Project) -> None:
    project.fingerprints()
    project.name_fingerprints()
    refused = run(
        "align",
        "--from",
        "plain",
        "--to",
        "turned/100",
        "--config",
        project.path("config.yaml"),
        "--texts",
        project.path("texts.jsonl"),
        "-o",
        project.path("a.npz"),
    )
    assert refused.exit_code == 1
    assert "turned has no vectors of 100 dimensions" in refused.output


@pytest.mark.parametrize(
    ("space", "exit_code", "verdict"), [("plain/256", 0, "keep"), ("turned/256", 3, "bridge")]
)
def test_verify_through_a_router(
    project: Project, space: str, exit_code: int, verdict: str
) -> None:
    with served(project.args) as (url, _):
        body = {"input": TEXTS, "space": "plain/256", "input_type": "document"}
        data = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
        table = pa.table({"id": TEXTS, "text": TEXTS, "vector": [row["embedding"] for row in data]})
        parquet.write_table(table, project.path("index.parquet"))
        arguments = ["--base-url", url, "--index", project.path("index.parquet"), "--json"]
        done = run("verify", *arguments, "--space", space)
        unknown = run("verify", *arguments, "--space", "nothing/256")
        refused = run("verify", *arguments, "--space", "turned/128")
    assert done.exit_code == exit_code, done.output
    assert json.loads(done.stdout)["verdict"] == verdict
    assert (unknown.exit_code, refused.exit_code) == (1, 1)
    assert "there is no model 'nothing'" in unknown.stderr
    assert "the index holds vectors of 256 dimensions, and turned/128 has 128" in refused.stderr
