"""Limits of keys as one router keeps them: what a request is charged, and the exchange with the other routers.

The bookkeeping is router/quota.py. Here are the clock, the calls to the others, and one rule: a request that another router's
part of the limit could serve asks for it at once, and is refused only when that did not help.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from router.errors import RateLimitExceeded
from router.keys import Grant
from router.quota import EXCHANGE_S, Limit, Quotas, Report, Standing

NOT_SOONER_S = 0.02  # than so long after the last exchange is the next one asked for by a request

Replies = Mapping[str, Mapping[Limit, Report]]  # by router
Exchange = Callable[[Mapping[Limit, Report]], Awaitable[Replies]]

log = logging.getLogger("ray.serve")


class Limits(NamedTuple):
    """Those of one key."""

    requests: Limit | None
    tokens: Limit | None


class Meters:
    """The limits of all keys in this router."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, exchange: Exchange | None = None) -> None:
        """`exchange` tells all other routers and returns what those that answer reply; none where there is one router only."""
        self._clock, self._exchange = clock, exchange
        self._quotas = Quotas()
        self._asking: asyncio.Task[None] | None = None
        self._asked_s = float("-inf")
        self._failed = False
        self._limits: dict[str, Limits] = {}  # by the name of the key

    def configure(self, grants: Iterable[Grant]) -> None:
        """Forget the limits that no key has any more."""
        self._limits = {grant.name: limits for grant in grants if any(limits := limits_of(grant))}
        self._quotas.keep([limit for limits in self._limits.values() for limit in limits if limit is not None])

    def routers_are(self, routers: int) -> None:
        """How many routers share the limits."""
        self._quotas.routers = max(1, routers)

    async def open(self, grant: Grant) -> "Bill | None":
        """Charge one request; None for a key without limits. Raises RateLimitExceeded."""
        limits = self._limits.get(grant.name)
        if limits is None:
            return None
        requests, tokens = limits
        if tokens is not None and self._quotas.spent(tokens, self._clock()):
            raise self._refusal(tokens, 1)  # before anything is read: counting tokens is work too
        if requests is not None:
            await self.take(requests, 1)
        return Bill(self, requests, tokens)

    async def take(self, limit: Limit, cost: int) -> None:
        """Spend `cost`, or raise RateLimitExceeded."""
        if limit.kind == "tokens" and cost > limit.per_minute:
            raise RateLimitExceeded.never(cost, limit.per_minute)
        if self._quotas.take(limit, cost, self._clock()):
            return
        if self._quotas.elsewhere(limit, cost, self._clock()):
            await self.exchange()
            if self._quotas.take(limit, cost, self._clock(), again=True):
                return
        raise self._refusal(limit, cost)

    def settle(self, limit: Limit, difference: int) -> None:
        """See Bucket.settle."""
        self._quotas.settle(limit, difference, self._clock())

    def standings(self, grant: Grant) -> list[tuple[Limit, Standing]]:
        """What is left of each limit of a key."""
        now = self._clock()
        return [(limit, self._quotas.standing(limit, now)) for limit in self._limits.get(grant.name, ()) if limit is not None]

    def answer(self, router: str, reports: Mapping[Limit, Report]) -> dict[Limit, Report]:
        """What this router replies to another one's exchange."""
        return self._quotas.answer(router, reports, self._clock())

    async def run(self) -> None:
        """Exchange twice a second, forever, while there is something to tell.

        Also where no other router is known of: one that has just started knows of this one before this one knows of it.
        """
        while True:
            await asyncio.sleep(EXCHANGE_S)
            if self._limits:
                try:
                    await self.exchange()
                except Exception:
                    log.exception("what the other routers say of the limits of keys could not be used")

    async def exchange(self) -> None:
        """One exchange; those who ask while one is under way wait for it."""
        if self._exchange is None:
            return
        if self._asking is None:
            if self._clock() - self._asked_s < NOT_SOONER_S:
                return
            self._asking = asyncio.get_running_loop().create_task(self._ask(self._exchange))
        await asyncio.shield(self._asking)

    async def _ask(self, exchange: Exchange) -> None:
        try:
            replies = await exchange(self._quotas.reports(self._clock()))
        except Exception as error:  # whoever cannot be heard keeps an even share reserved
            replies = {}
            if not self._failed:
                log.warning("the other routers cannot be heard: limits of keys are kept by even shares meanwhile (%r)", error)
            self._failed = True
        else:
            self._failed = False
        finally:
            self._asked_s, self._asking = self._clock(), None
        self._quotas.exchanged(replies, self._clock())

    def _refusal(self, limit: Limit, cost: int) -> RateLimitExceeded:
        return RateLimitExceeded(f"{limit.per_minute} {limit.kind} per minute", self._quotas.wait_s(limit, cost, self._clock()))


class Bill:
    """What one request was charged."""

    __slots__ = ("_charged", "_meters", "_requests", "_tokens")

    def __init__(self, meters: Meters, requests: Limit | None, tokens: Limit | None) -> None:
        self._meters, self._requests, self._tokens = meters, requests, tokens
        self._charged = 0

    async def charge(self, tokens: int) -> None:
        """Charge what the request will be read as, before it is; raises RateLimitExceeded."""
        if self._tokens is not None:
            await self._meters.take(self._tokens, tokens)
            self._charged = tokens

    def answered(self, tokens: int) -> None:
        """Settle on what the model read."""
        if self._tokens is not None and tokens != self._charged:
            self._meters.settle(self._tokens, tokens - self._charged)

    def failed(self, status: int) -> None:
        """Give back the tokens, and the request too where the service is to blame; one that made no sense stays counted."""
        if self._tokens is not None and self._charged:
            self._meters.settle(self._tokens, -self._charged)
        if self._requests is not None and (status >= 500 or status == 429):
            self._meters.settle(self._requests, -1)


def limits_of(grant: Grant) -> Limits:
    """The limits of a key."""
    requests, tokens = grant.requests_per_minute, grant.tokens_per_minute
    return Limits(
        None if requests is None else Limit(grant.name, "requests", requests),
        None if tokens is None else Limit(grant.name, "tokens", tokens),
    )
