"""A simulated replica against a real one's counters (tests/unit/replica/test_counters.py)."""

from random import Random

from router.calls import SMALL, CallInFlight, ReplicaInFlight
from router.domain import Curve
from router.ledger import Ledger
from router.sim.pending import SimChunk
from router.sim.replicas import EXACT, SimCall, SimReplica, SimReply


class NoDispatcher:
    """A dispatcher that reads no replies."""

    def replied(self, job: SimCall, reply: SimReply, now: float) -> None:
        """Ignore the reply."""

    def lost(self, job: SimCall, now: float) -> None:
        """Ignore the loss."""


def job(ledger: Ledger, tokens: int) -> SimCall:
    dispatch = ledger.dispatched("model", "one", tokens)
    chunks: list[SimChunk] = []
    call = CallInFlight(
        chunks, SMALL, "one", ReplicaInFlight(), dispatch, 1, tokens * tokens, 0.0, 1.0, 1.0, 1,
        True,
    )  # fmt: skip
    return SimCall(call, NoDispatcher(), 0.0)


def test_all_calls_of_a_step_are_counted_before_the_first_reply() -> None:
    ledger = Ledger({"model": 3})
    ledger.joined("model", "one")
    curve = Curve(0.0, 0.1, 0.0, 0.0, 1000)
    replica = SimReplica("one", "model", curve, None, True, EXACT, Random(0), 0.0)
    left = job(ledger, 40)
    for each in (job(ledger, 10), job(ledger, 20), left):
        replica.put(each, 0.0)
    assert replica.begin(0.0) == 0.1
    replica.drop(left.call, 0.05)  # its caller left: the service counts it neither
    replies = [replica.reply(each, 0.1) for each in replica.end(0.1) if not each.dropped]
    assert [reply.counters.served_tokens for reply in replies] == [30, 30]
    assert [reply.outstanding_tokens for reply in replies] == [20, 0]
