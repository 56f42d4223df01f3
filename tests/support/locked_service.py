"""A service with keys, and the same without any."""

from typing import Any

from deployments.ingress.asgi import HttpRequest, Message
from router.keys import hash_of, new_key

NAMES = ("all", "fast", "limited", "bulk", "admin")
KEYS = {name: new_key(bytes([index + 1]) * 32) for index, name in enumerate(NAMES)}
MODEL: dict[str, Any] = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 4096}
OPEN: dict[str, Any] = {
    "models": {"small": MODEL, "large": MODEL},
    "tiers": {"fast": "small", "best": "large"},
    "routing": {"rules": [{"name": "long", "when": {"min_tokens": 1000}, "floor": "best"}]},
    "collections": {"docs": "small/8", "shop": "large/8"},
}
LOCKED: dict[str, Any] = OPEN | {
    "keys": {name: {"hash": hash_of(key)} for name, key in KEYS.items()}
    | {
        "fast": {"hash": hash_of(KEYS["fast"]), "tiers": ["fast"], "collections": ["docs"]},
        "limited": {
            "hash": hash_of(KEYS["limited"]),
            "requests_per_minute": 20,
            "tokens_per_minute": 3000,
        },
        "bulk": {"hash": hash_of(KEYS["bulk"]), "priorities": ["bulk"]},
        "admin": {"hash": hash_of(KEYS["admin"]), "admin": True},
    },
    "cors": {"origins": ["https://app.example.com"]},
}


def http_request(path: str, headers: dict[str, str], peer: str | None = None) -> HttpRequest:
    async def receive() -> Message:
        raise AssertionError("nobody reads a body")

    scope: dict[str, Any] = {
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    return HttpRequest(
        scope if peer is None else scope | {"client": (peer, 1)}, receive, alone=True
    )
