"""The last decisions of one router replica, in memory, for /v1/decisions and /v1/what-if. They
never contain text.

Router replicas share nothing, so each returns its own decisions with its name. A client sends the
cursors of all routers that have answered so far, and so sees every decision of each, wherever a
load balancer sends its polls.
"""

import re
import secrets
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from router.decision_log import RERANK, DecisionContext, LogEntry, Logged
from router.errors import InvalidValue, UnknownField, shorten
from router.stamps import Stamps

MAX_DECISIONS = 1000  # of about 2.3 kB each
LIMIT, MAX_SHOWN = 100, 200  # in one answer, built on the event loop in about 20 us each
_PARAMETERS = ("after", "limit")
_CURSOR = re.compile(r"([0-9a-f]{8}):([0-9]{1,15})")


class RecentRequest(NamedTuple):
    """The query of /v1/decisions."""

    after: Mapping[str, int]  # by router: the number of the last known decision
    limit: int


class Recent:
    """A ring of the last decisions; `add` costs a request one append."""

    def __init__(self, most: int = MAX_DECISIONS) -> None:
        self.router = secrets.token_hex(4)  # a name for the life of this replica
        self._ring: deque[Logged] = deque(maxlen=most)
        self._count = 0

    def add(self, context: DecisionContext, entry: LogEntry) -> None:
        """Add one request, in place of the oldest."""
        self._ring.append(Logged(context, entry))
        self._count += 1

    def logged(self) -> list[Logged]:
        """All kept requests, oldest first."""
        return list(self._ring)

    def view(self, query: RecentRequest, routers: int) -> dict[str, Any]:
        """The newest decisions after the cursor, oldest first, for JSON; `missed` counts those
        after the cursor that are left out.
        """
        last = query.after.get(self.router)
        oldest = self._count - len(self._ring) + 1
        # A cursor beyond the last decision is invalid: start again.
        known = 0 if last is None or last > self._count else last
        first = max(oldest, known + 1, self._count - query.limit + 1)
        kept = islice(self._ring, first - oldest, None)
        return {
            "object": "list",
            "router": self.router,
            "routers": routers,
            "next": f"{self.router}:{self._count}",
            "missed": 0 if last is None else first - known - 1,
            "data": [
                _shown(entry, f"{self.router}:{number}", context.arm == RERANK)
                for number, (context, entry) in enumerate(kept, first)
            ],
        }


def parse_query(query: Mapping[str, str]) -> RecentRequest:
    """Parse the query. Raises UnknownField or InvalidValue."""
    for name in query:
        if name not in _PARAMETERS:
            raise UnknownField(name, _PARAMETERS)
    after = {}
    for cursor in filter(None, query.get("after", "").split(",")):
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise InvalidValue(
                f"after must be what `next` of an earlier answer says, it is {shorten(cursor)}",
                "after",
            )
        after[found[1]] = int(found[2])
    limit = query.get("limit", str(LIMIT))
    if not re.fullmatch(r"[0-9]{1,4}", limit) or not 1 <= int(limit) <= MAX_SHOWN:
        raise InvalidValue(
            f"limit must be a number from 1 to {MAX_SHOWN}, it is {shorten(limit)}", "limit"
        )
    return RecentRequest(after, int(limit))


def _shown(entry: LogEntry, id: str, reranked: bool) -> dict[str, Any]:
    request, decision = entry.request, entry.decision
    features, work = request.features, request.work
    read = work.get(decision.model or decision.target or "") or next(iter(work.values()), None)
    return {
        "id": id,
        "task": "rerank" if reranked else "embed",
        "at_s": round(entry.at_s, 3),
        "tokens": read and read.tokens,
        "language": features.language,
        "script": features.script,
        "mixed": features.mixed,
        "code": features.code,
        "tier": entry.tier,
        "pinned": request.pinned,
        "input_type": request.input_type,
        "priority": entry.priority,
        "budget_ms": None
        if request.deadline_s is None
        else milliseconds(request.deadline_s - entry.arrived_s),
        "model": decision.model,
        "target": decision.target,
        "space": entry.space,
        "encoder": entry.encoder,
        "expected_recall": None
        if entry.expected_recall is None
        else round(entry.expected_recall, 4),
        "reason": decision.label,
        "degraded": decision.degraded,
        "predicted_ms": milliseconds(decision.predicted_s),
        "actual_ms": milliseconds(entry.actual_s),
        "outcome": entry.outcome,
        **({} if entry.stamps is None else _stamped(entry.stamps)),
    }


def _stamped(stamps: Stamps) -> dict[str, Any]:
    return {"stamps_ms": stamps.milliseconds(), "call_texts": stamps.call_texts}


def milliseconds(seconds: float | None) -> float | None:
    """Convert seconds to milliseconds as HTTP shows them."""
    return None if seconds is None else round(seconds * 1000, 2)
