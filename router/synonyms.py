"""Accept spellings of field values that mean the same to every client that sends them."""

from typing import Any

from pydantic import BeforeValidator


def in_lower_case(value: Any) -> Any:
    """A text in lower case, anything else as it is."""
    return value.lower() if type(value) is str else value


ANY_CASE = BeforeValidator(in_lower_case)
