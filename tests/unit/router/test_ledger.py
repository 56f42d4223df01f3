"""The ledger: what is outstanding, who is picked, and that nothing is left or below zero whatever
happens.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain import Load
from router.fair import ANY_SENDER
from router.group import Group
from router.ledger import REPORT_LIFE_S, Dispatch, Ledger
from tests.support.ledgers import MODEL, ledger, rng, seconds

untimed = settings(deadline=None)


def test_outstanding_is_the_last_report_plus_own_dispatches_less_own_completions() -> None:
    book = ledger("r")
    first = book.dispatched("m", "r", 30, 0.0)
    book.reported("m", "r", 100, 0.0)
    assert book.outstanding_tokens("m", 0.0) == {"r": 100}
    second = book.dispatched("m", "r", 5, 0.0)
    assert book.outstanding_tokens("m", 0.0) == {"r": 105}
    book.completed(first)
    assert book.outstanding_tokens("m", 0.0) == {"r": 75}
    book.completed(second)
    book.assert_empty()


@pytest.mark.parametrize("bulk", [False, True])
def test_work_that_still_waits_is_named_at_the_end(bulk: bool) -> None:
    book = ledger("r")
    if bulk:
        book.bulk("m").add(7, ANY_SENDER)
    else:
        book.queued("m", 7)
    with pytest.raises(AssertionError, match="m has 7 tokens"):
        book.assert_empty()
    if bulk:
        book.bulk("m").remove(7, ANY_SENDER)
    else:
        book.unqueued("m", 7)
    book.assert_empty()


def test_what_this_router_did_since_the_report_the_other_routers_did_too() -> None:
    book = ledger("r", routers=8)
    book.reported("m", "r", 100, 0.0)
    call = book.dispatched("m", "r", 10, 0.0)
    assert book.outstanding_tokens("m", 0.0) == {"r": 180}
    book.reported("m", "r", 100, 0.0)
    book.completed(call)
    assert book.outstanding_tokens("m", 0.0) == {"r": 20}


def test_own_tokens_count_even_when_the_report_has_not_seen_them() -> None:
    book = ledger("r", routers=4)
    first, second = book.dispatched("m", "r", 60, 0.0), book.dispatched("m", "r", 40, 0.0)
    book.reported("m", "r", 0, 0.0)
    assert book.outstanding_tokens("m", 0.0) == {"r": 100}
    book.completed(first)
    assert book.outstanding_tokens("m", 0.0) == {"r": 40}
    book.completed(second)


def test_a_report_that_is_not_renewed_fades_and_own_tokens_stay() -> None:
    book = ledger("r")
    book.reported("m", "r", 1000, 0.0)
    book.dispatched("m", "r", 7, 0.0)
    ages = [
        book.outstanding_tokens("m", share * REPORT_LIFE_S)["r"]
        for share in (0.0, 0.25, 0.5, 1.0, 100.0)
    ]
    assert ages == [1007, 757, 507, 7, 7]


def test_a_report_from_the_future_counts_in_full() -> None:
    book = ledger("r")
    book.reported("m", "r", 50, 10.0)
    assert book.outstanding_tokens("m", 9.0) == {"r": 50}


def test_of_two_the_one_with_fewer_tokens_is_picked_not_the_one_with_fewer_calls() -> None:
    book = ledger("many-small", "one-large", calls=9)
    for _ in range(5):
        book.dispatched("m", "many-small", 10, 0.0)
    book.dispatched("m", "one-large", 500, 0.0)
    assert {book.pick("m", 0.0, random.Random(seed)) for seed in range(20)} == {"many-small"}


def test_the_two_choices_are_different_replicas_and_all_alike() -> None:
    book = ledger("a", "b", "c", "d")
    source = rng()
    book.reported("m", "a", 10**6, 0.0)
    counts = Counter(book.pick("m", 0.0, source) for _ in range(3000))
    assert counts["a"] == 0  # it loses against any other one, and never meets itself
    assert all(800 < counts[name] < 1200 for name in "bcd")


def test_two_choices_keep_the_fullest_replica_close_to_the_mean() -> None:
    book = ledger(*map(str, range(100)), calls=10**6)
    source = rng()
    for _ in range(10_000):
        replica = book.pick("m", 0.0, source)
        assert replica is not None
        book.dispatched("m", replica, 1, 0.0)
    # log2(log2(n)) above the mean, where a random choice is about 3 * sqrt(mean) above it
    assert max(book.outstanding_tokens("m", 0.0).values()) <= 100 + 6


def test_a_replica_with_all_its_calls_in_flight_is_not_picked() -> None:
    book = ledger("a", "b", calls=1)
    first = book.dispatched("m", "a", 1, 0.0)
    assert book.pick("m", 0.0, rng()) == "b"
    second = book.dispatched("m", "b", 1, 0.0)
    assert book.pick("m", 0.0, rng()) is None
    book.completed(first)
    assert book.pick("m", 0.0, rng()) == "a"
    book.completed(second)


def test_any_order_of_filling_and_freeing_leaves_exactly_the_replicas_with_room() -> None:
    book, source, busy = ledger(*"abcdef", calls=1), rng(), dict[str, Dispatch]()
    for _ in range(500):
        if busy and source.random() < 0.5:
            book.completed(busy.pop(source.choice(sorted(busy))))
        else:
            free = sorted(set("abcdef") - busy.keys())
            if free:
                replica = source.choice(free)
                busy[replica] = book.dispatched("m", replica, 1, 0.0)
        picked = {book.pick("m", 0.0, source) for _ in range(60)} - {None}
        assert picked == set("abcdef") - busy.keys()


def test_a_call_of_a_lost_replica_that_ends_does_not_bring_it_back() -> None:
    book = ledger("a", "b", calls=1)
    call = book.dispatched("m", "a", 30, 0.0)
    book.lost("m", "a")
    book.completed(call)
    assert {book.pick("m", 0.0, random.Random(seed)) for seed in range(20)} == {"b"}


def test_a_lost_replica_takes_its_tokens_along_and_its_calls_may_still_end() -> None:
    book = ledger("a", "b")
    call = book.dispatched("m", "a", 30, 0.0)
    assert book.lost("m", "a") == 30
    assert book.lost("m", "a") == 0
    book.joined("m", "a")
    again = book.dispatched("m", "a", 4, 0.0)
    book.completed(call)
    assert book.outstanding_tokens("m", 0.0) == {"a": 4, "b": 0}
    book.completed(again)
    book.assert_empty()


def test_a_call_that_ends_twice_counts_once() -> None:
    book = ledger("a")
    call, other = book.dispatched("m", "a", 30, 0.0), book.dispatched("m", "a", 5, 0.0)
    book.completed(call)
    book.completed(call)
    assert book.outstanding_tokens("m", 0.0) == {"a": 5}
    book.completed(other)


def test_a_report_of_an_unknown_replica_is_passed_over() -> None:
    book = ledger("a")
    book.reported("m", "gone", 100, 0.0)
    assert book.outstanding_tokens("m", 0.0) == {"a": 0}


def test_nothing_is_sent_to_a_replica_that_is_gone() -> None:
    with pytest.raises(KeyError):
        ledger("a").dispatched("m", "b", 1, 0.0)


def test_more_tokens_cannot_leave_the_queue_than_entered_it() -> None:
    book = ledger("a")
    book.queued("m", 10)
    with pytest.raises(ValueError, match="11 tokens leave the queue of m, which holds 10"):
        book.unqueued("m", 11)


def test_a_ledger_with_work_left_names_it() -> None:
    book = ledger("a")
    book.queued("m", 3)
    book.dispatched("m", "a", 30, 0.0)
    with pytest.raises(
        AssertionError, match="m has 3 tokens waiting; m a has 30 tokens in 1 calls"
    ):
        book.assert_empty()


def test_load_counts_the_replica_and_a_share_of_every_routers_queue() -> None:
    book = ledger("a", "b", routers=2)
    book.reported("m", "a", 40, 0.0, in_reply=False)
    book.reported("m", "b", 40, 0.0, in_reply=False)
    book.queued("m", 30)
    load = book.load(MODEL, 0.0, rng(), margin=1.5, cold_start_s=9.0, bias=0.5)
    assert load == Load(2, 40 + 30, 0.0, 1.5, None, 0.5)


def test_load_of_a_model_without_replicas_is_what_waits_and_how_long_a_start_takes() -> None:
    book = ledger()
    book.queued("m", 30)
    assert book.load(MODEL, 0.0, rng(), cold_start_s=9.0)[:3] == (0, 30, 0.0)
    assert book.load(MODEL, 0.0, rng(), cold_start_s=9.0).cold_start_s == 9.0


def test_work_for_an_idle_replica_starts_a_step_and_later_work_waits_behind_it() -> None:
    book = ledger("r", calls=9)
    book.dispatched("m", "r", 80, 10.0)
    book.dispatched("m", "r", 30, 10.25)
    load = book.load(MODEL, 10.5, rng())
    assert load.ahead_tokens == 30
    assert load.running_rest_s == pytest.approx(0.3)  # 0.8 s for 80 tokens, 0.5 of them gone
    assert book.load(MODEL, 10.5, rng(), bias=2.0).running_rest_s == pytest.approx(1.1)


def test_a_reply_says_that_a_step_ended_and_what_the_next_one_holds() -> None:
    book = ledger("r", calls=9)
    call = book.dispatched("m", "r", 80, 10.0)
    book.dispatched("m", "r", 130, 10.1)
    book.completed(call)
    book.reported("m", "r", 130, 10.8)
    load = book.load(MODEL, 11.0, rng())
    assert load.ahead_tokens == 30
    assert load.running_rest_s == pytest.approx(0.8)  # a full step of 100 tokens takes 1 s


def two_in_flight(held: int, running: int | None) -> Ledger:
    """A step ended at 10.0 at a replica that holds so many tokens."""
    book = ledger("r", calls=9)
    book.dispatched("m", "r", held, 9.0)
    book.reported("m", "r", held, 10.0, running_tokens=running)
    return book


def test_with_two_steps_in_flight_a_text_waits_for_both_before_its_own() -> None:
    # 100 tokens run (1 s), 30 are the step behind it (0.5 s at least). At 10.4 there are 0.6 s left
    # of the first, and 20 more tokens take a step of their own, of 0.5 s: 1.6 s. Where a step is
    # made up only when the one before it ends, they share one with the 30: 0.6 + 0.5 s.
    assert seconds(two_in_flight(130, running=100), 10.4, 20) == pytest.approx(1.6)
    assert seconds(two_in_flight(130, running=None), 10.4, 20) == pytest.approx(1.1)
    # Twice as slow as the curve: 2.0 - 0.4 + 1.0 + 1.0.
    slow = seconds(two_in_flight(130, running=100), 10.4, 20, bias=2.0)
    assert slow == pytest.approx(3.6)


def test_what_follows_two_steps_in_flight_shares_the_third() -> None:
    # 80 tokens run (0.8 s) and 50 follow (0.5 s); 40 came after that. At 10.2, 20 tokens wait for
    # 0.6 + 0.5 s and join the 40 in a step of 0.6 s.
    book = two_in_flight(130, running=80)
    book.dispatched("m", "r", 40, 10.1)
    assert seconds(book, 10.2, 20) == pytest.approx(1.7)
    # 170 follow the 80: a full step of 1 s, and the other 70 wait behind it with the 40. 20 tokens
    # more make 130: a step of 1 s and one of 30 tokens, 0.5 s.
    book = two_in_flight(250, running=80)
    book.dispatched("m", "r", 40, 10.1)
    assert seconds(book, 10.2, 20) == pytest.approx(0.6 + 1.0 + 1.0 + 0.5)


def test_with_nothing_made_up_a_text_waits_for_one_step() -> None:
    # Only what runs is held: the next step is made up of what comes now.
    assert seconds(two_in_flight(100, running=100), 10.4, 20) == pytest.approx(1.1)
    # Nothing ran on when the step ended: what is held began then.
    assert seconds(two_in_flight(60, running=0), 10.4, 20) == pytest.approx(0.7)


def test_work_for_an_idle_replica_forgets_the_steps_before_it() -> None:
    book = ledger("r")
    book.reported("m", "r", 130, 10.0, running_tokens=100)
    call = book.dispatched("m", "r", 80, 10.0 + 2 * REPORT_LIFE_S)
    assert call.ahead_tokens == 0
    load = book.load(MODEL, 10.3 + 2 * REPORT_LIFE_S, rng())
    assert load.ahead_tokens == 0
    assert load.running_rest_s == pytest.approx(0.5)


def test_when_the_known_step_is_over_all_that_is_outstanding_counts_as_waiting() -> None:
    book = ledger("r")
    book.dispatched("m", "r", 80, 10.0)
    load = book.load(MODEL, 11.0, rng())
    assert (load.ahead_tokens, load.running_rest_s) == (80, 0.0)


events = st.lists(
    st.tuples(
        st.sampled_from(("join", "lose", "queue", "unqueue", "send", "end", "end", "end-twice",
        "report", "orphan-ends")),
        st.sampled_from("abc"), st.integers(0, 500), st.floats(0.0, 0.5),
    ),
    max_size=120,
)  # fmt: skip


def check(
    book: Ledger,
    calls: int,
    now: float,
    source: random.Random,
    alive: set[str],
    open_calls: list[tuple[str, Dispatch]],
) -> None:
    in_flight = Counter(name for name, _ in open_calls)
    assert all(count <= calls for count in in_flight.values())
    assert (book.pick("m", now, source) is None) == (
        all(in_flight[name] >= calls for name in alive)
    )
    outstanding = book.outstanding_tokens("m", now)
    assert outstanding.keys() == alive
    for name in alive:
        assert outstanding[name] >= sum(call.tokens for owner, call in open_calls if owner == name)
    load = book.load(MODEL, now, source)
    assert load.ready_replicas == len(alive)
    assert load.ahead_tokens >= 0
    assert load.running_rest_s >= 0.0


@untimed
@given(events, st.integers(1, 3), st.integers(1, 64), st.randoms(use_true_random=False))
def test_the_ledger_is_never_negative_and_ends_at_zero(
    told: list[tuple[str, str, int, float]], calls: int, routers: int, source: random.Random
) -> None:
    book = ledger("a", calls=calls, routers=routers)
    alive, now = {"a"}, 0.0
    open_calls: list[tuple[str, Dispatch]] = []
    orphans: list[Dispatch] = []
    for event, replica, tokens, wait_s in told:
        now += wait_s
        if event == "join":
            book.joined("m", replica)
            alive.add(replica)
        elif event == "lose":
            lost = sum(call.tokens for name, call in open_calls if name == replica)
            assert book.lost("m", replica) == lost
            alive.discard(replica)
            orphans += [call for name, call in open_calls if name == replica]
            open_calls = [pair for pair in open_calls if pair[0] != replica]
        elif event == "queue":
            book.queued("m", tokens)
        elif event == "unqueue":
            book.unqueued("m", min(tokens, book.waiting_tokens("m")))
        elif event == "send" and (picked := book.pick("m", now, source)) is not None:
            open_calls.append((picked, book.dispatched("m", picked, tokens, now)))
        elif event.startswith("end") and open_calls:
            _, call = open_calls.pop(tokens % len(open_calls))
            for _ in range(2 if event == "end-twice" else 1):
                book.completed(call)
        elif event == "report":
            book.reported("m", replica, tokens, now)
        elif event == "orphan-ends" and orphans:
            book.completed(orphans.pop())
        check(book, calls, now, source, alive, open_calls)
    for _, call in open_calls:
        book.completed(call)
    book.unqueued("m", book.waiting_tokens("m"))
    book.assert_empty()


def test_a_group_knows_its_members_by_value() -> None:
    group = Group[str]()
    group.add("one")
    group.add("two")
    for name in ("two", "one"):
        group.discard("".join(list(name)))  # another object with the same value
        assert name not in group.members
    assert group.members == []
