"""The replicas of one model that a router uses, and its calls in flight at each.

A replica that failed is ejected for a while, and for longer each time it fails again without an
answer between: a replica that fails fast would look like the least loaded of all. Pure: times are
arguments.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

from router.calls import LARGE, CallInFlight, ReplicaInFlight
from router.feedback import Feedback
from router.group import Group
from router.ledger import Ledger

# engine failures in a row, without an answer between, that eject the replica
FAILURES_IN_A_ROW = 5
EJECTION_S = 2.0  # a failed replica gets no calls for this time
MAX_EJECTION_S = 30.0  # the time doubles with each failure, up to this


class ReplicaEjection:
    """The replicas of one model that are ejected."""

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}
        # ejections of a replica since its last answer
        self._strikes: dict[str, int] = {}

    def __contains__(self, replica: str) -> bool:
        return replica in self._until_s

    def __len__(self) -> int:
        return len(self._until_s)

    def add(self, replica: str, now: float) -> None:
        """Eject a replica that failed."""
        strikes = self._strikes[replica] = self._strikes.get(replica, 0) + 1
        self._until_s[replica] = now + min(EJECTION_S * 2 ** (strikes - 1), MAX_EJECTION_S)

    def answered(self, replica: str) -> None:
        """Reset the count of a replica that answered: its next failure is again the first."""
        self._strikes.pop(replica, None)

    def keep(self, posted: Collection[str]) -> None:
        """Forget the replicas that Serve has replaced."""
        for replica in self._until_s.keys() | self._strikes.keys():
            if replica not in posted:
                self._until_s.pop(replica, None)
                self._strikes.pop(replica, None)

    def end(self, now: float) -> None:
        """Forget the ejections that end at `now`; their strikes stay."""
        for replica in [name for name, until_s in self._until_s.items() if until_s <= now]:
            del self._until_s[replica]

    def next_end_s(self) -> float:
        """When the next ejection ends."""
        return min(self._until_s.values(), default=math.inf)


class ReplicaSet:
    """The replicas of one model that its deployment reports, without those that are ejected."""

    __slots__ = (
        "_feedback", "_ledger", "_model", "_posted", "at", "ejected", "free", "in_flight", "laden",
        "ready",
    )  # fmt: skip

    def __init__(self, model: str, ledger: Ledger, feedback: Feedback) -> None:
        self._model, self._ledger, self._feedback = model, ledger, feedback
        self._posted: tuple[str, ...] = ()
        self.ejected = ReplicaEjection()
        self.ready: tuple[str, ...] = ()
        self.at: dict[str, ReplicaInFlight] = {}  # by ready replica
        self.in_flight = [0, 0]  # calls at all of them: small, large
        self.laden = Group[str]()  # those with a large call
        self.free = Group[str]()  # those without an interactive call

    def change(self, posted: Sequence[str]) -> None:
        """Take over the deployment's current replicas."""
        self._posted = tuple(posted)
        self.ejected.keep(posted)
        self._update()

    def eject(self, replica: str, now: float) -> None:
        """Stop sending to a replica that just failed, until Serve replaces it or some time has
        passed.
        """
        if replica in self._posted and replica not in self.ejected:
            self.ejected.add(replica, now)
            self._update()

    def end_ejections(self, now: float) -> None:
        """Resume sending to the replicas whose ejection ends at `now`."""
        self.ejected.end(now)
        self._update()

    def blame(self, replica: str | None, now: float) -> None:
        """Count a failure of the engine of a replica; several in a row eject the replica."""
        if replica is not None and (at := self.at.get(replica)) is not None:
            at.failures += 1
            if at.failures >= FAILURES_IN_A_ROW:
                self.eject(replica, now)

    def call_began(self, call: CallInFlight[Any]) -> None:
        """Give the call a slot at its replica."""
        self.in_flight[call.kind] += 1
        call.at.calls[call.kind] += 1
        if call.interactive:
            call.at.interactive += 1
            self.free.discard(call.replica)
        if call.kind is LARGE:
            self.laden.add(call.replica)
        call.at.open.add(call)

    def call_ended(self, call: CallInFlight[Any]) -> None:
        """Free the slot of the call, unless its replica is gone."""
        call.at.open.discard(call)
        if self.at.get(call.replica) is call.at:
            self.in_flight[call.kind] -= 1
            call.at.calls[call.kind] -= 1
            if call.interactive:
                call.at.interactive -= 1
                if not call.at.interactive:
                    self.free.add(call.replica)
            if not call.at.calls[LARGE]:
                self.laden.discard(call.replica)

    def _update(self) -> None:
        """Update the ready replicas; those that are gone leave the ledger and the feedback."""
        ready = [replica for replica in self._posted if replica not in self.ejected]
        left = set(ready)
        for gone in [replica for replica in self.ready if replica not in left]:
            self._ledger.lost(self._model, gone)
            self._feedback.lost(gone)
            self.laden.discard(gone)
            self.free.discard(gone)
            # its remaining calls take no slots from the others
            for kind, calls in enumerate(self.at.pop(gone).calls):
                self.in_flight[kind] -= calls
        for new in ready:
            self._ledger.joined(self._model, new)
            if new not in self.at:
                self.at[new] = ReplicaInFlight()
                self.free.add(new)
        self.ready = tuple(ready)
        if ready:
            self._feedback.awake()
