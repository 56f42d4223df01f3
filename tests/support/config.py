"""A small config with every kind of section, and a function that changes one value in it."""

from typing import Any

GONE = object()

ARGS: dict[str, Any] = {
    "models": {
        "small": {
            "engine": {"kind": "fake"},
            "dimensions": 64,
            "max_tokens": 512,
            "matryoshka": [32],
            "quality": {"en": 60},
        },
        "large": {
            "engine": {"kind": "vllm", "source": "Org/large"},
            "tokenizer": "Org/large",
            "dimensions": 128,
            "max_tokens": 512,
            "matryoshka": {"min": 32},
            "prompts": {"query": "q: {text}"},
            "curve": {"base_s": 0.01},
        },
    },
    "tiers": {"fast": "small", "best": "large"},
    "routing": {"rules": [{"name": "long", "when": {"min_tokens": 100}, "floor": "best"}]},
    "limits": {"max_items": 10},
}


def put(data: Any, place: str, value: Any) -> None:
    """Set the value at a dotted path such as `a.0.b`; GONE removes the key."""
    *parts, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in parts:
        data = data[part]
    if value is GONE:
        del data[last]
    else:
        data[last] = value
