"""What one router replica knows of the work that every model replica has in hand, in tokens.

    own          tokens this router sent and has no answer for: exact at every moment
    last report  tokens the replica held, from all routers, when it last said so (with a reply, or
                 every 50-100 ms)
    outstanding  last report + R * (own now - own at the report), and never less than own

R routers share the traffic evenly and see much the same reports, so what this one sent or got back
since the report, the others did too (interpreting old load by the arrivals since: Dahlin,
"Interpreting stale load information", 2000; own arrivals times the dispatchers as the estimate:
Goren, Vargaftik and Moses, "Stochastic coordination in heterogeneous load balancing systems",
2021). A report that is not renewed fades to nothing over `REPORT_LIFE_S`: a replica nobody hears
from is tried again.

A reply also says that a step just ended, so what the replica holds then is what its next step runs;
work for an idle replica starts a step at once. From that follows how much of the running step is
left, and that the rest of the backlog waits behind it.

An engine with two steps in flight makes up a step while the one before it runs, and texts that come
later cannot join either. Its replies say how many tokens were running when its step ended: what
else it held then is the step that was made up next, and both pass before a new text's own.

Replicas are compared by tokens, never by requests, two at a time (Mitzenmacher, "The power of two
choices in randomized load balancing", 2001): with old reports, taking the least loaded of all would
send every router to the same replica (Mitzenmacher, "How useful is old information?", 2000).

Pure and O(1) for every event: time and randomness are arguments.
"""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from router.domain import Load, Model
from router.fair import ANY_SENDER, Sender, Waiting

REPORT_LIFE_S = 1.0
FOUR = 4  # replicas that are compared for small texts, whose wait is most of their time
M = TypeVar("M", bound=Hashable)


class Random(Protocol):
    """A source of floats in [0, 1), such as random.Random."""

    def random(self) -> float:
        """The next one."""


class Replica:
    """One replica of a model, as this router sees it; made by `Ledger.joined`."""

    __slots__ = (
        "_joined", "_next_tokens", "_reported_own", "_reported_s", "_reported_tokens", "_step_s",
        "_step_tokens", "id", "own_calls", "own_tokens",
    )  # fmt: skip

    def __init__(self, id: str) -> None:
        self.id = id
        self.own_tokens = 0
        self.own_calls = 0
        self._reported_tokens = 0  # by the last report, all routers
        self._reported_own = 0  # own tokens when it came
        self._reported_s = 0.0
        self._step_s = -math.inf  # when the running step began
        self._step_tokens = 0  # and what it could take
        self._next_tokens = 0  # what the step behind it could, where that is made up already
        self._joined = True  # until it is lost

    def outstanding_tokens(self, now: float, routers: int) -> int:
        """Tokens the replica has taken and not finished, for all `routers` routers, at `now`."""
        own = self.own_tokens
        others = self._reported_tokens - own + routers * (own - self._reported_own)
        if others <= 0:
            return own
        age_s = now - self._reported_s
        if age_s <= 0.0:
            return own + others
        return own + int(others * (1.0 - age_s / REPORT_LIFE_S)) if age_s < REPORT_LIFE_S else own


class Dispatch:
    """One call under way; hand it back to `Ledger.completed` once, however the call ends."""

    __slots__ = ("ahead_tokens", "model", "open", "replica", "tokens")

    def __init__(self, model: str, replica: Replica, tokens: int, ahead_tokens: int) -> None:
        self.model = model
        self.replica = replica
        self.tokens = tokens
        self.ahead_tokens = ahead_tokens  # that the replica held when the call went there
        self.open = True


class Group(Generic[M]):
    """Members in no order; each is found by its place, and joins and leaves in O(1)."""

    __slots__ = ("_places", "members")

    def __init__(self) -> None:
        self.members: list[M] = []
        self._places: dict[M, int] = {}

    def add(self, member: M) -> None:
        """A member stays one."""
        if member not in self._places:
            self._places[member] = len(self.members)
            self.members.append(member)

    def discard(self, member: M) -> None:
        """Move the last member to the place that becomes free."""
        place = self._places.pop(member, None)
        if place is not None:
            last = self.members.pop()
            if last is not member:
                self.members[place] = last
                self._places[last] = place


class _Pool:
    """The replicas of one model: all, those with room for a call, those without one."""

    __slots__ = ("by_id", "calls_in_flight", "joined", "roomy", "unused", "waiting")

    def __init__(self, calls_in_flight: int) -> None:
        self.calls_in_flight = calls_in_flight
        self.by_id: dict[str, Replica] = {}
        self.joined, self.roomy, self.unused = (Group[Replica]() for _ in range(3))
        self.waiting = Waiting()


class Ledger:
    """Own calls, own queue and last reports of one router replica over all models.

    `calls_in_flight` names every model and the calls that this router keeps at one of its replicas.
    `routers` is the number of router replicas that share the load evenly, this one included; set it
    when that changes.
    """

    __slots__ = ("_pools", "on_last_lost", "routers")

    def __init__(self, calls_in_flight: Mapping[str, int], routers: int = 1) -> None:
        self.routers = routers
        self.on_last_lost: Callable[[str], None] | None = None  # a model lost its last replica
        self._pools = {model: _Pool(calls) for model, calls in calls_in_flight.items()}

    def joined(self, model: str, replica: str) -> None:
        """A replica is ready to take work; saying it twice changes nothing."""
        pool = self._pools[model]
        if replica not in pool.by_id:
            made = pool.by_id[replica] = Replica(replica)
            for group in (pool.joined, pool.roomy, pool.unused):
                group.add(made)

    def lost(self, model: str, replica: str) -> int:
        """A replica is gone: own tokens it had are forgotten and returned, its calls may still be
        handed to `completed`.
        """
        pool = self._pools[model]
        gone = pool.by_id.pop(replica, None)
        if gone is None:
            return 0
        for group in (pool.joined, pool.roomy, pool.unused):
            group.discard(gone)
        gone._joined = False
        tokens, gone.own_tokens = gone.own_tokens, 0
        if not pool.by_id and self.on_last_lost is not None:
            self.on_last_lost(model)
        return tokens

    def queued(self, model: str, tokens: int, sender: Sender = ANY_SENDER) -> None:
        """Tokens entered this router's own queue for `model`."""
        self._pools[model].waiting.add(tokens, sender)

    def unqueued(self, model: str, tokens: int, sender: Sender = ANY_SENDER) -> None:
        """Tokens left that queue: dispatched, expired or cancelled. Raises ValueError when more
        leave than entered.
        """
        waiting = self._pools[model].waiting
        if tokens > waiting.tokens:
            raise ValueError(
                f"{tokens} tokens leave the queue of {model}, which holds {waiting.tokens}"
            )
        waiting.remove(tokens, sender)

    def pick(
        self,
        model: str,
        now: float,
        rng: Random,
        exclude: str | None = None,
        prefer_idle: bool = False,
        among: Sequence[str] | None = None,
    ) -> str | None:
        """The less loaded of two random replicas that have room for another call of this router;
        None when none has.

        `prefer_idle` takes a replica that holds nothing where there is one, drawn or not, and
        compares four where no other router's calls come between. `among`: one of these where one
        that is drawn has room.
        """
        pool = self._pools[model]
        if among:
            drawn = {among[int(rng.random() * len(among))] for _ in range(2)} - {exclude}
            states = [pool.by_id[id] for id in drawn if id in pool.by_id]
            if free := [one for one in states if one.own_calls < pool.calls_in_flight]:
                return min(free, key=lambda one: one.outstanding_tokens(now, self.routers)).id
        roomy = pool.roomy.members
        if exclude is not None:
            roomy = [replica for replica in roomy if replica.id != exclude]
        if not roomy:
            return None
        replica, tokens = self._lighter(roomy, now, rng)
        if tokens and prefer_idle and len(roomy) > 2:
            idle = self._idle(pool.unused.members, now, rng, exclude)
            if idle is not None:
                return idle.id
            if self.routers == 1:
                more = roomy
                if len(roomy) > FOUR:
                    more = [roomy[int(rng.random() * len(roomy))] for _ in range(FOUR)]
                replica = min(more, key=lambda one: one.outstanding_tokens(now, 1))
        return replica.id

    def has_room(self, model: str, replica: str) -> bool:
        """Whether a replica that is joined has room for another call of this router."""
        pool = self._pools[model]
        state = pool.by_id.get(replica)
        return state is not None and state.own_calls < pool.calls_in_flight

    def any_idle(self, model: str) -> bool:
        """Whether this router has no call at some replica of `model`."""
        return bool(self._pools[model].unused.members)

    def dispatched(
        self, model: str, replica: str, tokens: int, now: float | None = None
    ) -> Dispatch:
        """A call with `tokens` tokens goes to `replica`. Raises KeyError when that is not joined
        (any more).

        Given `now`, a step is known to begin with it when the replica was idle.
        """
        pool = self._pools[model]
        state = pool.by_id[replica]
        ahead_tokens = state.own_tokens
        if now is not None:
            ahead_tokens = state.outstanding_tokens(now, self.routers)
            if not ahead_tokens:
                state._step_s, state._step_tokens, state._next_tokens = now, tokens, 0
        if not state.own_calls:
            pool.unused.discard(state)
        state.own_tokens += tokens
        state.own_calls += 1
        if state.own_calls >= pool.calls_in_flight:
            pool.roomy.discard(state)
        return Dispatch(model, state, tokens, ahead_tokens)

    def completed(self, dispatch: Dispatch) -> None:
        """The call ended, well or not; saying it twice changes nothing."""
        if not dispatch.open:
            return
        dispatch.open = False
        state = dispatch.replica
        if not state._joined:  # lost meanwhile: its tokens are already forgotten
            return
        pool = self._pools[dispatch.model]
        state.own_tokens -= dispatch.tokens
        state.own_calls -= 1
        pool.roomy.add(state)
        if not state.own_calls:
            pool.unused.add(state)

    def reported(
        self,
        model: str,
        replica: str,
        held_tokens: int,
        now: float,
        in_reply: bool = True,
        running_tokens: int | None = None,
    ) -> None:
        """The replica says that it holds `held_tokens` tokens of all routers; for a report in a
        reply, call `completed` first.

        `running_tokens` of them were in the next step when one ended; None where an engine makes
        that up only then.
        """
        state = self._pools[model].by_id.get(replica)
        if state is not None:
            state._reported_tokens = held_tokens
            state._reported_own = state.own_tokens
            state._reported_s = now
            if in_reply:
                state._step_s, state._step_tokens = now, held_tokens
                state._next_tokens = 0
                if running_tokens:
                    state._step_tokens = running_tokens
                    state._next_tokens = max(0, held_tokens - running_tokens)

    def load(
        self,
        model: Model,
        now: float,
        rng: Random,
        margin: float = 1.0,
        cold_start_s: float | None = None,
        bias: float = 1.0,
        sender: Sender | None = None,
    ) -> Load:
        """What `decide` needs to know of `model`: the better of two sampled replicas, and this
        router's own queue.

        The own queue is served by all replicas, and the other routers are taken to have one like
        it; of what waits counts what goes before the next request of `sender` (None: all).
        `cold_start_s` counts only while no replica is joined.
        """
        pool = self._pools[model.id]
        replicas = len(pool.joined.members)
        calls = replicas * model.curve.batch_tokens
        waiting = pool.waiting.before(sender, calls) * self.routers
        if not replicas:
            return Load(0, waiting, 0.0, margin, cold_start_s, bias)
        state, ahead = self._lighter(pool.joined.members, now, rng)
        rest_s = 0.0
        if ahead:
            curve = model.curve
            running = min(state._step_tokens, ahead, curve.batch_tokens)
            steps_s = curve.step(running)
            if state._next_tokens and ahead > running:
                following = min(state._next_tokens, ahead - running, curve.batch_tokens)
                steps_s += curve.step(following)
                running += following
            rest_s = state._step_s + bias * steps_s - now
            if rest_s > 0.0:
                ahead -= running
            else:  # they are over: nothing is known of the one that runs now
                rest_s = 0.0
        return Load(replicas, ahead + waiting // replicas, rest_s, margin, None, bias)

    def outstanding_tokens(self, model: str, now: float) -> dict[str, int]:
        """Per replica, what this router believes it holds; for metrics, O(replicas)."""
        return {
            state.id: state.outstanding_tokens(now, self.routers)
            for state in self._pools[model].joined.members
        }

    def backlog_tokens(self, model: str) -> int:
        """Tokens of this router that wait in its queue for `model` or are at a replica."""
        pool = self._pools[model]
        return pool.waiting.tokens + sum(state.own_tokens for state in pool.joined.members)

    def replicas(self, model: str) -> int:
        """How many replicas of `model` take work."""
        return len(self._pools[model].joined.members)

    def waiting_tokens(self, model: str, sender: Sender | None = None) -> int:
        """Tokens in this router's own queue for `model`, or those that go before the next ones of
        `sender`.
        """
        pool = self._pools[model]
        return pool.waiting.tokens if sender is None else pool.waiting.before(sender)

    def assert_empty(self) -> None:
        """Raise AssertionError naming every model or replica that still has own work; for tests and
        shutdown.
        """
        left = list(self._left())
        assert not left, "the ledger is not empty: " + "; ".join(left)

    def _lighter(self, replicas: list[Replica], now: float, rng: Random) -> tuple[Replica, int]:
        """The one of two different random replicas with fewer tokens outstanding, and its
        tokens.
        """
        count = len(replicas)
        if count == 1:
            return replicas[0], replicas[0].outstanding_tokens(now, self.routers)
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        one, other = replicas[first], replicas[second if second < first else second + 1]
        tokens, others = (
            one.outstanding_tokens(now, self.routers),
            other.outstanding_tokens(now, self.routers),
        )
        return (one, tokens) if tokens <= others else (other, others)

    def _idle(
        self, unused: list[Replica], now: float, rng: Random, exclude: str | None
    ) -> Replica | None:
        """The first replica that holds nothing, also of other routers, from a random place on."""
        start = int(rng.random() * len(unused))
        for index in range(start - len(unused), start):
            replica = unused[index]
            if replica.id != exclude and not replica.outstanding_tokens(now, self.routers):
                return replica
        return None

    def _left(self) -> Iterator[str]:
        for model, pool in self._pools.items():
            if pool.waiting.tokens:
                yield f"{model} has {pool.waiting.tokens} tokens waiting"
            for state in pool.joined.members:
                if state.own_tokens or state.own_calls:
                    yield (
                        f"{model} {state.id} has {state.own_tokens} tokens in "
                        f"{state.own_calls} calls"
                    )
