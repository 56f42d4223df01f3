"""How many routers keep cards busy."""

import pytest

from router.domain import Curve
from router.router_cost import Card, RequestKind, RouterCost, demand, texts_per_s

CURVE = Curve(0.01, 0.0, 1e-5, 0.0, 8000)  # 100,000 tokens a second
COST = RouterCost(0.001, 0.0001, 0.00001)


def test_a_card_answers_full_steps() -> None:
    assert texts_per_s(CURVE, 100) == pytest.approx(1000.0)
    assert texts_per_s(CURVE, 16_000) == pytest.approx(6.25)  # one text a step, however long


def test_routers_are_the_sum_over_cards() -> None:
    one = demand([Card(CURVE, 1.0)], RequestKind(1, 100), COST)
    assert one.requests_per_s == pytest.approx(1000.0)
    assert one.routers == pytest.approx(1000.0 * (0.001 + 0.0001 + 0.001))
    both = demand([Card(CURVE, 1.0), Card(CURVE, 0.5)], RequestKind(1, 100), COST)
    assert both.requests_per_s == pytest.approx(1500.0)
    assert both.routers == pytest.approx(1.5 * one.routers)


def test_texts_of_one_request_share_its_cost() -> None:
    lists = demand([Card(CURVE, 1.0)], RequestKind(50, 100), COST)
    assert lists.requests_per_s == pytest.approx(20.0)
    assert lists.routers == pytest.approx(20.0 * (0.001 + 50 * 0.0011))


def test_a_reranker_reads_its_template_with_each_text() -> None:
    one = demand([Card(CURVE, 1.0, prompt_tokens=100)], RequestKind(1, 100), COST)
    assert one.requests_per_s == pytest.approx(500.0)
    assert one.routers == pytest.approx(500.0 * (0.001 + 0.0001 + 0.002))
    both = demand([Card(CURVE, 1.0), Card(CURVE, 1.0, 100)], RequestKind(1, 100), COST)
    assert both.requests_per_s == pytest.approx(1500.0)


def test_no_cards_need_no_router() -> None:
    assert demand([], RequestKind(1, 32)) == (0.0, 0.0)
