"""Settle the charge of a request that fails or is cancelled."""

import asyncio
from types import TracebackType

from deployments.ingress.asgi import ClientLeft
from deployments.ingress.rate_limits import Charge
from router.errors import InternalError, RouterError


class settled_on_failure:
    """Settle the charge of a request if the block fails; a caller who leaves before the answer
    still pays.
    """

    __slots__ = ("_charge",)

    def __init__(self, charge: Charge | None) -> None:
        self._charge = charge

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self._charge is None:
            return
        if isinstance(error, ClientLeft | asyncio.CancelledError):
            self._charge.left()
        elif isinstance(error, Exception):
            status = error.status if isinstance(error, RouterError) else InternalError.status
            self._charge.failed(status)
