"""The checkpoints that real vLLM engines are tested with."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny_qwen3 import write_tiny_qwen3


@pytest.fixture(scope="session")
def tiny_qwen3() -> Iterator[Path]:
    """Qwen3-Embedding's architecture at the width of the 0.6B with random weights: 0.3 GB, gone
    afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="tiny-qwen3-") as folder:
        yield write_tiny_qwen3(Path(folder))
