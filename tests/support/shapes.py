"""A service that clients of other embedding APIs ask, with keys and without."""

from typing import Any

import httpx

from router.keys import hash_of
from tests.support.local_service import FAKE
from tests.support.named_service import ARGS as NAMED

ARGS = NAMED | {"models": NAMED["models"] | {"reader": FAKE}}
TEXTS = ["one text", "another"]
KEY, SHOP, BARE = (f"er-{name:-<32}" for name in ("all", "shop", "bare"))
LOCKED = ARGS | {
    "keys": {
        "all": {"hash": hash_of(KEY)},
        "shop": {"hash": hash_of(SHOP), "collections": ["shop"], "requests_per_minute": 3},
        "bare": {"hash": hash_of(BARE), "defaults": {"space": "docs", "input_type": "query"}},
    }
}
# a body that is answered, at the paths of each handler that embeds
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "embed": ("/v1/embeddings", {"input": TEXTS, "model": "small"}),
    "azure_embed": ("/openai/deployments/small/embeddings?api-version=1", {"input": TEXTS}),
    "cohere_embed": ("/v2/embed", {"texts": TEXTS, "model": "small"}),
    "ollama_embed": ("/api/embed", {"input": TEXTS, "model": "small"}),
    "tei_embed": ("/embed", {"inputs": TEXTS}),
}


def is_error_of(handler: str, answer: httpx.Response) -> bool:
    """Whether an error is in the form of the API that it came by."""
    body = answer.json()
    if handler == "cohere_embed":
        return list(body) == ["message"]
    if handler == "ollama_embed":
        return list(body) == ["error"] and isinstance(body["error"], str)
    if handler == "tei_embed":
        return list(body) == ["error", "error_type"] and isinstance(body["error"], str)
    return list(body["error"]) == ["message", "type", "param", "code"]
