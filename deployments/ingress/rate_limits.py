"""The limits of keys in one router: charges for requests, and the exchange with other routers.

router/quota.py does the bookkeeping. This file has the clock, the calls to the other routers, and
one rule: if another router's part of the limit could serve a request, an exchange runs at once, and
the request is refused only if that did not help.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from router.errors import RateLimitExceeded
from router.keys import Grant
from router.quota import EXCHANGE_S, Bucket, BucketReport, Limit, LimitKind, Quotas

READ_CHARACTERS_A_TOKEN = 400  # a refused request costs a hundredth of an answer
NOT_SOONER_S = 0.02  # minimum time between two exchanges that requests start

Replies = Mapping[str, Mapping[Limit, BucketReport]]  # by router
Exchange = Callable[[Mapping[Limit, BucketReport]], Awaitable[Replies]]

log = logging.getLogger("ray.serve")


class Account(NamedTuple):
    """The limits of one key."""

    requests: Bucket | None
    tokens: Bucket | None
    each: tuple[tuple[LimitKind, Bucket], ...]  # the limits that are set


class RateLimiter:
    """The limits of all keys in this router."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, exchange: Exchange | None = None
    ) -> None:
        """`exchange` sends reports to all other routers and returns their replies; None if there is
        only one router.
        """
        self._clock, self._exchange = clock, exchange
        self._quotas = Quotas()
        self._asking: asyncio.Task[None] | None = None
        self._exchanged_s = float("-inf")
        self._failed = False
        self._limits: dict[str, tuple[Limit, ...]] = {}  # by the name of the key
        self._accounts: dict[str, Account] = {}  # of keys that were used

    def configure(self, grants: Iterable[Grant]) -> None:
        """Forget the limits that no key has any more."""
        self._limits = {grant.name: limits for grant in grants if (limits := limits_of(grant))}
        self._quotas.keep([limit for limits in self._limits.values() for limit in limits])
        self._accounts = {}

    def routers_are(self, routers: int) -> None:
        """Set how many routers share the limits."""
        self._quotas.routers = max(1, routers)

    async def open(self, grant: Grant) -> "Charge | None":
        """Charge one request; None for a key without limits. Raises RateLimitExceeded."""
        account = self._account(grant)
        if account is None:
            return None
        requests, tokens, now = account.requests, account.tokens, self._clock()
        if tokens is not None and tokens.spent(now):
            # refuse before reading: counting tokens is work too
            raise self._refusal("tokens", tokens, 1)
        if requests is not None and not requests.take(1, now):
            await self.take_after_all("requests", requests, 1)
        return Charge(self, account, self._clock)

    async def take_after_all(self, kind: LimitKind, bucket: Bucket, cost: int) -> None:
        """Try a refused charge again after an exchange, or raise RateLimitExceeded."""
        if self._quotas.routers > 1 and bucket.elsewhere(cost):
            await self.exchange()
            if bucket.take(cost, self._clock(), again=True):
                return
        raise self._refusal(kind, bucket, cost)

    def left(self, grant: Grant) -> list[tuple[LimitKind, int, int, float]]:
        """The kind, size and rest of each limit of a key, and the seconds until it is full
        again.
        """
        account, now = self._account(grant), self._clock()
        return (
            []
            if account is None
            else [(kind, bucket.per_minute, *bucket.left(now)) for kind, bucket in account.each]
        )

    def answer(
        self, router: str, reports: Mapping[Limit, BucketReport]
    ) -> dict[Limit, BucketReport]:
        """Reply to another router's exchange."""
        return self._quotas.answer(router, reports, self._clock())

    async def run(self) -> None:
        """Exchange twice a second, forever, while any key has limits.

        This includes times when no other router is listed: a router that has just started lists
        this one before this one lists it.
        """
        while True:
            await asyncio.sleep(EXCHANGE_S)
            if self._limits:
                try:
                    await self.exchange()
                except Exception:
                    log.exception("exchanging the use of key limits with other routers failed")

    async def exchange(self) -> None:
        """Run one exchange; calls during an exchange wait for the running one."""
        if self._exchange is None:
            return
        if self._asking is None:
            if self._clock() - self._exchanged_s < NOT_SOONER_S:
                return
            self._asking = asyncio.get_running_loop().create_task(
                self._run_exchange(self._exchange)
            )
        await asyncio.shield(self._asking)

    async def _run_exchange(self, exchange: Exchange) -> None:
        try:
            replies = await exchange(self._quotas.reports(self._clock()))
        except Exception as error:  # routers that do not reply keep an even share reserved
            replies = {}
            if not self._failed:
                log.warning(
                    "the other routers do not reply; until they do, each router grants an equal "
                    "share of every key's limits (%r)",
                    error,
                )
            self._failed = True
        else:
            self._failed = False
        finally:
            self._exchanged_s, self._asking = self._clock(), None
        self._quotas.exchanged(replies, self._clock())

    def _account(self, grant: Grant) -> Account | None:
        if not self._limits:
            return None
        account = self._accounts.get(grant.name)
        if account is None and (limits := self._limits.get(grant.name)):
            buckets = {limit.kind: self._quotas.bucket(limit, self._clock()) for limit in limits}
            account = Account(
                buckets.get("requests"), buckets.get("tokens"), tuple(buckets.items())
            )
            self._accounts[grant.name] = account
        return account

    def _refusal(self, kind: LimitKind, bucket: Bucket, cost: int) -> RateLimitExceeded:
        return RateLimitExceeded(
            f"{bucket.per_minute} {kind} per minute", bucket.wait_s(cost, self._clock())
        )


class Charge:
    """The charge of one request; it is still settled on a limit that the config no longer has, but
    without effect.
    """

    __slots__ = ("_characters", "_charged", "_clock", "_limiter", "_requests", "_tokens")

    def __init__(self, limiter: RateLimiter, account: Account, clock: Callable[[], float]) -> None:
        self._limiter, self._clock = limiter, clock
        self._requests, self._tokens, _ = account
        self._charged = self._characters = 0

    def reading(self, characters: int) -> None:
        """Note that texts of this many characters are being tokenised."""
        self._characters = characters

    async def take(self, tokens: int) -> None:
        """Charge a request's tokens before a model reads them; raises RateLimitExceeded."""
        bucket = self._tokens
        if bucket is None:
            return
        if tokens > bucket.per_minute:
            raise RateLimitExceeded.never(tokens, bucket.per_minute)
        if not bucket.take(tokens, self._clock()):
            await self._limiter.take_after_all("tokens", bucket, tokens)
        self._charged = tokens

    def answered(self, tokens: int) -> None:
        """Settle on the tokens that the model read."""
        if self._tokens is not None and tokens != self._charged:
            self._tokens.settle(tokens - self._charged, self._clock())

    def left(self) -> None:
        """Settle for a caller who left: charged tokens stay charged, and texts that were only read
        are paid as after a failure.
        """
        if not self._charged:
            self._pay_reading(self._clock())

    def failed(self, status: int) -> None:
        """Refund the tokens, and the request too if nothing was read and the cause is the service
        or a limit.

        Reading is work, whatever the outcome: a key without a limit of requests pays for it with a
        few tokens.
        """
        now = self._clock()
        if self._tokens is not None and self._charged:
            self._tokens.settle(-self._charged, now)
        if self._requests is not None:
            if not self._characters and (status >= 500 or status == 429):
                self._requests.settle(-1, now)
        else:
            self._pay_reading(now)

    def _pay_reading(self, now: float) -> None:
        """Charge tokens for reading if the key has no limit of requests to count it."""
        if self._requests is None and self._tokens is not None and self._characters:
            most = max(1, self._tokens.per_minute // 10)
            cost = self._characters // READ_CHARACTERS_A_TOKEN
            self._tokens.settle(min(most, max(1, cost)), now)


def limits_of(grant: Grant) -> tuple[Limit, ...]:
    """The limits of a key."""
    pairs = (("requests", grant.requests_per_minute), ("tokens", grant.tokens_per_minute))
    return tuple(Limit(grant.name, kind, most) for kind, most in pairs if most is not None)  # type: ignore[arg-type]
