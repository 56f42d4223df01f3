"""Bodies of requests, read under the default limits."""

import json
from typing import Any

from router.config import Limits
from router.schema import EmbeddingsRequest, parse

LIMITS = Limits()


def read(headers: dict[str, str] | None = None, /, **body: Any) -> EmbeddingsRequest:
    return parse(json.dumps({"input": "text", **body}).encode(), headers or {}, LIMITS)
