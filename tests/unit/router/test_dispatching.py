"""The dispatcher's state: when small texts gather, which replica is taken, what hangs. Laws that
hold for any order of events are in tests/properties/test_dispatching.py.
"""

import pytest

from router.domain import Curve
from router.errors import InternalError, ModelUnavailable
from router.instructions import Timer
from router.replica_health import EJECTION_S, FAILURES_IN_A_ROW, MAX_EJECTION_S
from router.sending import TIMER_S
from router.steps import ReplicaCounters
from tests.support.dispatch_machine import BATCH, TENTH, DispatchMachine, Failure, Reply

GROWING = Curve(0.0, 0.01, 0.001, 0.0, BATCH)


def numbers(machine: DispatchMachine) -> list[list[int]]:
    return [chunks for _, chunks in machine.sent]


def test_small_chunks_gather_until_the_call_before_them_should_be_nearly_done() -> None:
    machine = DispatchMachine("a", curve=GROWING)
    machine.submit(10)  # 20 ms
    for _ in range(3):
        machine.submit(10)
        machine.move(0.005)
    assert numbers(machine) == [[0]]
    machine.move(0.003)
    assert numbers(machine) == [[0], [1, 2, 3]]
    machine.submit(10)  # those that wait there take their time too: 40 ms
    machine.move(0.034)
    assert len(machine.sent) == 2
    machine.move(0.002)
    assert numbers(machine) == [[0], [1, 2, 3], [4]]
    machine.answer_all()
    machine.close()


def test_calls_that_are_answered_sooner_than_expected_delay_no_others() -> None:
    machine = DispatchMachine("a", curve=TENTH)
    for _ in range(5):
        machine.submit(10)
        machine.move(0.001)
        machine.answer(machine.open[0])
    machine.submit(10)
    machine.submit(10)
    machine.move(0.088)
    assert len(machine.open) == 1
    machine.move(0.002)
    assert numbers(machine)[-2:] == [[5], [6]]
    machine.answer_all()


def test_what_waits_leaves_after_the_callers_of_a_reply_have_run() -> None:
    machine = DispatchMachine("a", curve=TENTH)
    machine.submit(10)
    machine.submit(10)
    machine.answer(machine.open[0], end_turn=False)
    machine.submit(10, end_turn=False)  # by the caller that was answered
    assert numbers(machine) == [[0]]
    machine.end_turn()
    assert numbers(machine) == [[0], [1, 2]]
    machine.answer_all()
    machine.close()


def test_requests_that_are_read_together_share_a_call_to_an_idle_replica() -> None:
    machine = DispatchMachine("a", curve=TENTH)
    for _ in range(3):
        machine.submit(10, end_turn=False)
    assert not machine.sent
    machine.end_turn()
    assert numbers(machine) == [[0, 1, 2]]
    machine.answer_all()
    machine.close()


def test_a_reply_between_two_requests_of_a_turn_sends_once() -> None:
    machine = DispatchMachine("a", curve=TENTH)
    machine.submit(10)
    machine.submit(10, end_turn=False)
    machine.answer(machine.open[0], end_turn=False)
    machine.submit(10, end_turn=False)
    before = machine.timers_set
    machine.submit(10, end_turn=False)
    assert machine.timers_set == before
    machine.end_turn()
    assert numbers(machine) == [[0], [1, 2, 3]]
    machine.answer_all()
    machine.close()


def test_a_replica_that_goes_before_the_callers_of_its_reply_have_run_keeps_no_slot() -> None:
    machine = DispatchMachine("a", "b", calls_in_flight=1)
    machine.submit(10)
    (replica, _), *_ = machine.sent
    (other,) = {"a", "b"} - {replica}
    machine.answer(machine.open[0], end_turn=False)
    machine.replicas(other)
    machine.replicas("a", "b")
    machine.end_turn()
    for _ in range(2):
        machine.submit(BATCH)
    assert {replica for replica, _ in machine.sent[1:]} == {"a", "b"}
    machine.answer_all()
    machine.close()


def test_small_chunks_that_gather_go_to_the_replica_that_is_done_first() -> None:
    machine = DispatchMachine("a", "b", curve=GROWING)
    machine.submit(300)  # 310 ms
    machine.submit(10)  # 20 ms
    (slow, _), (quick, _) = machine.sent
    assert slow != quick
    machine.submit(10)
    machine.move(0.018)
    assert machine.sent[2:] == [(quick, [2])]
    machine.answer_all()


@pytest.mark.parametrize("seed", range(20))
def test_small_chunks_go_to_an_idle_replica_before_they_gather_for_a_busy_one(seed: int) -> None:
    machine = DispatchMachine("a", "b", "c", "d", "e", curve=TENTH, seed=seed)
    for sent in range(1, 6):
        machine.submit(10)
        assert len(machine.sent) == sent
    assert len({replica for replica, _ in machine.sent}) == 5
    machine.submit(10)
    assert len(machine.sent) == 5, "no replica idles: the sixth is gathered"
    idle = machine.open[2]
    machine.answer(idle)
    assert machine.sent[5] == (idle.replica, [5])
    machine.answer_all()


@pytest.mark.parametrize("seed", range(20))
def test_small_chunks_go_to_an_idle_replica_before_they_wait_behind_a_large_one(seed: int) -> None:
    machine = DispatchMachine("a", "b", "c", curve=TENTH, seed=seed)
    machine.replicas("a", "b")
    machine.submit(900, 900)
    machine.replicas("a", "b", "c")
    machine.submit(10)
    assert machine.sent[2][0] == "c"
    machine.answer_all()


def test_gathering_takes_one_timer_although_it_ends_a_little_early() -> None:
    machine = DispatchMachine("a", curve=Curve(0.1055, 0.0, 0.0, 0.0, BATCH))
    machine.submit(10)
    machine.submit(10)
    before = machine.timers_set
    machine.now += machine.timers.pop(Timer.GATHER) - machine.now - TIMER_S / 2
    machine.execute(machine.state.timer_ended(Timer.GATHER, machine.now))
    assert numbers(machine) == [[0], [1]]
    assert machine.timers_set == before
    machine.answer_all()


def test_a_dispatcher_that_is_closed_gathers_nothing_more() -> None:
    machine = DispatchMachine("a", curve=TENTH)
    machine.submit(10)
    machine.submit(10)
    machine.close()
    machine.move(2000.0)
    assert numbers(machine) == [[0]]
    assert not machine.timers


def test_a_replica_that_hangs_loses_its_calls_to_another() -> None:
    curve = Curve(0.0, 0.01, 0.0, 0.0, BATCH)
    machine = DispatchMachine("hangs", "works", curve=curve, replica_timeout_s=0.05)
    for _ in range(12):
        machine.submit(900)
    while len(machine.completed) < 12:
        for call in list(machine.open):
            if call.replica == "works":
                machine.answer(call)
        machine.move(0.01)
    assert set(machine.completed.values()) == {"works"}
    hung = [call for call in machine.open if call.replica == "hangs"]
    assert hung
    assert machine.to_cancel == set(hung)
    assert {call.hung for call in hung} == {"it answered nothing for 0.05 s"}
    assert machine.state.replicas == ("works",)
    machine.close()


def test_a_slow_replica_that_answers_something_does_not_hang() -> None:
    curve = Curve(0.0, 0.01, 0.0, 0.0, BATCH)
    machine = DispatchMachine("a", curve=curve, replica_timeout_s=0.2)
    machine.submit(900)
    slow = machine.open[0]
    for _ in range(10):  # 1.5 s, in steps that are shorter than its 0.2 s
        machine.submit(10)
        machine.move(0.15)
        machine.answer(machine.open[1])
    assert slow.open
    machine.move(0.21)
    assert slow in machine.to_cancel
    machine.close()


def test_a_replica_with_much_to_do_has_the_time_for_it() -> None:
    machine = DispatchMachine("a", curve=Curve(0.0, 10.0, 0.0, 0.0, BATCH), replica_timeout_s=1.0)
    machine.submit(900)
    machine.move(49.0)  # HANGS_AFTER times its 10 s
    assert machine.open[0].open
    machine.move(2.0)
    assert not machine.open[0].open
    machine.close()


def test_an_ejected_replica_gets_no_calls_for_longer_each_time_until_it_answers() -> None:
    machine = DispatchMachine("a")

    def fails_for(out_s: float) -> None:
        if not machine.open:
            machine.submit(900)
        machine.lose(machine.open[0])
        machine.move(out_s - 0.01)
        assert (machine.state.replicas, machine.state.replicas_out) == ((), 1)
        machine.move(0.02)
        assert (machine.state.replicas, machine.state.replicas_out) == (("a",), 0)

    for strikes in range(4):
        fails_for(EJECTION_S * 2**strikes)
    fails_for(MAX_EJECTION_S)
    fails_for(MAX_EJECTION_S)
    machine.submit(900)
    machine.answer_all()
    fails_for(EJECTION_S)
    machine.close()


def test_a_fault_after_the_reply_ends_every_chunk_of_the_call_once() -> None:
    machine = DispatchMachine("a")
    machine.submit(10)
    call = machine.open[0]
    machine.answer(call)
    machine.execute(machine.state.refused(call, ModelUnavailable(["ours"], 1.0), machine.now))
    assert machine.completed == {0: "a"}
    machine.close()


def test_a_fault_while_a_reply_is_read_frees_the_slot() -> None:
    machine = DispatchMachine("a", calls_in_flight=1)
    for _ in range(2):
        machine.submit(BATCH)
    (call,) = machine.open
    machine.open.remove(call)
    reply = Reply("a", counters=None)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        machine.state.replied(call, reply, machine.now)
    machine.execute(machine.state.refused(call, InternalError(), machine.now))
    machine.end_turn()
    assert machine.failed.keys() == {0}
    machine.answer_all()
    assert machine.completed == {1: "a"}
    machine.close()


def test_a_chunk_whose_call_was_cancelled_leaves_it() -> None:
    machine = DispatchMachine("a")
    (chunk,) = machine.submit(10)
    machine.cancel(chunk)
    machine.answer_all()
    assert chunk.call is None
    machine.close()


def test_chunks_that_wait_can_be_failed_and_those_under_way_are_answered() -> None:
    machine = DispatchMachine("a", calls_in_flight=1)
    for _ in range(3):
        machine.submit(BATCH)
    lost = ModelUnavailable(["gone"], 1.0, lost=True)
    machine.execute(machine.state.fail_waiting(lost))
    assert machine.failed.keys() == {1, 2}
    assert len({id(error) for error in (*machine.failed.values(), lost)}) == 3
    machine.answer_all()
    machine.close()


def test_the_number_of_failures_that_ejects_is_counted_without_an_answer_between() -> None:
    machine = DispatchMachine("a")
    for _ in range(FAILURES_IN_A_ROW - 1):
        machine.submit(900)
        machine.fail(machine.open[0])
        machine.answer(machine.open[0])
    assert machine.state.replicas == ("a",)
    machine.close()


def test_bulk_finds_the_one_replica_without_interactive_work_among_many() -> None:
    machine = DispatchMachine(*map(str, range(40)), bulk_share=0.0)
    for _ in range(40):
        machine.submit(10)
    assert len({call.replica for call in machine.open}) == 40
    free = machine.open[0].replica
    machine.answer(machine.open[0])
    (chunk,) = machine.submit(10, bulk=True)
    assert machine.sent[-1] == (free, [chunk.number])
    machine.answer_all()
    machine.close()


def test_bulk_waits_for_another_replica_than_the_one_that_failed_it() -> None:
    machine = DispatchMachine("a", "b", bulk_share=0.0)
    machine.submit(10)
    busy = machine.open[0]
    (chunk,) = machine.submit(500, bulk=True)
    failing = machine.open[1]
    assert failing.replica != busy.replica
    machine.answer(failing, {0: Failure("engine", "it failed")})
    (other,) = machine.submit(500, bulk=True)  # does not wait behind it
    assert machine.sent[-1] == (failing.replica, [other.number])
    machine.answer(machine.open[-1])
    machine.answer(busy)
    assert machine.sent[-1] == (busy.replica, [chunk.number])
    machine.answer_all()
    machine.close()


def test_bulk_that_expired_does_not_lead_a_text_back_to_the_replica_that_failed_it() -> None:
    machine = DispatchMachine("b", "c", curve=GROWING, calls_in_flight=2, replica_timeout_s=0.5)
    (chunk, _) = machine.submit(1, 700)
    (failing,) = [call for call in machine.open if chunk in call.chunks]
    machine.replicas("a", "b", "c")
    machine.submit(1, 700)
    for call in [call for call in machine.open if call.replica == "a"]:
        machine.lose(call)
    machine.replicas("b", "c")
    machine.submit(1, bulk=True, deadline_s=machine.now + 0.05)
    machine.move(3.0)  # calls hang, and their texts may go elsewhere
    assert chunk.failed_at == failing.replica
    assert machine.sent.count((failing.replica, [chunk.number])) == 1
    machine.replicas("new")
    machine.answer_all()
    machine.close()


def test_a_call_whose_texts_all_expired_is_no_step() -> None:
    machine = DispatchMachine("a")
    feedback = machine.state.feedback
    feedback.elsewhere()  # it learns from here on
    curve = feedback.model.curve

    def answer(counters: ReplicaCounters, failed: dict[int, Failure]) -> None:
        machine.submit(100)
        call = machine.open.pop()
        reply = Reply("a", failed, inference_s=0.5, counters=counters)
        machine.execute(machine.state.replied(call, reply, machine.now))
        machine.end_turn()

    answer(ReplicaCounters(0, 0.5), {0: Failure("expired", "too late")})
    assert feedback.model.curve == curve
    answer(ReplicaCounters(100, 1.0), {})
    assert feedback.model.curve != curve
    machine.close()
