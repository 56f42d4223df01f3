"""The laws of a body: whatever it holds, it is read or refused."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.config import Limits
from router.errors import RouterError
from router.schema import FIELDS, EmbeddingsRequest, parse

LIMITS = Limits()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def outcome(body: bytes) -> EmbeddingsRequest | RouterError:
    try:
        return parse(body, {}, LIMITS)
    except RouterError as error:
        return error


@given(st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), json_values))
def test_no_body_raises_anything_but_a_router_error(body: bytes) -> None:
    refused = outcome(body)
    assert isinstance(refused, RouterError)
    assert refused.status == 400


@given(
    st.fixed_dictionaries(
        {"input": json_values}, optional={name: json_values for name in FIELDS if name != "input"}
    )
)
def test_no_object_raises_anything_but_a_router_error(body: dict[str, Any]) -> None:
    result = outcome(json.dumps(body).encode())
    if isinstance(result, RouterError):
        assert result.status == 400
        assert result.param is None or result.param in FIELDS
    else:
        assert result.items >= 1
        assert (result.texts is None) != (result.ids is None)
