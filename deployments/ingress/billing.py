"""The charge for a request that gets no answer."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from deployments.ingress.asgi import ClientLeft
from deployments.ingress.rate_limits import Charge
from router.errors import InternalError, RouterError


@contextmanager
def billed(bill: Charge | None) -> Iterator[None]:
    """Settle the charge of a request if the block fails; a caller who leaves before the answer
    still pays.
    """
    try:
        yield
    except (ClientLeft, asyncio.CancelledError):
        if bill is not None:
            bill.left()
        raise
    except Exception as error:
        if bill is not None:
            bill.failed(error.status if isinstance(error, RouterError) else InternalError.status)
        raise
