"""Unit tests capture the warnings of the product, whatever other tests did to its loggers."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _captured(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let `ray.serve` reach the handler of `caplog`: `ray.init` in the same process cuts `ray` off,
    and the reader of vLLM's log raises the level of all handlers that it finds.
    """
    caplog.handler.setLevel(logging.NOTSET)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.serve")]
    before = [(one, one.level, one.propagate, one.disabled) for one in loggers]
    for one in loggers:
        one.setLevel(logging.NOTSET)
        one.propagate, one.disabled = True, False
    yield
    for one, level, propagate, disabled in before:
        one.setLevel(level)
        one.propagate, one.disabled = propagate, disabled
