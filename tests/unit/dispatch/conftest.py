"""Dispatchers that are closed after the test."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.dispatch_bench import Bench
from tests.support.hand_transport import settle


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Bench]]:
    """Make a bench that is closed after the test."""
    benches = list[Bench]()

    def make(*args: Any, **options: Any) -> Bench:
        benches.append(Bench(*args, **options))
        return benches[-1]

    yield make
    for made in benches:
        await made.dispatcher.close()
        await settle()
        made.ledger.assert_empty()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    made = make_bench()
    made.dispatcher.replicas_changed(["a"])
    return made
