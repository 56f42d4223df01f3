"""The base class of the service's errors, and helpers for their messages."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from itertools import islice
from typing import ClassVar, Literal, Self

import orjson

MAX_NAMES = 1000  # that are compared with a wrong one: a caller waits for it
ALIKE = 0.7  # names of embedding models have much in common
SIDES: tuple[Literal["query", "document"], ...] = ("query", "document")
_SIDE_WORDS = {  # words that are taken for a side
    "query": "query",
    "queries": "query",
    "document": "document",
    "doc": "document",
    "docs": "document",
    "passage": "document",
}
_WITH_SIDE = re.compile(r"(.+)[-_: ](\w+)")
_SIDE_ENDINGS = tuple(f"-{side}" for side in SIDES)
_BUDGET = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*([a-z]*)\s*")
_UNITS_MS = {"": 1, "m": 1, "ms": 1, "msec": 1, "s": 1000, "sec": 1000}
_NAMED = re.compile("\x1f([^\x1f]*)\x1f(\\[[0-9]+\\])?")


def field(name: str) -> str:
    """Mark a field's name, or a value for it, in a message: each API has its own names."""
    return f"\x1f{name}\x1f"


INPUT = field("input")
CUT = field('"truncate": "end"')
AS_QUERY = field('"input_type": "query"')


class RouterError(Exception):
    """A response that is not 200: status, the four keys of an OpenAI error, and headers (names in
    lower case).
    """

    status: ClassVar[int]
    code: ClassVar[str]
    counted = False  # whether it was counted in the metrics

    def __init__(
        self, message: str, param: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.message = message
        super().__init__(self.message)
        self.param = param
        self.headers = headers or {}

    @property
    def message(self) -> str:
        """The problem and its remedy, with the names of the API that was called."""
        return self._message.replace("\x1f", "")

    @message.setter
    def message(self, message: str) -> None:
        self._message = message

    def copied(self) -> Self:
        """An equal error: one that several requests could share is not changed for one of them."""
        made = type(self).__new__(type(self), *self.args)
        vars(made).update(vars(self), headers=dict(self.headers))
        return made

    def renamed(self, names: Mapping[str, str]) -> Self:
        """The error with other names of fields, or of single items such as `input[0]`."""

        def new_name(found: re.Match[str]) -> str:
            name, place = found[1], found[2] or ""
            if new := names.get(name + place):
                return field(new)
            return field(names.get(name, name)) + place

        made = self.copied()
        made._message = _NAMED.sub(new_name, self._message)
        made.param = names.get(self.param or "", self.param)
        return made

    @property
    def type(self) -> str:
        """OpenAI's error type."""
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


def suggest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str:
    """`; did you mean X?` if the name resembles a valid one, else an empty string."""
    return did_you_mean(_nearest(name, valid, cutoff))


def nearest_name(
    requested: str, valid: Iterable[str], suffixes: Sequence[str] | None = None
) -> str | None:
    """The model, alias, tier, space or collection that `requested` resembles, as a whole or without
    its suffixes, hub prefix or size; None if it resembles none.

    `suffixes` are the sides that can follow a name, and then a budget can; None: neither can.
    """
    names = list(islice(valid, MAX_NAMES))
    bare, _, budget = requested[:80].partition("@")
    end = "" if suffixes is None else _budget_suffix(budget)
    whole, sided = _nearest_part(bare, names), None
    if (found := _WITH_SIDE.fullmatch(bare)) and (word := _nearest(found[2], _SIDE_WORDS, ALIKE)):
        plain = [name for name in names if not name.lower().endswith(_SIDE_ENDINGS)]
        if (sided := _nearest_part(found[1], plain)) is not None:
            side = _SIDE_WORDS[word]
            sided = f"{sided}-{side}" if side in (suffixes or ()) else sided
    near = _nearest(bare, [item for item in (whole, sided) if item is not None], 0.0)
    return None if near is None else near + end


def _nearest_part(bare: str, names: Sequence[str]) -> str | None:
    head, _, last = bare.rpartition("/")
    parts = bare, head if last.isdecimal() else last
    return next((near for part in parts if (near := _nearest(part, names, ALIKE))), None)


def _budget_suffix(text: str) -> str:
    """`@<n>ms` for a budget in other words, such as `1s` or `50`; empty if it is none."""
    found = _BUDGET.fullmatch(text.lower())
    if found is None or (unit_ms := _UNITS_MS.get(found[2])) is None or not float(found[1]):
        return ""
    return f"@{(Decimal(found[1]) * unit_ms).normalize():f}ms"


def did_you_mean(name: str | None) -> str:
    """`; did you mean X?`, or an empty string without a name."""
    return "" if name is None else f"; did you mean {name!r}?"


def _nearest(name: str, valid: Iterable[str], cutoff: float) -> str | None:
    """The valid name that resembles `name` most, in any case."""
    by_lower = {
        item.lower(): item for item in reversed([*map(str, valid)])
    }  # the first has its case
    near = get_close_matches(name[:80].lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def shorten(text: str, characters: int = 80) -> str:
    """Quote a caller's own text and shorten it for a message."""
    return repr(text if len(text) <= characters else text[: characters - 3] + "...")


def retry_after(seconds: float) -> dict[str, str]:
    """Both headers: whole seconds for HTTP, milliseconds for OpenAI's clients; never 0."""
    milliseconds = max(1, math.ceil(seconds * 1000)) if math.isfinite(seconds) else 60_000
    return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
