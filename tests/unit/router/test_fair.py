"""Bulk has its share however much else waits, and keys that wait take turns by their weights."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain import Curve
from router.fair import Sender, WaitingTokens
from tests.support.dispatch_machine import BATCH, Call, Chunk, DispatchMachine

LINE = Curve(0.0, 0.01, 0.0001, 0.0, BATCH)
SIZES = st.lists(st.sampled_from([100, 300, 500, 700, 1000]), min_size=1, max_size=6)
ONE, OTHER = Sender("one"), Sender("other")


def seconds(call: Call) -> float:
    return LINE.step(call.dispatch.tokens, 0.0, call.texts)


class Served:
    """A dispatcher whose replicas take one call after another, with a backlog that never ends."""

    def __init__(self, *replicas: str, share: float = 0.1, calls_in_flight: int = 3) -> None:
        self.machine = DispatchMachine(
            *replicas, curve=LINE, bulk_share=share, calls_in_flight=calls_in_flight
        )
        self.interactive_s = self.bulk_s = 0.0
        self.tokens: Counter[str] = Counter()  # by key

    def step(self) -> None:
        """Answer the call that ends next."""
        machine = self.machine
        if not machine.open:
            machine.move(1.0)
            assert machine.open, "something waits and nothing is sent"
        first = {call.replica: call for call in reversed(machine.open)}
        call = min(first.values(), key=lambda one: (one.sent_s, one.replica))
        machine.move(max(0.0, call.sent_s + seconds(call) - machine.now))
        took_s, tokens = seconds(call), call.dispatch.tokens
        bulk = sum(chunk.tokens for chunk in call.chunks if chunk.bulk)
        self.bulk_s += took_s * bulk / tokens
        self.interactive_s += took_s * (tokens - bulk) / tokens
        for chunk in call.chunks:
            self.tokens[chunk.sender.key] += chunk.tokens
        machine.answer(call)

    def fill(self, lengths: list[int], bulk: bool, sender: Sender = ONE, least: int = 3000) -> None:
        """Let so many tokens wait."""
        waiting = sum(
            chunk.tokens
            for chunk in self.machine.chunks
            if chunk.waiting and chunk.bulk == bulk and chunk.sender == sender
        )
        times = -(-max(0, least - waiting) // sum(lengths))
        if times:
            self.machine.submit(*lengths * times, bulk=bulk, sender=sender)


@settings(max_examples=8, deadline=None)
@given(SIZES, SIZES, st.sampled_from([0.05, 0.1, 0.2, 0.25]), st.integers(1, 3))
def test_bulk_has_its_share_and_no_more_while_others_wait(
    interactive: list[int], bulk: list[int], share: float, replicas: int
) -> None:
    served = Served(*"abc"[:replicas], share=share)
    served.fill(interactive, False)
    for _ in range(100):
        served.fill(interactive, False)
        served.fill(bulk, True)
        served.step()
    total_s = served.interactive_s + served.bulk_s
    in_flight = 0.11 * (3 * replicas + 1)  # the longest calls that were sent and not answered
    assert served.bulk_s == pytest.approx(share * total_s, abs=in_flight)


@settings(max_examples=8, deadline=None)
@given(SIZES, st.lists(st.sampled_from([20, 300, 700, 1000]), min_size=1, max_size=12))
def test_an_ingest_ends_however_much_else_there_is(interactive: list[int], bulk: list[int]) -> None:
    served = Served("a", "b", share=0.1)
    served.fill(interactive, False)
    chunks = served.machine.submit(*bulk, bulk=True)
    work_s = sum(LINE.step(length, 0.0, 1) for length in bulk)
    while not all(chunk.done for chunk in chunks):
        served.fill(interactive, False)
        served.step()
        assert served.interactive_s <= 9.0 * work_s + 2.0


@settings(max_examples=8, deadline=None)
@given(SIZES, SIZES, st.sampled_from([1.0, 2.0, 5.0]), st.booleans())
def test_two_keys_that_wait_are_served_by_their_weights(
    ours: list[int], theirs: list[int], weight: float, bulk: bool
) -> None:
    # one kind of chunks: small and large ones have slots of their own
    ours, theirs = ([min(one, 500) for one in lengths] for lengths in (ours, theirs))
    served, heavy = Served("a"), Sender("one", weight)
    for _ in range(40):
        served.fill(ours, bulk, heavy)
        served.fill(theirs, bulk, OTHER)
        served.step()
    one, other = served.tokens["one"] / weight, served.tokens["other"]
    assert one == pytest.approx(other, abs=3 * BATCH + 1000)
    assert one + other > 5_000


def test_a_flood_of_one_key_does_not_delay_another() -> None:
    machine = DispatchMachine("a", curve=LINE, calls_in_flight=1)
    for _ in range(40):
        machine.submit(400, sender=ONE)
    late = machine.submit(400, sender=OTHER)[0]
    machine.answer(machine.open[0])
    assert late in machine.open[0].chunks
    machine.answer_all()
    machine.close()


def test_a_key_alone_is_served_in_order_and_saves_nothing_up() -> None:
    machine = DispatchMachine("a", curve=LINE, calls_in_flight=1)
    for _ in range(20):  # `other` sends nothing meanwhile
        machine.submit(500, sender=ONE)
    for _ in range(12):
        machine.submit(500, sender=OTHER)
    taken = list[Chunk]()
    while machine.open:
        taken += machine.open[0].chunks
        machine.answer(machine.open[0])
    keys = [chunk.sender.key for chunk in taken]
    assert keys[1:23] == ["one", "other"] * 11 or keys[1:23] == ["other", "one"] * 11
    one = [chunk.number for chunk in taken if chunk.sender == ONE]
    assert one == sorted(one)
    machine.close()


def test_bulk_alone_fills_every_replica() -> None:
    machine = DispatchMachine("a", "b", curve=LINE)
    machine.submit(*[1000] * 12, bulk=True)
    assert {call.replica for call in machine.open} == {"a", "b"}
    assert len(machine.open) == 4  # but for the slots of small texts
    machine.answer_all()
    machine.close()


def test_bulk_goes_where_nothing_interactive_is_in_hand() -> None:
    machine = DispatchMachine("a", "b", "c", curve=LINE)
    busy = machine.submit(400)[0]
    machine.submit(*[1000] * 12, bulk=True)
    assert busy.call is not None
    beside = [call for call in machine.open if call.replica == busy.call.replica]
    assert len(beside) <= 2  # one call of bulk, which has paid for nothing yet
    machine.answer_all()
    machine.close()


def test_bulk_goes_beside_interactive_work_where_calls_are_worked_on_side_by_side() -> None:
    machine = DispatchMachine("a", "b", curve=LINE, steps=False)
    for _ in range(2):
        machine.submit(20)
    assert {call.replica for call in machine.open} == {"a", "b"}
    machine.submit(*[1000] * 12, bulk=True)
    assert sum(call.chunks[0].bulk for call in machine.open) == 4  # all slots of large calls
    machine.answer_all()
    machine.close()


def test_bulk_is_admitted_by_the_interactive_work_of_all_keys() -> None:
    machine = DispatchMachine("a", curve=LINE, bulk_share=0.0)
    machine.submit(*[400] * 80, sender=ONE)
    admission, soon = machine.state.admission, machine.now + 0.5
    assert admission.refusal(20, soon, True, machine.now, sender=OTHER) is not None
    assert admission.refusal(20, soon, False, machine.now, sender=OTHER) is None
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize(("own", "admitted"), [(2_000, True), (20_000, False)])
def test_bulk_is_admitted_if_its_share_is_enough(own: int, admitted: bool) -> None:
    """However much interactive work waits: the share is time that it cannot take."""
    machine = DispatchMachine("a", curve=LINE, bulk_share=0.1)
    rate = machine.state.feedback.tokens_per_s
    machine.submit(*[400] * round(29 * rate / 400), sender=ONE)
    deadline_s = machine.now + 100_000 / rate
    refusal = machine.state.admission.refusal(own, deadline_s, True, machine.now, sender=OTHER)
    assert (refusal is None) is admitted
    machine.answer_all()
    machine.close()


def test_bulk_is_admitted_by_the_turns_of_its_key() -> None:
    """Another key with as much weight takes every other turn of the share."""
    machine = DispatchMachine("a", curve=LINE, bulk_share=0.1)
    rate = machine.state.feedback.tokens_per_s
    machine.submit(*[400] * round(29 * rate / 400), sender=ONE)
    machine.submit(*[1000] * 20, sender=ONE, bulk=True)
    refusal, now = machine.state.admission.refusal, machine.now
    for share_s, admitted in ((2.2, True), (1.8, False)):
        deadline_s = now + share_s * 5_000 / (0.1 * rate)
        assert (refusal(5_000, deadline_s, True, now, sender=OTHER) is None) is admitted
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("seed", range(10))
def test_bulk_uses_every_replica_without_interactive_work(seed: int) -> None:
    machine = DispatchMachine("a", "b", "c", "d", curve=LINE, seed=seed)
    busy = machine.submit(20)[0]
    machine.submit(*[1000] * 20, bulk=True)
    assert busy.call is not None
    others = {"a", "b", "c", "d"} - {busy.call.replica}
    assert others <= {call.replica for call in machine.open if call.chunks[0].bulk}
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("tokens", [20, 1000])
def test_a_text_that_waits_for_another_replica_holds_up_no_bulk(tokens: int) -> None:
    machine = DispatchMachine("a", "b", curve=LINE, calls_in_flight=1)
    first, second = machine.submit(20)[0], machine.submit(20)[0]
    assert first.call is not None
    assert second.call is not None
    failed = first.call
    machine.fail(failed)  # the chunk waits for the other replica, which does not answer
    assert not first.done
    for _ in range(3):
        machine.submit(tokens, bulk=True)
        (call,) = [one for one in machine.open if one is not second.call]
        assert call.replica == failed.replica
        assert call.chunks[0].bulk
        machine.answer(call)
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("bulk", [False, True])
def test_large_texts_have_turns_where_one_call_is_in_flight(bulk: bool) -> None:
    machine = DispatchMachine("a", curve=LINE, calls_in_flight=1, bulk_share=0.2)
    machine.submit(10)
    large = machine.submit(900, bulk=bulk)[0]
    for _ in range(12):  # a small text comes during each call
        machine.submit(10)
        machine.answer(machine.open[0])
        if large.call is not None:
            break
    assert large.call is not None
    machine.answer_all()
    machine.close()


def test_a_key_pays_for_no_text_that_expired() -> None:
    machine = DispatchMachine("a", curve=LINE, calls_in_flight=1)
    machine.submit(900)
    machine.submit(*[20] * 40, sender=ONE, deadline_s=machine.now + 1.0)
    machine.submit(*[20] * 60, sender=ONE)
    machine.submit(*[20] * 100, sender=OTHER)
    machine.move(2.0)
    machine.answer(machine.open[0])
    keys = Counter(chunk.sender.key for chunk in machine.open[0].chunks)
    assert keys == {"one": 25, "other": 25}
    machine.answer_all()
    machine.close()


WAITS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 500)), max_size=30)


@given(WAITS, st.sampled_from("abcd"), st.sampled_from([0.5, 1.0, 3.0]))
def test_what_goes_before_a_key_is_its_own_and_the_turns_of_others(
    waits: list[tuple[str, int]], key: str, weight: float
) -> None:
    waiting, senders = (
        WaitingTokens(),
        {name: Sender(name) for name in "abcd"} | {key: Sender(key, weight)},
    )
    own: Counter[str] = Counter()
    for name, tokens in waits:
        waiting.add(tokens, senders[name])
        own[name] += tokens
    before = waiting.before(senders[key])
    assert own[key] <= before <= waiting.tokens == waiting.before(None) == own.total()
    if not own[key] or len(+own) == 1:
        assert before == own[key]
    for name, tokens in waits:
        waiting.remove(tokens, senders[name])
    assert waiting.tokens == waiting.before(senders[key]) == 0


def test_texts_without_tokens_leave_no_key_among_those_that_wait() -> None:
    waiting = WaitingTokens()
    waiting.add(0, Sender("empty", 100.0))
    waiting.remove(0, Sender("empty", 100.0))
    waiting.add(100, ONE)
    waiting.add(100, OTHER)
    assert waiting.before(ONE) == 200, "the key of no tokens takes no turn"
