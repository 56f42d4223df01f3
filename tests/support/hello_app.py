"""A Serve application that starts at once, for tests of its surroundings."""

import asyncio
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response


@serve.deployment(name="hello", max_ongoing_requests=100, ray_actor_options={"num_cpus": 0.1})
class Hello:
    """Answer every path with a fixed text, or fail to start for the given reason.

    A query `until=FILE` makes it write FILE.here and wait for FILE.
    """

    def __init__(self, word: str, failure: str | None) -> None:
        if failure:
            raise RuntimeError(failure)
        self._word = word

    async def __call__(self, request: Request) -> Response:
        if (until := request.query_params.get("until")) is not None:
            Path(f"{until}.here").touch()  # noqa: ASYNC240
            while not Path(until).exists():  # noqa: ASYNC110, ASYNC240  # another process has no event for it
                await asyncio.sleep(0.02)
        return PlainTextResponse(self._word)


def build(args: dict[str, Any]) -> serve.Application:
    return Hello.bind(args.get("word", ""), args.get("failure"))  # type: ignore[attr-defined]
