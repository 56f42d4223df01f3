"""Unknown fields of a body: refused, or dropped and reported if the operator allows it.

A field that resembles a known one is always refused, because it is probably misspelt.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from router.errors import InvalidValue, UnknownField, suggest

MAX_IGNORED = 32  # unknown fields in one body
HEADER = "x-ignored-fields"
_CHARACTERS = 80
_SAFE = " !#$&'*+.^`|~:;=?@[]{}()<>/"

# True: all unknown fields are dropped; a tuple: only these names
Ignore = bool | tuple[str, ...]  # stored with batches too


def unknown(
    names: Iterable[str], fields: Sequence[str], ignore: Ignore, own: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the `names` that are dropped.

    `fields` are the valid fields of the body, `own` further fields that this service has elsewhere.
    Raises UnknownField for the first name that is not dropped, and InvalidValue for too many names.
    """
    dropped = []
    for name in names:
        allowed = ignore is True or (ignore is not False and name in ignore)
        if not allowed or suggest(name, (*fields, *own)):
            raise UnknownField(name, fields)
        dropped.append(name)
        if len(dropped) > MAX_IGNORED:
            raise InvalidValue(
                f"the body has more than {MAX_IGNORED} fields that are not known here; "
                "leave them out"
            )
    return tuple(dropped)


def header(names: Iterable[str]) -> str:
    """The value of the header for these names."""
    return ", ".join(quote(name[:_CHARACTERS], safe=_SAFE) for name in names)
