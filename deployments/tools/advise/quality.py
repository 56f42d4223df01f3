"""Tasks score each model on the user's texts: one number per query, pair or text.

All models are scored on the same units, so that they can be paired. All values are points of 100.

    retrieval   per query nDCG@10; recall@10, recall@100 and MRR beside it (ir-measures)
    pairs       per pair the cosine; the task's value is Spearman's correlation with people's
                scores (scipy)
    labels      per text whether its five nearest neighbours vote for its label; V-measure of
                k-means beside it (scikit-learn)
    agreement   per text the share of its ten nearest neighbours that the largest model finds too.
                Not quality: a model that is better than the largest would agree with it as little
                as one that is worse
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deployments.tools.advise.inputs import Inputs, Labelled, Pair
from deployments.tools.advise.run import vectors_of
from deployments.tools.advise.survey import AdvisePlan, ServedModel, TextSide
from deployments.tools.corpus import Text
from router.arrays import Floats, Indices, Vectors
from router.domain import Features
from router.features import extract
from router.retrieval import TOP, Found, nearest, overlap

TaskKind = Literal["retrieval", "pairs", "labels", "agreement"]
DEPTH = 100  # documents of a query that measures use
NEIGHBOURS = 5
AGREEMENT_UNITS = 500
AGREEMENT_OTHERS = 200  # texts that similarities are ranked over
SEED = 7


class Unit(NamedTuple):
    """One query, pair or text that a task scores, as the router would see it."""

    features: Features  # of the request: both texts of a pair
    longest: str
    side: TextSide
    answer_characters: int = 0  # retrieval: of the longest relevant document


@dataclass(slots=True)
class Task:
    """Scores of every model on the same units."""

    name: str
    kind: TaskKind
    metric: str
    units: tuple[Unit, ...]
    gold: Floats | None = None  # pairs: people's scores
    # by model, one for each unit; cosines for pairs
    scores: dict[str, Floats] = field(default_factory=dict)
    # by model: other measures, in points
    more: dict[str, dict[str, float]] = field(default_factory=dict)
    # by model and size: the metric with cut vectors
    cuts: dict[str, dict[int, float]] = field(default_factory=dict)

    def value(self, scores: Floats, rows: Indices) -> float:
        """Return the task's metric over some of its units; NaN if there are too few."""
        if self.gold is None:
            return 100.0 * float(scores[rows].mean()) if len(rows) else float("nan")
        if len(rows) < 3 or not np.ptp(self.gold[rows]) or not np.ptp(scores[rows]):
            return float("nan")
        from scipy import stats  # takes a second to import

        return 100.0 * float(stats.spearmanr(self.gold[rows], scores[rows]).statistic)

    def resampled(self, draws: Indices) -> "dict[str, Floats]":
        """Return the metric of every model over each row of `draws`, (times, units).

        All models get the same units, so that they are paired.
        """
        if self.gold is None:
            return {
                model: 100.0 * scores[draws].mean(axis=1) for model, scores in self.scores.items()
            }
        gold = _standard(self.gold[draws])
        return {
            model: 100.0 * np.einsum("ij,ij->i", gold, _standard(scores[draws]))
            for model, scores in self.scores.items()
        }


def _standard(values: Floats) -> Floats:
    """Rank each row, centred and of length 1; dot products are then Spearman's correlation."""
    from scipy import stats

    ranks = stats.rankdata(values, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.asarray(ranks / np.where(length > 0, length, 1.0), np.float64)


def tasks(plan: AdvisePlan, inputs: Inputs, output: Path) -> list[Task]:
    """Score every task that the inputs make possible with every model.

    One model's vectors are in memory at a time.
    """
    made = [_retrieval(name, judged) for name, judged in inputs.retrieval.items()]
    made += [_pairs(name, pairs) for name, pairs in inputs.pairs.items()]
    made += [_labels(name, rows) for name, rows in inputs.labelled.items()]
    agreement = (
        None
        if inputs.retrieval or len(inputs.different_documents) <= TOP + 1
        else Agreement(inputs)
    )
    if agreement is not None:
        made.append(agreement.task)
    for candidate in reversed(plan.candidates):  # the largest first: agreement is with it
        full = {
            side: vectors_of(plan, output, candidate, side)
            for side in ("document", "query", "symmetric")
        }
        for size in reversed(candidate.cuts):
            by_text = {
                side: {text: _cut(vector, size) for text, vector in some.items()}
                for side, some in full.items()
            }
            whole = size == candidate.dimensions
            for task in made:
                if task.kind == "agreement":
                    if whole and agreement is not None:
                        agreement.score(candidate.name, by_text)
                    continue
                scores, more = _scored(task, inputs, by_text, whole)
                task.cuts.setdefault(candidate.name, {})[size] = task.value(
                    scores, np.arange(len(scores))
                )
                if whole:
                    task.scores[candidate.name], task.more[candidate.name] = scores, more
    for task in made:  # back in the order of the models
        for table in (task.scores, task.more, task.cuts):
            _reorder(table, plan.candidates)
    return made


def _reorder(table: dict, candidates: Sequence[ServedModel]) -> None:  # type: ignore[type-arg]
    found = dict(table)
    table.clear()
    table.update(
        {
            candidate.name: found[candidate.name]
            for candidate in candidates
            if candidate.name in found
        }
    )


def _cut(vector: Vectors, size: int) -> Vectors:
    """Cut a vector to `size` numbers, of length 1 again, as the service does for `dimensions`."""
    if len(vector) == size:
        return vector
    short = vector[:size]
    return np.asarray(short / max(float(np.linalg.norm(short)), 1e-12), np.float32)


def _scored(
    task: Task, inputs: Inputs, by_text: Mapping[str, Mapping[str, Vectors]], whole: bool
) -> tuple[Floats, dict[str, float]]:
    if task.kind == "retrieval":
        return retrieval_scores(inputs.retrieval[task.name], by_text)
    if task.kind == "pairs":
        vectors = by_text["symmetric"]
        pairs = inputs.pairs[task.name]
        return np.array([float(vectors[pair.one] @ vectors[pair.other]) for pair in pairs]), {}
    rows = inputs.labelled[task.name]
    matrix = np.stack([by_text["symmetric"][row.text] for row in rows])
    hits = neighbour_hits(matrix, rows)
    return hits, {"V-measure": v_measure(matrix, rows)} if whole else {}


def _retrieval(name: str, inputs: Inputs) -> Task:
    lengths = {document.id: len(document.text) for document in inputs.documents}
    units = [
        Unit(
            extract([query.text]),
            query.text,
            "query",
            max(
                lengths[document]
                for document, grade in inputs.judgements[query.id].items()
                if grade > 0
            ),
        )
        for query in inputs.queries
    ]
    return Task(name, "retrieval", "nDCG@10", tuple(units))


def retrieval_scores(
    inputs: Inputs, by_text: Mapping[str, Mapping[str, Vectors]]
) -> tuple[Floats, dict[str, float]]:
    """Return nDCG@10 of every query, and the means of the other measures."""
    import ir_measures
    from ir_measures import RR, R, nDCG

    documents = np.stack([by_text["document"][document.text] for document in inputs.documents])
    queries = np.stack([by_text["query"][query.text] for query in inputs.queries])
    found = nearest(queries, documents, DEPTH)
    scores = np.stack([documents[row] @ query for row, query in zip(found, queries, strict=True)])
    run = {
        query.id: {
            inputs.documents[place].id: float(score)
            for place, score in zip(row, values, strict=True)
        }
        for query, row, values in zip(inputs.queries, found.tolist(), scores.tolist(), strict=True)
    }
    main, others = nDCG @ TOP, {f"recall@{TOP}": R @ TOP, f"recall@{DEPTH}": R @ DEPTH, "MRR": RR}
    by_query: dict[str, float] = {}
    sums = dict.fromkeys(others, 0.0)
    for metric in ir_measures.iter_calc([main, *others.values()], inputs.judgements, run):
        if metric.measure == main:
            by_query[metric.query_id] = float(metric.value)
        for name, measure in others.items():
            sums[name] += float(metric.value) if metric.measure == measure else 0.0
    return (
        np.array([by_query[query.id] for query in inputs.queries]),
        {name: 100.0 * total / len(inputs.queries) for name, total in sums.items()},
    )


def _pairs(name: str, pairs: Sequence[Pair]) -> Task:
    units = tuple(
        Unit(extract([pair.one, pair.other]), max(pair.one, pair.other, key=len), "symmetric")
        for pair in pairs
    )
    return Task(name, "pairs", "Spearman", units, np.array([pair.score for pair in pairs]))


def _labels(name: str, rows: Sequence[Labelled]) -> Task:
    units = tuple(
        Unit(extract([row.text]), row.text, "symmetric") for row in rows if not row.teaches
    )
    return Task(name, "labels", f"{NEIGHBOURS}-NN accuracy", units)


def neighbour_hits(vectors: Vectors, rows: Sequence[Labelled]) -> Floats:
    """Return 1 for each text whose nearest neighbours vote for its label, otherwise 0.

    Neighbours are the texts that teach, or all other texts if no split is given.
    """
    from scipy import stats
    from sklearn.neighbors import NearestNeighbors

    names, labels = np.unique([row.label for row in rows], return_inverse=True)
    del names
    teaches = np.array([bool(row.teaches) for row in rows])
    search = NearestNeighbors(metric="cosine", algorithm="brute")
    if teaches.any():
        taught, asked = labels[teaches], labels[~teaches]
        search.fit(vectors[teaches])
        found = search.kneighbors(
            vectors[~teaches], min(NEIGHBOURS, len(taught)), return_distance=False
        )
    else:
        taught = asked = labels
        # without the text itself
        found = search.fit(vectors).kneighbors(
            None, min(NEIGHBOURS, len(rows) - 1), return_distance=False
        )
    return np.asarray(stats.mode(taught[found], axis=1).mode == asked, np.float64)


def v_measure(vectors: Vectors, rows: Sequence[Labelled]) -> float:
    """Cluster by k-means into as many clusters as labels; return the V-measure in points."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    labels = [row.label for row in rows]
    clusters = KMeans(len(set(labels)), n_init=3, random_state=SEED).fit_predict(vectors)
    return 100.0 * float(v_measure_score(labels, clusters))


class Agreement:
    """The agreement of the models' searches, for texts without judgements."""

    def __init__(self, inputs: Inputs) -> None:
        self._documents = inputs.different_documents
        asked: list[Text] = inputs.queries or self._documents
        places = np.linspace(0, len(asked) - 1, min(AGREEMENT_UNITS, len(asked)), dtype=np.int64)
        self._query_texts = [asked[place] for place in places]
        self._side: TextSide = "query" if inputs.queries else "document"
        others = np.linspace(
            0, len(self._documents) - 1, min(AGREEMENT_OTHERS, len(self._documents)), dtype=np.int64
        )
        self._others = sorted(set(others.tolist()))
        self._found: Found | None = None
        self._ranks: Floats | None = None
        units = tuple(
            Unit(extract([text.text]), text.text, self._side) for text in self._query_texts
        )
        self.task = Task("agreement", "agreement", f"overlap@{TOP} with the largest model", units)

    def score(self, model: str, by_text: Mapping[str, Mapping[str, Vectors]]) -> None:
        """Add a model; the largest must come first."""
        documents = np.stack([by_text["document"][document.text] for document in self._documents])
        asked = np.stack([by_text[self._side][text.text] for text in self._query_texts])
        found = nearest(asked, documents, TOP + 1)
        if self._side == "document":  # a text is its own nearest: it does not count
            own = {document.text: place for place, document in enumerate(self._documents)}
            found = np.array(
                [
                    _without(row, own[text.text])
                    for row, text in zip(found, self._query_texts, strict=True)
                ]
            )
        found = found[:, :TOP]
        ranks = _standard(np.asarray(asked @ documents[self._others].T, np.float64))
        if self._found is None or self._ranks is None:
            self._found, self._ranks = found, ranks
        self.task.scores[model] = overlap(self._found, found)
        self.task.more[model] = {
            "rank correlation": 100.0 * float(np.einsum("ij,ij->i", self._ranks, ranks).mean())
        }
        self.task.cuts[model] = {}


def _without(row: Found, place: int) -> Found:
    kept: Found = row[row != place][:TOP]
    return kept


def read_whole(task: Task, plan: AdvisePlan) -> Iterator[tuple[str, float]]:
    """Yield each model with the share of a task's units that it cannot read whole.

    A unit counts if it or its answer is too long. Models without such units are left out.
    """
    for candidate in plan.candidates:
        tokens = plan.tokens[candidate.name]
        lengths = [
            max(
                tokens.of(len(unit.longest), unit.features.script),
                tokens.of(unit.answer_characters, unit.features.script),
            )
            for unit in task.units
        ]
        if share := sum(length > candidate.max_tokens for length in lengths) / len(lengths):
            yield candidate.name, share
