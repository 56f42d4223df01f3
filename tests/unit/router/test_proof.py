import numpy as np
import pytest

from router.proof import FOLDS, Proof, folds, kept_of, prove, summary
from tests.support.bridges import proof_of

OWN = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
OVER = np.array([[0, 1], [2, 9], [9, 8], [6, 7]])


def test_shares_kept_are_of_what_the_own_model_finds() -> None:
    kept = kept_of(OVER, OWN, [{0}, {3}, {4}, {9}])
    assert kept.queries == 4
    assert kept.own_recall == 0.75
    assert kept.recall == pytest.approx(1 / 3)
    assert kept.recall_low <= kept.recall <= kept.recall_high
    assert kept.recall_low < kept.recall_high
    same = kept_of(OWN, OWN, [{0}, {3}, {4}, {9}])
    assert (same.recall, same.recall_low, same.recall_high) == (1.0, 1.0, 1.0)
    assert same.ndcg == 1.0


def test_nothing_is_kept_where_the_own_model_finds_nothing() -> None:
    found = np.array([[0, 1]])
    assert kept_of(found, found, [{5}]).recall == 0.0


def test_both_figures_of_each_language_are_kept_apart() -> None:
    relevant = [{0}, {2}, {4}, {6}]
    proof = prove("judgements", OWN, OVER, OWN, relevant, {"zh": [2, 3], "en": [0, 1]})
    assert (proof.fitted.recall, proof.unseen.recall) == (1.0, 0.75)
    assert (proof.kept("growing", "zh").recall, proof.kept("fixed", "zh").recall) == (0.5, 1.0)
    assert proof.kept("growing", "fr") == proof.unseen
    assert Proof.from_json(proof.as_json()) == proof
    said = summary(proof.fitted, proof.unseen)
    assert (said["recall_kept_fitted"], said["recall_kept_unseen"]) == (1.0, 0.75)
    assert (said["ndcg_kept_fitted"], said["ndcg_kept_unseen"]) == (1.0, 0.75)


def test_a_proof_that_lacks_a_figure_cannot_be_read() -> None:
    said = proof_of(0.9).as_json()
    del said["unseen"]
    with pytest.raises(ValueError, match="unseen is missing"):
        Proof.from_json(said)


def test_there_are_more_folds_where_three_leave_too_little() -> None:
    relevant = [set(range(row, row + 10)) for row in range(90)]
    assert len(folds(relevant, 99)) == FOLDS
    rng = np.random.default_rng(0)
    spread = [set(rng.choice(100, 10, replace=False).tolist()) for _ in range(90)]
    assert len(folds(spread, 100)) > FOLDS
    assert len(folds(relevant, 99, fewest=75)) > FOLDS


def test_a_corpus_that_is_too_small_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="10 of 10 documents would have to be left out"):
        folds([set(range(10))] * 20, 10)
