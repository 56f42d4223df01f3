"""Errors of a service that cannot answer now; router/errors.py has the whole tree."""

import math
from collections.abc import Sequence
from typing import Self

from router.error_base import RouterError, field, retry_after


class Overloaded(RouterError):
    """More work is queued than the service accepts."""

    status, code = 429, "overloaded"
    BULK = '; send a long list with "priority": "bulk", which may wait longer'
    has_faster = False  # the service has a model that would answer sooner within a latency budget

    def __init__(self, model: str, retry_after_s: float, at_server: bool = False) -> None:
        """`at_server`: a server behind the model's engine refused the work, not a queue here."""
        self.at_server = at_server
        super().__init__(
            f"too much work waits for {model}; send the request again after the time in "
            "Retry-After, or to another model",
            headers=retry_after(retry_after_s),
        )

    def advised(self, list_without_bulk: bool, without_budget: bool) -> Self:
        """The error with advice for this request: to send a long list as bulk, or to set a budget
        so that a faster model answers.
        """
        made = self.copied()
        if list_without_bulk and not self.at_server:
            made._message += field(self.BULK)
        if without_budget and self.has_faster:
            made._message += f"; with {field('latency_budget_ms')} a faster model can answer"
        return made


class InternalError(RouterError):
    """The service failed. Its log has the details under the request id; the response has none."""

    status, code = 500, "internal_error"

    def __init__(self) -> None:
        super().__init__(
            "the service failed; send the request again, and report its x-request-id if it fails "
            "again"
        )


class ModelUnavailable(RouterError):
    """No model that can answer this request is ready.

    `why` has one entry per model.

    `lost`: the model's replicas or its server are gone or hang. Another model can then answer; a
    text that makes an engine fail is sent to no other engine. `sent`: a replica had the text.
    """

    status, code = 503, "model_unavailable"

    def __init__(
        self, why: Sequence[str], retry_after_s: float, lost: bool = False, sent: bool = False
    ) -> None:
        self.lost, self.sent = lost, sent
        super().__init__(
            f"no model can answer this request now ({'; '.join(why)}); send it again after the "
            "time in Retry-After",
            "model",
            retry_after(retry_after_s),
        )


class BudgetUnreachable(RouterError):
    """No allowed model is predicted to meet the latency budget, and `on_budget_miss` is reject."""

    status, code = 503, "budget_unreachable"

    def __init__(self, budget_s: float, soonest_s: float, retry_after_s: float | None) -> None:
        """`soonest_s` is the shortest time that an idle allowed model is likely to take.

        `retry_after_s` None: waiting does not help. Retry-After is then long, for clients that do
        not read `x-should-retry`.
        """
        within = f"no allowed model is predicted to answer within {budget_s * 1000:.4g} ms"
        if retry_after_s is None:
            enough_ms = max(math.ceil(soonest_s * 1000), math.floor(budget_s * 1000) + 1)
            super().__init__(
                f"{within}, not even an idle one: raise latency_budget_ms to "
                f"{enough_ms} or more, or send "
                '"on_budget_miss": "degrade" to be answered late',
                "latency_budget_ms",
                retry_after(math.inf)
                | {"x-should-retry": "false"},  # OpenAI's clients repeat a 503 otherwise
            )
        else:
            super().__init__(
                f"{within} at this load; send the request again after the time in Retry-After, "
                "raise latency_budget_ms, or send "
                '"on_budget_miss": "degrade" to be answered late',
                "latency_budget_ms",
                retry_after(retry_after_s),
            )


class DeadlineExceeded(RouterError):
    """The request was not answered within its time limit."""

    status, code = 504, "deadline_exceeded"

    def __init__(self, limit_s: float) -> None:
        super().__init__(
            f"no answer within {limit_s * 1000:g} ms; send fewer or shorter texts, or allow more "
            "time"
        )
