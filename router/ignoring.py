"""Unknown fields of a body: refused, or dropped and named where the operator says so.

A field that resembles one of ours is refused in any case, for it is most likely misspelt.
"""

from collections.abc import Iterable, Sequence
from urllib.parse import quote

from router.errors import InvalidValue, UnknownField, suggest

MOST = 32  # unknown fields of one body that are looked at
HEADER = "x-ignored-fields"
_CHARACTERS = 80
_SAFE = " !#$&'*+.^`|~:;=?@[]{}()<>/"

# True: every unknown field is dropped; else those of these names
Ignore = bool | tuple[str, ...]  # stored with batches too


def unknown(
    names: Iterable[str], fields: Sequence[str], ignore: Ignore, own: Sequence[str] = ()
) -> tuple[str, ...]:
    """Those of `names` that are dropped; raises UnknownField for the first that is not.

    `fields` are those that the body may have, `own` more that this service has elsewhere.
    """
    dropped = []
    for name in names:
        allowed = ignore is True or (ignore is not False and name in ignore)
        if not allowed or suggest(name, (*fields, *own)):
            raise UnknownField(name, fields)
        dropped.append(name)
        if len(dropped) > MOST:
            raise InvalidValue(
                f"the body has more than {MOST} fields that are not known here; leave them out"
            )
    return tuple(dropped)


def header(names: Iterable[str]) -> str:
    """The names as a header has them."""
    return ", ".join(quote(name[:_CHARACTERS], safe=_SAFE) for name in names)
