"""The lines of a batch as requests: how long a line that is refused waits."""

import json

import pytest

from deployments.ingress.asgi import HttpAnswer, HttpRequest
from deployments.ingress.batches import Lines
from router.batches import Tries, again
from router.errors import Overloaded, RateLimitExceeded, RouterError
from router.keys import EVERYTHING, Grant


class Refusing:
    """An application that refuses every line."""

    def __init__(self, error: RouterError) -> None:
        self.error = error
        self.counted: list[RouterError] = []

    async def embed_line(self, grant: Grant, http_request: HttpRequest, client: str) -> HttpAnswer:
        raise self.error

    def refused(self, error: RouterError, path: str) -> None:
        self.counted.append(error)


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (Overloaded("small", 25.0), 1.0),
        (Overloaded("small", 25.0, at_server=True), 25.0),
        (RateLimitExceeded("100 requests per minute", 25.0), 25.0),
    ],
    ids=["full queue", "full server", "limit"],
)
async def test_a_line_looks_again_soon_where_a_queue_of_its_router_was_full(
    error: RouterError, wait_s: float
) -> None:
    application = Refusing(error)
    answer = await Lines(application)(EVERYTHING, b"{}", "")
    assert application.counted == [error]
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (429, error.code)
    assert again(answer.status, answer.headers, answer.sent, Tries()) == (wait_s, Tries(1, 0))
