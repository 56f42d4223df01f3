"""Unit tests capture the warnings of the product, whatever other tests did to its logger."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _captured() -> Iterator[None]:
    logger = logging.getLogger("ray.serve")
    level, propagate, disabled = logger.level, logger.propagate, logger.disabled
    logger.setLevel(logging.NOTSET)
    logger.propagate, logger.disabled = True, False
    yield
    logger.setLevel(level)
    logger.propagate, logger.disabled = propagate, disabled
