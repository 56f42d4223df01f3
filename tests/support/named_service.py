"""A service with models, aliases and collections, and keys with defaults."""

from typing import Any

from router.keys import hash_of

MODEL = {
    "engine": {"kind": "fake"},
    "dimensions": 8,
    "max_tokens": 64,
    "matryoshka": [4],
    "prompts": {"query": "{instruction} query: {text}", "document": "document: {text}"},
}
ARGS: dict[str, Any] = {
    "models": {"small": MODEL | {"aliases": ["text-embedding-3-small"]}, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "routing": {"default_budget_ms": 4000},
    "collections": {
        "docs": {"space": "large/8", "input_type": "document"},
        "shop": "small/4",
        "my faq": "small/8",
    },
}
NAMES = ("free", "reader", "bulk", "shop", "limited", "tight")
KEYS = {name: f"er-{name:-<32}" for name in NAMES}
DEFAULTS: dict[str, Any] = {
    "free": {},
    "reader": {
        "defaults": {
            "space": "docs",
            "input_type": "query",
            "latency_budget_ms": 900,
            "priority": "bulk",
        }
    },
    "bulk": {"priorities": ["bulk"], "defaults": {"quality": "best"}},
    "shop": {"collections": ["shop"], "defaults": {"space": "shop"}},
    "limited": {"models": ["small"], "collections": ["shop"]},
    "tight": {"models": ["small"], "defaults": {"quality": "fast", "space": "small/4"}},
}
LOCKED = ARGS | {"keys": {name: {"hash": hash_of(KEYS[name])} | DEFAULTS[name] for name in NAMES}}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[name]}"}
