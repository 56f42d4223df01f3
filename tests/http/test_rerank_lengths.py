"""How language and length choose a reranker, and what a cut leaves of a document, with a real
tokenizer.

Scores of the fake reranker are a hash of the ids that it reads: a score that is right proves them.
"""

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer

from deployments.engines.fake_rerank import hashed
from router.model_config import resolve_path
from tests.support.fixtures import client_with
from tests.support.local_service import FAKE

BEFORE, AFTER = "judge : which ? | ", " ; relevant ?"
TOKENIZER = Tokenizer.from_file(str(resolve_path(str(FAKE["tokenizer"])) / "tokenizer.json"))
TOKENIZER.no_truncation()
TOKENIZER.no_padding()
MAX_TOKENS = {"reads-60": 60, "reads-400": 400}
ARGS: dict[str, Any] = {
    "models": {"small": FAKE},
    "tiers": {"fast": "small"},
    "rerankers": {
        name: {
            "engine": {"kind": "fake"},
            "tokenizer": FAKE["tokenizer"],
            "template": "judge : {query} | {document} ; relevant ?",
            "max_tokens": max_tokens,
        }
        for name, max_tokens in MAX_TOKENS.items()
    },
    "rerank_tiers": {"fast": "reads-60", "best": "reads-400"},
    "rerank_routing": {
        "rules": [
            {"name": "not-english", "when": {"not_languages": ["en"]}, "floor": "best"},
            {"name": "long", "when": {"min_tokens": 50}, "floor": "best"},
        ]
    },
}
SHORT = "The station is near the river."
MIDDLE = " ".join(["The station is near the river."] * 6)
LONG = " ".join(f"number {n} of many" for n in range(30))
GERMAN = "Der Bahnhof liegt ganz in der Nähe des Flusses und der alten Kirche."


http = client_with(ARGS)


def rerank(http: httpx.Client, *documents: str, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/rerank", json={"query": "which ?", "documents": list(documents)} | body)
    assert answer.status_code == 200, answer.text
    parsed: dict[str, Any] = answer.json()
    return parsed


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER.encode(text, add_special_tokens=False).ids
    return found


def scores(answer: dict[str, Any]) -> list[np.float32]:
    """In the order of the request."""
    return [
        np.float32(one["relevance_score"])
        for one in sorted(answer["results"], key=lambda one: int(one["index"]))
    ]


def expected(documents: Sequence[list[int]]) -> list[np.float32]:
    """The scores of documents with these ids."""
    read = [np.array([*ids(BEFORE), *one, *ids(AFTER)], np.int32) for one in documents]
    return list(hashed([one.tobytes() for one in read], 0)[:, 0])


@pytest.mark.parametrize(
    ("documents", "model", "reason"),
    [
        ([SHORT], "reads-60", "auto"),
        ([GERMAN], "reads-400", "rule:not-english"),
        ([MIDDLE], "reads-400", "rule:long"),
        ([SHORT, SHORT + " Yes.", MIDDLE], "reads-400", "rule:long"),
    ],
)
def test_rules_by_language_and_length_choose_a_reranker(
    http: httpx.Client, documents: list[str], model: str, reason: str
) -> None:
    routing = rerank(http, *documents)["routing"]
    assert (routing["model"], routing["reason"]) == (model, reason)


@pytest.mark.parametrize("documents", [[SHORT], [SHORT, "The church is old.", "Trains are late."]])
def test_a_query_counts_as_much_as_its_documents(http: httpx.Client, documents: list[str]) -> None:
    routing = rerank(http, *documents, query="Wo genau liegt der alte Bahnhof?")["routing"]
    assert (routing["model"], routing["reason"]) == ("reads-400", "rule:not-english")
    assert routing["language"] == "en", "that of the documents"
    assert routing.get("languages") == (None if len(documents) == 1 else {"en": len(documents)})


def test_a_long_document_takes_all_of_its_request_to_a_reranker_that_reads_it(
    http: httpx.Client,
) -> None:
    answer = rerank(http, SHORT, LONG, model="fast")
    assert (answer["model"], answer["routing"]["reason"]) == ("reads-400", "context")
    assert answer["routing"]["truncated"] == []
    assert scores(answer) == expected([ids(SHORT), ids(LONG)])


@pytest.mark.parametrize("where", ["end", "start"])
def test_a_document_that_a_pinned_reranker_cannot_read_is_cut_alone(
    http: httpx.Client, where: str
) -> None:
    body = {"query": "which ?", "documents": [SHORT, LONG], "model": "reads-60"}
    error = http.post("/v1/rerank", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")
    assert error["message"].startswith("documents[1] has ")
    assert "reads-60 reads 60 (reads-400 reads most, 400); shorten it" in error["message"]
    answer = rerank(http, SHORT, LONG, model="reads-60", truncate=where)
    room = MAX_TOKENS["reads-60"] - len(ids(BEFORE)) - len(ids(AFTER))
    cut = ids(LONG)[:room] if where == "end" else ids(LONG)[-room:]
    assert answer["routing"]["truncated"] == [1]
    assert scores(answer) == expected([ids(SHORT), cut])
    assert answer["usage"]["prompt_tokens"] == 60 + len(ids(BEFORE + SHORT + AFTER))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("auto", "reads-400 reads 400; "),
        ("fast", "reads-60 reads 60 (reads-400 reads most, 400); "),
        ("best", "reads-400 reads 400; "),
        ("reads-60", "reads-60 reads 60 (reads-400 reads most, 400); "),
        ("reads-400", "reads-400 reads 400; "),
    ],
)
def test_a_document_that_no_reranker_reads_is_told_the_most_that_one_reads(
    http: httpx.Client, model: str, says: str
) -> None:
    body = {"query": "which ?", "documents": [SHORT, LONG * 4], "model": model}
    error = http.post("/v1/rerank", json=body).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")
    assert f" and {says}" in error["message"], error["message"]


def test_a_limit_of_tokens_for_each_document_cuts_the_documents_above_it(
    http: httpx.Client,
) -> None:
    answer = rerank(http, "near", LONG, SHORT, model="reads-60", max_tokens_per_doc=5)
    assert answer["routing"]["truncated"] == [1, 2]
    assert scores(answer) == expected([ids("near"), ids(LONG)[:5], ids(SHORT)[:5]])


def test_pairs_are_known_by_reranker_query_and_document(http: httpx.Client) -> None:
    def cached(*documents: str, **body: Any) -> int:
        return int(rerank(http, *documents, **body)["routing"]["cached"])

    own: dict[str, Any] = {"query": "a question of its own", "model": "reads-60"}
    assert cached("one", "two", "one", **own) == 1, "equal documents are scored once"
    assert cached("one", "three", **own) == 1
    assert cached("one", **own | {"query": "another question"}) == 0
    assert cached("one", **own | {"model": "reads-400"}) == 0


def test_a_request_that_no_reranker_reads_in_time_is_late_or_refused(http: httpx.Client) -> None:
    body = {"query": "which ?", "documents": [LONG, "of the budget"], "latency_budget_ms": 0.001}
    late = http.post("/v1/rerank", json=body)
    assert late.json()["routing"]["reason"] == "late", late.text
    body["documents"] = [LONG, "of another budget"]
    refused = http.post("/v1/rerank", json=body | {"on_budget_miss": "reject"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unreachable")
    assert int(refused.headers["retry-after"]) >= 1
