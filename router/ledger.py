"""One router replica's estimate of the work at every model replica, in tokens.

    own          tokens that this router sent and that are not answered: always exact
    last report  tokens that the replica held, from all routers, at its last report (with a reply,
                 or every 50-100 ms); it fades to 0 over `REPORT_LIFE_S`
    outstanding  last report + R * (own now - own at the report), and never less than own

A reply means that a step has just ended: the tokens that the replica then holds are its next step.
Replicas are compared by tokens, never by requests, two at a time. docs/internals.md has the reasons
and the literature.

Pure and O(1) for every event, or O(replicas on one device): time and randomness are arguments.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from router.cards import Cards
from router.domain import Curve, Load, Model
from router.fair import ANY_SENDER, Sender, WaitingTokens
from router.group import Group

REPORT_LIFE_S = 1.0
FOUR = 4  # replicas compared for small texts, whose latency is mostly waiting
SCANNED = 16  # replicas that are looked at for an idle one, or for one without interactive work


class Random(Protocol):
    """A source of floats in [0, 1), such as random.Random."""

    def random(self) -> float:
        """Return the next float."""


class Replica:
    """One router's view of a model replica; made by `Ledger.joined`."""

    __slots__ = (
        "_joined", "_next_tokens", "_reported_own", "_reported_s", "_reported_tokens", "_step_s",
        "_step_tokens", "id", "own_calls", "own_tokens",
    )  # fmt: skip

    def __init__(self, id: str) -> None:
        self.id = id
        self.own_tokens = 0
        self.own_calls = 0
        self._reported_tokens = 0  # in the last report, from all routers
        self._reported_own = 0  # own tokens at the last report
        self._reported_s = 0.0
        self._step_s = -math.inf  # start of the running step
        self._step_tokens = 0  # tokens that it could take
        self._next_tokens = 0  # tokens of the next step, if it is prepared already
        self._joined = True  # until it is lost

    def outstanding_tokens(self, now: float, routers: int) -> int:
        """Estimate the replica's unfinished tokens from all `routers` routers at `now`."""
        own = self.own_tokens
        others = self._reported_tokens - own + routers * (own - self._reported_own)
        if others <= 0:
            return own
        age_s = now - self._reported_s
        if age_s <= 0.0:
            return own + others
        return own + int(others * (1.0 - age_s / REPORT_LIFE_S)) if age_s < REPORT_LIFE_S else own

    def after_steps(self, ahead: int, curve: Curve, bias: float, now: float) -> tuple[int, float]:
        """The number of `ahead` outstanding tokens that wait behind the known steps, and the
        seconds until those end.
        """
        running = min(self._step_tokens, ahead, curve.batch_tokens)
        steps_s = curve.step(running)
        if self._next_tokens and ahead > running:
            following = min(self._next_tokens, ahead - running, curve.batch_tokens)
            steps_s += curve.step(following)
            running += following
        rest_s = self._step_s + bias * steps_s - now
        # if they are over, the step that runs now is unknown
        return (ahead - running, rest_s) if rest_s > 0.0 else (ahead, 0.0)


class Dispatch:
    """One call in flight; pass it to `Ledger.completed` once, however the call ends."""

    __slots__ = ("ahead_tokens", "model", "open", "replica", "tokens")

    def __init__(self, model: str, replica: Replica, tokens: int, ahead_tokens: int) -> None:
        self.model = model
        self.replica = replica
        self.tokens = tokens
        self.ahead_tokens = ahead_tokens  # tokens at the replica when the call was sent
        self.open = True


class _Pool:
    """The replicas of one model: all, those with room for a call, and those without calls."""

    __slots__ = (
        "bias", "bulk", "by_id", "calls_in_flight", "curve", "joined", "roomy", "unused", "waiting",
    )  # fmt: skip

    def __init__(self, calls_in_flight: int) -> None:
        self.calls_in_flight = calls_in_flight
        self.by_id: dict[str, Replica] = {}
        self.joined, self.roomy, self.unused = (Group[Replica]() for _ in range(3))
        self.waiting, self.bulk = WaitingTokens(), WaitingTokens()
        self.curve: Curve | None = None  # as of the last `Ledger.load`, with its bias
        self.bias = 1.0

    def busy_s(self, replica: str, now: float, routers: int) -> float:
        """Seconds of the work at a replica, with its part of the queue."""
        state, curve = self.by_id.get(replica), self.curve
        if state is None or curve is None:
            return 0.0
        ahead, rest_s = state.outstanding_tokens(now, routers), 0.0
        if ahead:
            ahead, rest_s = state.after_steps(ahead, curve, self.bias, now)
        ahead += (self.waiting.tokens + self.bulk.tokens) * routers // len(self.by_id)
        full, last = divmod(ahead, curve.batch_tokens)
        steps_s = full * curve.step(curve.batch_tokens) + (curve.step(last) if last else 0.0)
        return rest_s + self.bias * steps_s


class Ledger:
    """Own calls, own queue and last reports of one router replica, for all models.

    `calls_in_flight` is, for every model, the maximum of this router's calls at one of its
    replicas. `routers` is the number of router replicas that share the load evenly, including this
    one; set it when that changes. `cards` lists which replicas share a device.
    """

    __slots__ = ("_cards", "_pools", "on_last_lost", "routers")

    def __init__(
        self, calls_in_flight: Mapping[str, int], routers: int = 1, cards: Cards | None = None
    ) -> None:
        self.routers = routers
        self._cards = cards or Cards()
        self.on_last_lost: Callable[[str], None] | None = None  # a model lost its last replica
        self._pools = {model: _Pool(calls) for model, calls in calls_in_flight.items()}

    def joined(self, model: str, replica: str) -> None:
        """Add a replica that is ready to take work; a second call has no effect."""
        pool = self._pools[model]
        if replica not in pool.by_id:
            made = pool.by_id[replica] = Replica(replica)
            for group in (pool.joined, pool.roomy, pool.unused):
                group.add(made)

    def lost(self, model: str, replica: str) -> int:
        """Remove a replica and return this router's tokens at it.

        Its calls can still be passed to `completed`.
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
        """Count tokens that entered this router's own queue for `model`."""
        self._pools[model].waiting.add(tokens, sender)

    def unqueued(self, model: str, tokens: int, sender: Sender = ANY_SENDER) -> None:
        """Count tokens that left that queue: dispatched, expired or cancelled.

        Raises ValueError if more tokens leave than entered.
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
        """Choose the less loaded of two random replicas with room for another call of this router;
        None if there is none.

        `prefer_idle` chooses an idle replica if one is found among at most SCANNED without calls of
        this router; otherwise, with a single router, it compares FOUR replicas. `among`: choose one
        of these, if one of two that are drawn has room.
        """
        pool = self._pools[model]
        if among:
            drawn = dict.fromkeys(among[int(rng.random() * len(among))] for _ in range(2))
            states = [pool.by_id[id] for id in drawn if id != exclude and id in pool.by_id]
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
                replica = self._least_loaded(more, now)
        return replica.id

    def least_loaded(self, model: str, among: Sequence[str], now: float) -> str:
        """The first of these joined replicas with the fewest outstanding tokens."""
        by_id = self._pools[model].by_id
        return self._least_loaded([by_id[id] for id in among], now).id

    def has_room(self, model: str, replica: str) -> bool:
        """Whether a joined replica has room for another call of this router."""
        pool = self._pools[model]
        state = pool.by_id.get(replica)
        return state is not None and state.own_calls < pool.calls_in_flight

    def any_idle(self, model: str) -> bool:
        """Whether some replica of `model` has no call of this router."""
        return bool(self._pools[model].unused.members)

    def dispatched(
        self, model: str, replica: str, tokens: int, now: float | None = None
    ) -> Dispatch:
        """Record a call with `tokens` tokens to `replica`. Raises KeyError if it is not joined.

        With `now`, the call starts a step if the replica was idle.
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
        """Record the end of a call, successful or not; a second call has no effect."""
        if not dispatch.open:
            return
        dispatch.open = False
        state = dispatch.replica
        if not state._joined:  # lost in the meantime, together with its tokens
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
        """Record a replica's report that it holds `held_tokens` tokens of all routers.

        For a report in a reply, call `completed` first. `running_tokens` of them were already in
        the next step when one ended; None for an engine that prepares the next step only then.
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
        crowding: float = 1.0,
    ) -> Load:
        """The load of `model` for `decide`: the better of two sampled replicas, and the own queue.

        The own queue is served by all replicas, and the other routers are assumed to have similar
        queues. Only work that is sent before the next request of `sender` counts (None: all).
        `cold_start_s` is used only while no replica is joined, `crowding` only with other work.
        """
        pool = self._pools[model.id]
        pool.curve, pool.bias = model.curve, bias
        replicas = len(pool.joined.members)
        waiting, calls = pool.waiting.tokens, replicas * model.curve.batch_tokens
        if waiting > calls:
            waiting = pool.waiting.before(sender, calls)
        waiting *= self.routers
        ahead, rest_s, beside_s = waiting, 0.0, tuple[float, ...]()
        if replicas:
            cold_start_s = None
            state, ahead = self._lighter(pool.joined.members, now, rng)
            if ahead:
                ahead, rest_s = state.after_steps(ahead, model.curve, bias, now)
            ahead += waiting // replicas
            if (beside := self._cards.beside.get(state.id)) is not None:
                beside_s = self._beside_s(beside, now)
        if ahead or rest_s > 0.0:
            margin *= crowding
        else:
            crowding = 1.0
        return Load(replicas, ahead, rest_s, margin, cold_start_s, bias, beside_s, crowding)

    def outstanding_tokens(self, model: str, now: float) -> dict[str, int]:
        """The estimated tokens at each replica; for metrics, O(replicas)."""
        return {
            state.id: state.outstanding_tokens(now, self.routers)
            for state in self._pools[model].joined.members
        }

    def backlog_tokens(self, model: str) -> int:
        """Tokens of this router that wait in its queue for `model` or are at a replica."""
        pool = self._pools[model]
        return pool.waiting.tokens + sum(state.own_tokens for state in pool.joined.members)

    def replicas(self, model: str) -> int:
        """The number of replicas of `model` that take work."""
        return len(self._pools[model].joined.members)

    def waiting_tokens(self, model: str, sender: Sender | None = None) -> int:
        """Tokens in this router's own queue for `model`, or only those before the next ones of
        `sender`.
        """
        pool = self._pools[model]
        return pool.waiting.tokens if sender is None else pool.waiting.before(sender)

    def bulk(self, model: str) -> WaitingTokens:
        """The bulk tokens in this router's own queue for `model`, which go after all others."""
        return self._pools[model].bulk

    def assert_empty(self) -> None:
        """Raise an AssertionError that names every model or replica with own work left; for tests
        and shutdown.
        """
        left = list(self._left())
        assert not left, "the ledger is not empty: " + "; ".join(left)

    def _beside_s(self, beside: Mapping[str, str], now: float) -> tuple[float, ...]:
        """Seconds of work of each of these replicas that has some."""
        routers, pools = self.routers, self._pools
        works = (pools[model].busy_s(other, now, routers) for other, model in beside.items())
        return tuple(seconds for seconds in works if seconds > 0.0)

    def _lighter(self, replicas: list[Replica], now: float, rng: Random) -> tuple[Replica, int]:
        """The less loaded of two different random replicas, and its outstanding tokens."""
        count = len(replicas)
        if count == 1:
            return replicas[0], replicas[0].outstanding_tokens(now, self.routers)
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        one, other = replicas[first], replicas[second if second < first else second + 1]
        tokens = one.outstanding_tokens(now, self.routers)
        if not tokens:
            return one, 0
        others = other.outstanding_tokens(now, self.routers)
        return (one, tokens) if tokens <= others else (other, others)

    def _least_loaded(self, replicas: Sequence[Replica], now: float) -> Replica:
        """The first replica with the fewest outstanding tokens."""
        least, fewest = replicas[0], math.inf
        for replica in replicas:
            tokens = replica.outstanding_tokens(now, self.routers)
            if tokens < fewest:
                least, fewest = replica, tokens
        return least

    def _idle(
        self, unused: list[Replica], now: float, rng: Random, exclude: str | None
    ) -> Replica | None:
        """The first replica from a random place on that holds no tokens, from any router."""
        start = int(rng.random() * len(unused)) - len(unused)
        for index in range(start, start + min(len(unused), SCANNED)):
            replica = unused[index]
            if replica.id != exclude and not replica.outstanding_tokens(now, self.routers):
                return replica
        return None

    def _left(self) -> Iterator[str]:
        for model, pool in self._pools.items():
            if pool.waiting.tokens:
                yield f"{model} has {pool.waiting.tokens} tokens waiting"
            if pool.bulk.tokens:
                yield f"{model} has {pool.bulk.tokens} tokens of bulk waiting"
            for state in pool.joined.members:
                if state.own_tokens or state.own_calls:
                    yield (
                        f"{model} {state.id} has {state.own_tokens} tokens in "
                        f"{state.own_calls} calls"
                    )
