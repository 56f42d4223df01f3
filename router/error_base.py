"""What every error of the service has, and the words that its messages are made with."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

import orjson


class RouterError(Exception):
    """An answer that is not 200: status, the four keys of an OpenAI error, and headers (names in
    lower case).
    """

    status: ClassVar[int]
    code: ClassVar[str]
    counted = False  # whether the service has told the metrics of it

    def __init__(
        self, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers = headers or {}

    @property
    def type(self) -> str:
        """OpenAI's family of the error."""
        if self.status >= 500:
            return "server_error"
        return "rate_limit_error" if self.status == 429 else "invalid_request_error"


def render(error: RouterError) -> bytes:
    """The JSON body of an error: all four keys, always."""
    return orjson.dumps(
        {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    )


def suggest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` for a name that resembles a valid one, else nothing."""
    near = get_close_matches(name[:80].lower(), list(valid), n=1, cutoff=0.6)
    return f"; did you mean {str(near[0])!r}?" if near else ""  # a member of an enum by its value


def shorten(text: str, characters: int = 80) -> str:
    """A caller's own text, quoted, short enough for a message."""
    return repr(text if len(text) <= characters else text[: characters - 3] + "...")


def retry_after(seconds: float) -> dict[str, str]:
    """Both forms of the header: whole seconds for HTTP, milliseconds for OpenAI's clients; never a
    time of 0.
    """
    milliseconds = max(1, math.ceil(seconds * 1000)) if math.isfinite(seconds) else 60_000
    return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
