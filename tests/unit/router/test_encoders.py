from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from router.domain import Curve, Features, LongTexts, Model, TextKind, Why, Work
from router.encoders import (
    Encoder,
    EncoderChoice,
    as_ranked,
    best_of_each,
    by_recall,
    native,
)
from router.running_recall import RunningRecall
from router.space import Space
from tests.support.bridges import proof_of

ENGLISH = Features(10, "en", "Latn", False, False)
GERMAN = replace(ENGLISH, language="de")
LARGE, SMALL = native(Space("large", 8)), native(Space("small", 4))
STUDENT = Encoder(
    "tiny", Space("large", 8), "student", proof=proof_of(0.9, by_language={"de": 0.7})
)


def test_what_an_encoder_keeps_is_by_language_and_by_whether_documents_are_fixed() -> None:
    assert STUDENT.recall_of(ENGLISH) == 0.9
    assert STUDENT.recall_of(GERMAN) == 0.7
    fixed = replace(STUDENT, proof=proof_of(0.8, fitted=0.99), documents="fixed")
    assert fixed.recall_of(ENGLISH) == 0.99


def test_a_list_keeps_the_mean_of_its_texts() -> None:
    kinds = (TextKind("en", "Latn", False, False, 3), TextKind("de", "Latn", False, False, 1))
    assert STUDENT.recall_of(replace(ENGLISH, kinds=kinds)) == pytest.approx(0.85)


def test_an_encoder_of_a_lesser_space_keeps_one_share_of_the_other() -> None:
    one = replace(STUDENT, space_proof=proof_of(0.8, fitted=0.8))
    assert one.recall_of(ENGLISH) == pytest.approx(0.72)
    assert replace(STUDENT, assumed=0.5).recall_of(ENGLISH) == pytest.approx(0.45)


def test_more_than_all_is_all() -> None:
    assert replace(STUDENT, proof=proof_of(1.02)).recall_of(ENGLISH) == 1.0


@pytest.mark.parametrize(("side", "makes"), [("query", True), ("document", False), (None, False)])
def test_encoders_make_queries_and_the_native_model_both(side: str | None, makes: bool) -> None:
    assert STUDENT.makes(side) is makes
    assert LARGE.makes(side)


def test_of_each_model_the_space_in_which_it_keeps_most_is_taken() -> None:
    lesser = replace(SMALL, space_proof=proof_of(0.8, fitted=0.8, by_language={"de": 0.95}))
    bridge = Encoder("small", Space("large", 8), "adapter", proof=proof_of(0.9))
    english = best_of_each((LARGE, lesser, bridge), ENGLISH)
    german = best_of_each((LARGE, lesser, bridge), GERMAN)
    assert (english["small"], german["small"]) == (bridge, lesser)
    assert english["large"] is LARGE


def test_of_equals_the_native_model_is_best() -> None:
    whole = replace(STUDENT, proof=proof_of(1.0))
    assert by_recall({"tiny": whole, "large": LARGE}, {"tiny": 1.0, "large": 1.0})[0] == "large"


def test_of_equals_the_space_that_the_others_were_measured_against_is_best() -> None:
    saturated = replace(SMALL, space_proof=proof_of(1.02))
    encoders = {"small": saturated, "large": LARGE}
    recalls = {name: one.recall_of(ENGLISH) for name, one in encoders.items()}
    assert recalls == {"small": 1.0, "large": 1.0}
    assert by_recall(encoders, recalls) == ["large", "small"]
    curve = Curve(0.001, 0.0, 0.0, 0.0, 100)
    models = {name: Model(name, 0, 512, curve, {"en": 80.0}) for name in encoders}
    ranked = as_ranked(models, encoders, recalls, ENGLISH, {})
    assert ranked["small"].rank < ranked["large"].rank

    shorter = replace(native(Space("large", 4)), space_proof=proof_of(1.01))
    assert best_of_each((shorter, LARGE), ENGLISH)["large"] is LARGE


def choice(**changes: Any) -> EncoderChoice:
    encoders = {"large": LARGE, "tiny": STUDENT}
    recalls = {name: one.recall_of(ENGLISH) for name, one in encoders.items()}
    return replace(EncoderChoice(encoders, recalls, frozenset(), 1, RunningRecall(0.95)), **changes)


def test_an_encoder_below_the_floor_waits_until_native_answers_made_up_for_it() -> None:
    running = RunningRecall(0.95)
    first, second = choice(running=running), choice(running=running)
    assert first.unfit() == {}
    first.decided("tiny")
    assert second.unfit() == {"tiny": Why.BELOW_FLOOR}
    second.decided("large")
    second.ended(True)
    first.ended(True)
    assert choice(running=running).unfit() == {}


def test_a_request_that_moves_to_another_model_counts_there_alone() -> None:
    running = RunningRecall(0.95)
    running.answered(1.0, 100)
    one, before = choice(running=running), running.average
    one.decided("large")
    one.decided("tiny")
    assert running.promised < 0.0
    one.decided("large")
    assert running.promised == 0.0
    one.ended(False)
    assert running.average == before


def test_an_answer_below_the_floor_counts_once_it_is_given() -> None:
    running = RunningRecall(0.95)
    running.answered(1.0, 1)
    one, balance = choice(running=running), running.balance
    one.decided("tiny")
    assert (running.balance, running.average) == (balance, 1.0)
    one.ended(True)
    assert running.promised == 0.0
    assert running.balance == pytest.approx(balance - (0.95 - one.recalls["tiny"]))
    assert running.average == pytest.approx((1.0 + one.recalls["tiny"]) / 2, abs=1e-3)


def test_what_reads_nothing_is_out_and_a_native_model_only_where_another_reads() -> None:
    assert choice(nothing_read=frozenset({"tiny"})).unfit() == {"tiny": Why.UNREAD}
    assert choice(nothing_read=frozenset({"large"})).unfit() == {"large": Why.UNREAD}
    both = choice(nothing_read=frozenset({"tiny", "large"}))
    assert both.unfit() == {"tiny": Why.UNREAD}


def test_what_keeps_too_little_in_a_language_is_out_if_another_is_left() -> None:
    one = choice(below_each=frozenset({"tiny"}))
    assert one.unfit() == {"tiny": Why.BELOW_EACH}
    unread = choice(below_each=frozenset({"tiny"}), nothing_read=frozenset({"large"}))
    assert unread.unfit() == {"tiny": Why.BELOW_EACH}  # large is native, and no other is left
    both = choice(below_each=frozenset({"tiny", "large"}))
    assert both.unfit() == {"tiny": Why.BELOW_EACH}
    alone = choice(below_each=frozenset({"tiny"}), permitted=frozenset({"tiny"}))
    assert alone.unfit() == {}  # the key left no choice


def test_what_does_not_read_the_instruction_is_out() -> None:
    assert choice(other_instruction=frozenset({"tiny"})).unfit() == {"tiny": Why.OTHER_INSTRUCTION}
    bridge = Encoder("small", Space("large", 8), "adapter", proof=proof_of(0.9))
    lesser = replace(SMALL, assumed=0.5)
    both = lesser, bridge
    assert best_of_each(both, ENGLISH)["small"] is bridge
    assert best_of_each(both, ENGLISH, reads=lambda one: one is not bridge)["small"] is lesser


def test_a_floor_counts_what_was_measured_for_the_language_of_every_text() -> None:
    kinds = (TextKind("en", "Latn", False, False, 9), TextKind("de", "Latn", False, False, 1))
    mixed = replace(ENGLISH, kinds=kinds)
    assert [STUDENT.keeps(one, 0.8) for one in (ENGLISH, GERMAN, mixed)] == [True, False, False]
    assert replace(STUDENT, assumed=0.5).keeps(ENGLISH, 0.8)  # an assumption is no measurement
    lesser = replace(STUDENT, space_proof=proof_of(0.85))
    assert not lesser.keeps(ENGLISH, 0.8)
    assert lesser.keeps(ENGLISH, 0.76)


def test_of_each_model_an_encoder_that_keeps_the_floor_is_taken_first() -> None:
    bridge = Encoder("small", Space("large", 8), "adapter", proof=proof_of(0.9, None, {"de": 0.7}))
    assumed = replace(SMALL, assumed=0.5)
    assert best_of_each((assumed, bridge), GERMAN, 0.6)["small"] is bridge
    assert best_of_each((assumed, bridge), GERMAN, 0.8)["small"] is assumed


def test_vectors_of_a_model_that_is_no_encoder_land_nowhere() -> None:
    with pytest.raises(KeyError):
        choice().project(np.ones((1, 8), np.float32), "small")


def test_encoders_rank_by_what_they_keep_and_have_that_share_of_the_points() -> None:
    curve = Curve(0.001, 0.0, 0.0, 0.0, 100)
    quality = {"en": 80.0, "default": 50.0}
    models = {
        name: Model(name, rank, 512, curve, quality, long=LongTexts(100, 40.0))
        for rank, name in enumerate(("large", "other", "tiny"))
    }
    encoders, recalls = {"large": LARGE, "tiny": STUDENT}, {"large": 1.0, "tiny": 0.9}
    ranked = as_ranked(models, encoders, recalls, ENGLISH, {})
    assert ranked["tiny"].rank < ranked["large"].rank
    assert ranked["large"].quality_of(ENGLISH) == 80.0
    assert ranked["tiny"].quality_of(ENGLISH) == pytest.approx(72.0)
    long = as_ranked(models, encoders, recalls, ENGLISH, {"large": Work(200, 200, 1, 1, 1.0)})
    assert long["tiny"].quality_of(ENGLISH) == pytest.approx(36.0)
    bare = {name: replace(model, quality={}, long=None) for name, model in models.items()}
    assert as_ranked(bare, encoders, recalls, ENGLISH, {})["tiny"].quality_of(ENGLISH) is None
