"""Chunks that begin alike go to one replica, as long as it has room."""

import pytest

from router.prefixes import MAX_PREFIXES, PrefixHomes
from tests.support.dispatch_machine import BATCH, TENTH, DispatchMachine

REPLICAS = ("a", "b", "c")


@pytest.mark.parametrize("seed", range(20))
def test_chunks_that_begin_alike_go_to_one_replica_while_it_has_room(seed: int) -> None:
    machine = DispatchMachine("a", "b", "c", "d", curve=TENTH, seed=seed)
    machine.submit(900, prefix=b"query")
    ((home, _),) = machine.sent
    for length in (900, 10, 900, 10):
        machine.answer_all()
        machine.submit(length, prefix=b"query")
        assert machine.sent[-1][0] == home
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_busy_home_has_no_room_while_another_replica_idles(seed: int) -> None:
    machine = DispatchMachine("a", "b", curve=TENTH, seed=seed)
    machine.submit(900, 900, 900, 900, 900, prefix=b"query")
    replicas = [replica for replica, _ in machine.sent]
    home, other = replicas[:2]
    assert home != other, "decisions expect that work to be spread"
    assert replicas == [home, other, home, other], "two of three slots are for large calls"
    (call, *_) = [call for call in machine.open if call.replica == home]
    machine.answer(call)
    assert machine.sent[-1] == (home, [4])
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_home_with_room_is_taken_before_one_with_less_to_do(seed: int) -> None:
    machine = DispatchMachine("a", "b", curve=TENTH, seed=seed)
    machine.submit(900, prefix=b"one")
    machine.submit(600, prefix=b"other")
    (home, _), (other, _) = machine.sent
    assert home != other
    machine.submit(900, prefix=b"one")
    assert machine.sent[-1][0] == home
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("length", "steps"), [(900, True), (900, False), (10, False)])
@pytest.mark.parametrize("bulk", [False, True])
def test_a_home_gets_no_more_calls_than_another_replica(
    seed: int, length: int, steps: bool, bulk: bool
) -> None:
    machine = DispatchMachine("a", "b", curve=TENTH, calls_in_flight=8, steps=steps, seed=seed)
    for _ in range(10):
        machine.submit(length, prefix=b"query", bulk=bulk)
    replicas = [replica for replica, _ in machine.sent]
    assert replicas == [replicas[0], *sorted({"a", "b"} - {replicas[0]})] * 5
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("seed", range(20))
def test_a_small_chunk_gathers_for_no_home_while_another_replica_idles(seed: int) -> None:
    machine = DispatchMachine("a", "b", "c", curve=TENTH, seed=seed)
    for sent in range(1, 4):
        machine.submit(10, prefix=b"query")
        assert len(machine.sent) == sent
    assert len({replica for replica, _ in machine.sent}) == 3
    machine.answer_all()
    machine.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_prefix_moves_from_a_replica_that_is_lost(seed: int) -> None:
    machine = DispatchMachine("a", "b", "c", curve=TENTH, seed=seed)
    machine.submit(900, prefix=b"query")
    ((lost, _),) = machine.sent
    machine.lose(machine.open[0])
    home = machine.sent[-1][0]
    assert home != lost
    machine.answer_all()
    machine.replicas("a", "b", "c")  # the lost one comes back
    for _ in range(6):
        machine.submit(900, prefix=b"query")
        assert machine.sent[-1][0] == home
        machine.answer_all()
    machine.close()


def test_only_the_prefixes_that_were_sent_last_are_remembered() -> None:
    homes = PrefixHomes()
    for number in range(2 * MAX_PREFIXES):
        homes.sent(str(number).encode(), "a", ("a", "b"))
        homes.sent(b"used again", "b", ("a", "b"))
    assert len(homes) == MAX_PREFIXES
    assert (homes.get(b"0"), homes.get(b"used again"), homes.get(None)) == (None, "b", None)


def test_large_texts_stay_together_while_small_ones_come() -> None:
    machine = DispatchMachine("a", "b", "c", "d", curve=TENTH)
    for _ in range(12):
        machine.submit(10)
        machine.answer_all()
    for _ in range(4):  # no replica idles
        machine.submit(10)
    machine.submit(BATCH, BATCH)
    laden = {call.replica for call in machine.open[4:]}
    assert len(laden) == 1
    machine.answer_all()
    machine.close()


def test_large_texts_alone_use_every_replica() -> None:
    machine = DispatchMachine("a", "b", "c", "d", curve=TENTH)
    machine.submit(*[BATCH] * 8)
    assert {call.replica for call in machine.open} == {"a", "b", "c", "d"}
    machine.answer_all()
    machine.close()
