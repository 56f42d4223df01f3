from collections.abc import Sequence

import numpy as np
import pytest

from deployments.tools.align import AlignError, Material, Remembering, align, material, not_in
from deployments.tools.corpus import Text
from router.adapters import METHODS, Adapter, Method
from router.arrays import Vectors
from router.schema import Side
from router.space import Space

TEXTS = [Text(str(row), f"text {row}") for row in range(400)]
SIZES = {"a": 16, "b": 24, "c": 24}


class Models:
    """Two models that see the same things from two sides, `a` and `b`, and one that sees others,
    `c`.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, Side]] = []

    async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        self.asked.append((model, len(texts), side))
        turn = np.linalg.qr(np.random.default_rng(1).standard_normal((24, 24)))[0][:16]
        rows = []
        for text in texts:
            seed = [*text.removeprefix("about ").encode(), model == "c"]
            row = np.random.default_rng(seed).standard_normal(24 if model == "c" else 16)
            if model == "c" and side == "query":
                row[0] += 1
            rows.append(row @ turn if model == "b" else row)
        made = np.array(rows)
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


async def aligned(
    source: str, target: str, given: Material, method: Method = "procrustes"
) -> Adapter:
    spaces = Space(source, SIZES[source]), Space(target, SIZES[target])
    return await align(Remembering(Models()), *spaces, {source: "fs", target: "ft"}, given, method)


@pytest.mark.parametrize("method", ["procrustes", "ridge"])
async def test_a_turned_space_is_kept_whole(method: Method) -> None:
    adapter = await aligned("a", "b", material(TEXTS, None, None), method)
    assert min(adapter.proof.fitted.recall, adapter.proof.unseen.recall) > 0.99
    assert min(adapter.proof.fitted.ndcg, adapter.proof.unseen.ndcg) > 0.99
    assert (adapter.texts, adapter.proof.unseen.queries) == (360, 40)
    assert adapter.proof.judged_by == "neighbours"
    assert (adapter.source_fingerprint, adapter.target_fingerprint) == ("fs", "ft")


@pytest.mark.parametrize("method", METHODS)
async def test_an_unrelated_space_is_not_kept_whatever_the_method(method: Method) -> None:
    assert (await aligned("a", "c", material(TEXTS, None, None), method)).proof.unseen.recall < 0.2


async def test_documents_left_out_are_judged_by_a_map_that_saw_none_of_them() -> None:
    class Memorising(Models):
        """As many dimensions as a map needs to learn each text by heart, and no meaning."""

        async def __call__(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
            rows = []
            for text in texts:
                seed = [*text.removeprefix("about ").encode(), model == "b"]
                size = 300 if model == "a" else 24
                rows.append(np.random.default_rng(seed).standard_normal(size))
            made = np.array(rows)
            return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    texts = TEXTS[:200]
    queries = [Text(f"q{row}", f"about text {row}") for row in range(0, 200, 4)]
    given = material(texts, queries, {query.id: {query.id[1:]} for query in queries})
    adapter = await align(
        Remembering(Memorising()),
        Space("a", 300),
        Space("b", 24),
        {"a": "fs", "b": "ft"},
        given,
        "ridge",
    )
    assert adapter.proof.fitted.recall > 0.9
    assert adapter.proof.unseen.recall < 0.3


def test_a_part_of_a_document_and_its_double_are_left_out_with_it() -> None:
    documents = [Text("1", "one"), Text("2", "two"), Text("3", "one")]
    fitted = [*documents, Text("2", "a part of two"), Text("9", "another")]
    assert not_in(fitted, documents, {0}).tolist() == [1, 3, 4]
    assert not_in(fitted, documents, {1}).tolist() == [0, 2, 4]


async def test_judgements_decide_where_there_are_some() -> None:
    queries = [Text(f"q{row}", f"about text {row}") for row in range(30)]
    judged = {f"q{row}": {str(row)} for row in range(25)} | {
        "q28": {"not among the texts"},
        "q29": {"0", "gone"},
    }
    given = material(TEXTS, queries, judged)
    assert [query.id for query in given.queries] == [f"q{row}" for row in (*range(25), 29)]
    adapter = await aligned("a", "b", given)
    assert (adapter.proof.unseen.queries, adapter.texts) == (26, 400)
    assert adapter.proof.judged_by == "judgements"
    assert adapter.proof.unseen.own_recall > 0.9
    assert adapter.proof.unseen.recall > 0.99


def test_what_is_searched_with_is_not_fitted_on() -> None:
    given = material(TEXTS, None, None)
    assert not {text.text for text in given.fitted} & {query.text for query in given.queries}
    assert len(given.fitted) + len(given.queries) == len(TEXTS)
    asked = material(TEXTS, TEXTS[:50], None)
    assert len(asked.fitted) == 350
    assert len(asked.documents) == 400


@pytest.mark.parametrize(
    ("texts", "queries", "judged", "said"),
    [
        (
            TEXTS[:99],
            None,
            None,
            "a tenth of your 99 texts would be the queries; give at least 100 texts, or --queries",
        ),
        (TEXTS[:50], TEXTS[:5], None, "only 5 queries are there"),
        (TEXTS, TEXTS[:20], {"0": {"1"}}, "only 1 queries have a relevant document"),
    ],
    ids=["few texts", "few queries", "few judgements"],
)
def test_too_little_to_measure_with_is_refused(
    texts: list[Text], queries: list[Text] | None, judged: dict[str, set[str]] | None, said: str
) -> None:
    with pytest.raises(AlignError, match=said):
        material(texts, queries, judged)


async def test_too_little_to_fit_on_is_refused() -> None:
    with pytest.raises(AlignError, match="15 texts cannot tell 16 dimensions apart"):
        await aligned("a", "b", material(TEXTS[:30], TEXTS[15:65], None))


async def test_queries_of_each_language_are_measured_apart() -> None:
    chinese = [Text(f"z{row}", f"今天天气很好我们去公园散步{row}") for row in range(30)]
    english = [Text(f"e{row}", f"how is the weather in the park today {row}") for row in range(25)]
    adapter = await aligned("a", "b", material(TEXTS, chinese + english, None))
    assert {
        language: kept.queries for language, kept in adapter.proof.unseen_by_language.items()
    } == {
        "zh": 30,
        "en": 25,
    }


async def test_each_text_is_embedded_once_and_alike_sides_together() -> None:
    models = Models()
    remembered = Remembering(models)
    texts = [text.text for text in TEXTS[:10]]
    first = await remembered("a", texts, "query")
    np.testing.assert_array_equal(
        await remembered("a", [*texts, texts[0]], "document"), first[[*range(10), 0]]
    )
    assert sum(count for _, count, _ in models.asked) == 4 + 4 + 6
    models.asked.clear()
    assert not np.allclose(
        await remembered("c", texts, "query"), await remembered("c", texts, "document")
    )
    assert sum(count for _, count, _ in models.asked) == 20


@pytest.mark.parametrize("copies", [1, 3])
def test_a_recall_over_a_few_documents_is_no_proof(copies: int) -> None:
    def some(count: int) -> list[Text]:
        return [Text(str(row), f"text {row % count}") for row in range(count * copies)]

    queries = [Text(f"q{row}", f"query {row}") for row in range(20)]
    for count, share in ((10, "100%"), (29, "34%")):
        with pytest.raises(AlignError, match=rf"{count} different .* recall@10 of {share}; give"):
            material(some(count), queries, None)
    assert len(material(some(30), queries, None).documents) == 30 * copies
