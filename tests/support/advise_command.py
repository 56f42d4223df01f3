"""`embedding-router advise`, and a service for it."""

from typing import Any

from click.testing import CliRunner, Result

from router.cli import main
from tests.support.local_service import FAKE, WORDLLAMA

# vectors that mean nothing
NOISE: dict[str, Any] = {
    **FAKE,
    "engine": {"kind": "fake", "base_s": 0.02},
    "dimensions": 64,
}


ARGS = {
    "models": {"noise": NOISE, "wordllama-256": WORDLLAMA},
    "tiers": {"fast": "noise", "best": "wordllama-256"},
    "cache": {"max_bytes": 0},
}


def advise(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))
