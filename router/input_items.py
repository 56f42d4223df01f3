"""Check the `input` of a request: one text, several texts, or token ids.

This is faster than a schema, and the error message names the first invalid item.
"""

from collections.abc import Sequence

import numpy as np

from router.arrays import TokenIds
from router.body_errors import kind_of
from router.config import Limits
from router.errors import INPUT, InvalidValue, MaxTokensPerRequest

LARGEST_ID = 2**31 - 1


def read_input(
    value: object, limits: Limits
) -> tuple[Sequence[str] | None, Sequence[TokenIds] | None]:
    """Return texts or token ids.

    Raises MaxTokensPerRequest, or an InvalidValue that names the first invalid item.
    """
    if type(value) is str:
        if not value:
            raise InvalidValue(f"{INPUT} is an empty string; send text", "input")
        return (value,), None
    if type(value) is not list:
        raise InvalidValue(
            f"{INPUT} must be a string or an array of strings, it is {kind_of(value)}", "input"
        )
    if not value:
        raise InvalidValue(f"{INPUT} is an empty array; send at least one text", "input")
    first, max_items = type(value[0]), limits.max_items
    if first is int:
        _check_count(len(value), limits)
        return None, (_read_ids(value, INPUT),)
    if len(value) > max_items:
        raise InvalidValue(
            f"{INPUT} has {len(value)} items; the limit is {max_items}; send them in "
            "several requests",
            "input",
        )
    if first is str:
        _check_alike(value, str, INPUT, "a string")
        if "" in value:
            raise InvalidValue(
                f"{INPUT}[{value.index('')}] is an empty string; leave it out", "input"
            )
        return tuple(value), None
    if first is list:
        _check_alike(value, list, INPUT, "an array of token ids")
        _check_count(sum(map(len, value)), limits)
        return None, tuple(_read_ids(ids, f"{INPUT}[{index}]") for index, ids in enumerate(value))
    raise InvalidValue(f"{INPUT}[0] must be a string, it is {kind_of(value[0])}", "input")


def _check_count(tokens: int, limits: Limits) -> None:
    """Raise MaxTokensPerRequest before the ids are checked one by one."""
    if tokens > limits.max_tokens_per_request:
        raise MaxTokensPerRequest(tokens, limits.max_tokens_per_request)


def _read_ids(value: list[object], where: str) -> TokenIds:
    if not value:
        raise InvalidValue(f"{where} is an empty array; leave it out", "input")
    _check_alike(value, int, where, "a token id")
    try:
        ids = np.array(value, dtype=np.int64)
        valid = bool(ids.min() >= 0 and ids.max() <= LARGEST_ID)
    except OverflowError:
        valid = False
    if not valid:
        raise InvalidValue(
            f"{where} holds a token id that is not between 0 and {LARGEST_ID}", "input"
        )
    return ids.astype(np.int32)


def _check_alike(items: list[object], wanted: type, where: str, noun: str) -> None:
    if set(map(type, items)) == {wanted}:
        return
    index = next(i for i, item in enumerate(items) if type(item) is not wanted)
    raise InvalidValue(
        f"{where}[{index}] must be {noun} like the items before it, it is {kind_of(items[index])}"
        if index
        else f"{where}[0] must be {noun}, it is {kind_of(items[0])}",
        "input",
    )
