"""What the benchmark of mixed load sends, and what it concludes."""

import random
from pathlib import Path

import pytest

from benchmarks.live import Ask, RequestResult, Text
from benchmarks.public_data import SAMPLE
from benchmarks.rerank_load import (
    ALWAYS,
    CHARACTERS,
    DOCUMENTS,
    MARK,
    POLICY,
    RERANK_BUDGETS_S,
    Mix,
    kind_of,
    summarise,
)
from deployments.launch.serve_config import application

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "local.yaml"
QUERY = Text("which?", "en", "query")


def test_a_third_of_the_requests_rank_new_passages_and_each_has_its_budget() -> None:
    args, _ = application(CONFIG)
    mix = Mix(random.Random(1), SAMPLE, args)
    asks = [mix.of(POLICY)() for _ in range(300)]
    ranking = [ask for ask in asks if ask.documents]
    assert 80 <= len(ranking) <= 120
    assert all(ask.options["latency_budget_ms"] == 1000 * (ask.budget_s or 0) for ask in asks)
    for ask in ranking:
        assert DOCUMENTS[0] <= len(ask.documents) <= DOCUMENTS[1]
        assert all(len(one) <= CHARACTERS[1] + 10 for one in ask.documents)
        assert ask.budget_s in RERANK_BUDGETS_S
    texts = [text for ask in asks for text in (ask.text.text, *ask.documents)]
    assert len(set(texts)) == len(texts), "no text is in a cache"
    pinned = {kind_of(ask.documents): ask.options for ask in (mix.of(ALWAYS)() for _ in range(50))}
    assert pinned == {
        "embeddings": {"model": "multilingual-e5-small"},
        "reranking": {"model": "multilingual-e5-small-similarity"},
    }


@pytest.mark.parametrize(("late", "met"), [(5, True), (6, False)])
def test_each_kind_is_judged_alone(late: int, met: bool) -> None:
    def told(documents: tuple[str, ...], total_s: float, status: int = 200) -> RequestResult:
        return RequestResult(Ask(QUERY, {}, 0.1, documents), status, "small", None, total_s)

    ranked = [told(("a",), 0.2 if place < late else 0.05) for place in range(100)]
    embedded = [told((), 0.05, 503 if place < 2 else 200) for place in range(100)]
    rows = {row.kind: row for row in summarise({(0.8, POLICY): ranked + embedded})}
    assert (rows["reranking"].met, rows["embeddings"].met) == (met, True)
    assert rows["reranking"].in_time == pytest.approx(1 - late / 100)
    assert (rows["embeddings"].errors, rows["embeddings"].in_time) == (2, 0.98)
    assert rows["embeddings"].models == {"small": 1.0}
    (alone,) = summarise({(0.8, ALWAYS): ranked})
    assert alone.met is None, f"the mark of {MARK:.0%} is the policy's"
