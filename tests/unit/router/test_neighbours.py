"""What replicas of other models on the same card add to a prediction."""

from dataclasses import replace

import pytest

from router.cards import Cards
from router.domain import Load, Model
from router.fair import ANY_SENDER
from router.ledger import REPORT_LIFE_S, Ledger
from tests.support.ledgers import CURVE, MODEL, rng, seconds


def beside(*cards: str) -> tuple[Ledger, Cards]:
    """Replica `r` of `m` on card 0, and a replica of `n` on each of these cards of its node."""
    known = Cards()
    book = Ledger({"m": 9, "n": 9}, cards=known)
    book.joined("m", "r")
    known.joined("r", "m", "node", ["0"])
    for number, card in enumerate(cards):
        book.joined("n", f"n{number}")
        known.joined(f"n{number}", "n", "node", [card])
    for model in (MODEL, OTHER):  # as every decision does
        book.load(model, 0.0, rng())
    return book, known


OTHER = Model("n", 1, 512, replace(CURVE, s_per_token=0.02), {})  # a full step takes 2 s


def beside_s(book: Ledger, now: float, model: Model = MODEL) -> tuple[float, ...]:
    return book.load(model, now, rng()).beside_s


def test_an_idle_neighbour_changes_nothing() -> None:
    book, _ = beside("0")
    assert book.load(MODEL, 10.0, rng()) == Load()
    assert seconds(book, 10.0, 20) == 0.5


def test_a_busy_neighbour_delays_by_the_shorter_of_both_works() -> None:
    book, _ = beside("0")
    book.dispatched("n", "n0", 80, 10.0)  # 1.6 s
    assert beside_s(book, 10.5) == pytest.approx((1.1,))
    assert seconds(book, 10.5, 80) == pytest.approx(0.8 + 0.8)
    assert seconds(book, 11.25, 80) == pytest.approx(0.8 + 0.35)
    assert beside_s(book, 10.5, OTHER) == (), "it is beside an idle one"


def test_the_work_of_a_neighbour_is_what_runs_what_it_holds_and_its_part_of_the_queue() -> None:
    book, _ = beside("0", "1")
    book.dispatched("n", "n0", 80, 10.0)
    book.dispatched("n", "n0", 130, 10.0)
    book.queued("n", 10)
    book.bulk("n").add(30, ANY_SENDER)  # its own texts would go first, but the device is busy
    # 1.6 s run, behind them are 130 tokens and half of the queue: a full step and 50 tokens
    assert beside_s(book, 10.0) == pytest.approx((1.6 + 2.0 + 1.0,))
    book.load(OTHER, 10.0, rng(), bias=2.0)
    assert beside_s(book, 10.0) == pytest.approx((2 * (1.6 + 2.0 + 1.0),))


def test_every_busy_neighbour_counts_another_replica_of_the_model_too() -> None:
    book, cards = beside("0", "0")
    book.joined("m", "s")
    cards.joined("s", "m", "node", ["0"])
    for model, replica in (("n", "n0"), ("n", "n1"), ("m", "s")):
        book.dispatched(model, replica, 80, 10.0)
    assert sorted(beside_s(book, 10.0)) == pytest.approx([0.8, 1.6, 1.6])


@pytest.mark.parametrize("gone_from", ["ledger", "cards"])
def test_a_neighbour_that_is_gone_delays_nothing(gone_from: str) -> None:
    book, cards = beside("0")
    book.dispatched("n", "n0", 80, 10.0)
    if gone_from == "ledger":
        book.lost("n", "n0")
    else:
        cards.left("n0")
    assert beside_s(book, 10.0) == ()


def test_what_a_neighbour_held_for_other_routers_fades() -> None:
    book, _ = beside("0")
    book.reported("n", "n0", 400, 10.0)
    fading = [sum(beside_s(book, 10.0 + share * REPORT_LIFE_S)) for share in (0.0, 0.75, 1.0)]
    # a full step of 2 s runs: with 300 others, then with none; a quarter of the 400 is left
    assert fading == pytest.approx([2.0 + 6.0, 2.0 - 0.75 * REPORT_LIFE_S, 0.0])


def test_a_model_with_a_card_of_its_own_has_no_neighbours() -> None:
    book, _ = beside("1")
    book.dispatched("n", "n0", 80, 10.0)
    assert book.load(MODEL, 10.0, rng()) == Load()
