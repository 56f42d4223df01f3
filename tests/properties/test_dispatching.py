"""The laws of the dispatcher's state, for any order of events."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from router.domain import Curve
from router.instructions import Timer
from tests.support.dispatch_machine import BATCH, DispatchMachine, Failure

GROWING = Curve(0.0, 0.01, 0.001, 0.0, BATCH)
REPLICAS = ("a", "b", "c")


class AnyOrder(RuleBasedStateMachine):
    """Every chunk ends once and none is lost, whatever happens in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = DispatchMachine(
            *REPLICAS, curve=GROWING, calls_in_flight=2, replica_timeout_s=0.5, cold_start_s=1.0
        )
        self.posted = set(REPLICAS)

    @rule(
        lengths=st.lists(st.sampled_from((1, 10, 400, 700, 1000)), min_size=1, max_size=6),
        bulk=st.booleans(),
        allowed_s=st.sampled_from((None, 0.05, 5.0)),
        group=st.sampled_from((None, "query", "document")),
        prefix=st.sampled_from((None, b"one", b"other")),
    )
    def submit(
        self,
        lengths: list[int],
        bulk: bool,
        allowed_s: float | None,
        group: str | None,
        prefix: bytes | None,
    ) -> None:
        deadline_s = None if allowed_s is None else self.machine.now + allowed_s
        self.machine.submit(*lengths, bulk=bulk, deadline_s=deadline_s, group=group, prefix=prefix)

    @precondition(lambda self: self.machine.chunks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.machine.cancel(data.draw(st.sampled_from(self.machine.chunks)))

    @precondition(lambda self: self.machine.open)
    @rule(data=st.data(), end=st.sampled_from(("answer", "fail", "lose", "hang_up", "refuse")))
    def end(self, data: st.DataObject, end: str) -> None:
        call = data.draw(st.sampled_from(self.machine.open))
        getattr(self.machine, end)(call)

    @precondition(lambda self: self.machine.open)
    @rule(data=st.data(), code=st.sampled_from(("engine", "too_long")))
    def answer_in_part(self, data: st.DataObject, code: str) -> None:
        call = data.draw(st.sampled_from(self.machine.open))
        rows = data.draw(st.sets(st.integers(0, call.texts - 1), min_size=1))
        self.machine.answer(call, {row: Failure(code, "no vector") for row in rows})

    @precondition(lambda self: any(call in self.machine.to_cancel for call in self.machine.open))
    @rule()
    def end_cancelled(self) -> None:
        machine = self.machine
        machine.end_cancelled(next(call for call in machine.open if call in machine.to_cancel))

    @rule(replica=st.sampled_from(REPLICAS))
    def replica_leaves_or_comes(self, replica: str) -> None:
        self.posted ^= {replica}
        self.machine.replicas(*sorted(self.posted))

    @rule(replica=st.sampled_from(REPLICAS))
    def replica_dies(self, replica: str) -> None:
        for call in [call for call in self.machine.open if call.replica == replica]:
            self.machine.lose(call)

    @rule(seconds=st.sampled_from((0.001, 0.02, 0.3, 3.0)))
    def move(self, seconds: float) -> None:
        self.machine.move(seconds)

    @invariant()
    def an_idle_replica_leaves_nothing_waiting(self) -> None:
        machine, state = self.machine, self.machine.state
        waits = any(chunk.waiting and not chunk.done for chunk in machine.chunks)
        if waits and state.replicas:
            assert state.calls_open or Timer.GATHER in machine.timers

    def teardown(self) -> None:
        """With a replica that works, everything ends by itself; then nothing is left."""
        machine = self.machine
        machine.replicas("new")
        machine.answer_all()
        while Timer.GATHER in machine.timers and not all(map(machine.ended, machine.chunks)):
            machine.move(1.0)
            machine.answer_all()
        assert all(map(machine.ended, machine.chunks))
        machine.close()


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
