"""Settle the charge of a request that fails or is cancelled."""

import asyncio
from types import TracebackType

from deployments.ingress.asgi import ClientLeft
from deployments.ingress.rate_limits import Charge
from router.errors import InternalError, RouterError


class billed:
    """Settle the charge of a request if the block fails; a caller who leaves before the answer
    still pays.
    """

    __slots__ = ("_bill",)

    def __init__(self, bill: Charge | None) -> None:
        self._bill = bill

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self._bill is None:
            return
        if isinstance(error, ClientLeft | asyncio.CancelledError):
            self._bill.left()
        elif isinstance(error, Exception):
            status = error.status if isinstance(error, RouterError) else InternalError.status
            self._bill.failed(status)
