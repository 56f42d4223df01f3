"""The `input` of a request: one text, texts, or token ids, checked faster than a schema could and
with a sentence for the first item that is wrong.
"""

from collections.abc import Sequence

import numpy as np

from router.arrays import TokenIds
from router.body_errors import kind_of
from router.config import Limits
from router.errors import InvalidValue, MaxTokensPerRequest

LARGEST_ID = 2**31 - 1


def read_input(
    value: object, limits: Limits, field: str = "input"
) -> tuple[Sequence[str] | None, Sequence[TokenIds] | None]:
    """Texts or token ids, or InvalidValue naming the first item that is wrong."""
    if type(value) is str:
        if not value:
            raise InvalidValue(f"{field} is an empty string; send text", field)
        return (value,), None
    if type(value) is not list:
        raise InvalidValue(
            f"{field} must be a string or an array of strings, it is {kind_of(value)}", field
        )
    if not value:
        raise InvalidValue(f"{field} is an empty array; send at least one text", field)
    first, max_items = type(value[0]), limits.max_items
    if first is int:
        _check_count(len(value), limits)
        return None, (_read_ids(value, field, field),)
    if len(value) > max_items:
        raise InvalidValue(
            f"{field} has {len(value)} items and a request may have {max_items}; send them in "
            "several requests",
            field,
        )
    if first is str:
        _check_alike(value, str, field, field, "a string")
        if "" in value:
            raise InvalidValue(
                f"{field}[{value.index('')}] is an empty string; leave it out", field
            )
        return tuple(value), None
    if first is list:
        _check_alike(value, list, field, field, "an array of token ids")
        _check_count(sum(map(len, value)), limits)
        return None, tuple(
            _read_ids(ids, f"{field}[{index}]", field) for index, ids in enumerate(value)
        )
    raise InvalidValue(f"{field}[0] must be a string, it is {kind_of(value[0])}", field)


def _check_count(tokens: int, limits: Limits) -> None:
    """Before they are looked at one by one."""
    if tokens > limits.max_tokens_per_request:
        raise MaxTokensPerRequest(tokens, limits.max_tokens_per_request)


def _read_ids(value: list[object], where: str, field: str) -> TokenIds:
    if not value:
        raise InvalidValue(f"{where} is an empty array; leave it out", field)
    _check_alike(value, int, where, field, "a token id")
    try:
        ids = np.array(value, dtype=np.int64)
        valid = bool(ids.min() >= 0 and ids.max() <= LARGEST_ID)
    except OverflowError:
        valid = False
    if not valid:
        raise InvalidValue(
            f"{where} holds a token id that is not between 0 and {LARGEST_ID}", field
        )
    return ids.astype(np.int32)


def _check_alike(items: list[object], wanted: type, where: str, field: str, noun: str) -> None:
    if set(map(type, items)) == {wanted}:
        return
    index = next(i for i, item in enumerate(items) if type(item) is not wanted)
    raise InvalidValue(
        f"{where}[{index}] must be {noun} like the items before it, it is {kind_of(items[index])}"
        if index
        else f"{where}[0] must be {noun}, it is {kind_of(items[0])}",
        field,
    )
