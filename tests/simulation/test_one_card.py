"""The pretend card of `python -m benchmarks one_card` shares its time as the figures assume."""

import asyncio

import pytest

from benchmarks.one_card import Card, Load, as_served, beside, config, median, on_virtual_clock
from tests.support.virtual_loop import VirtualLoop


def test_steps_on_one_card_share_its_time() -> None:
    loop, ended = VirtualLoop(), dict[str, float]()
    card = Card(loop)

    async def step(model: str, start_s: float, seconds: float) -> None:
        await asyncio.sleep(start_s)
        await card.run(model, seconds)
        ended[model] = loop.time()

    async def run() -> None:
        await asyncio.gather(step("a", 0.0, 1.0), step("b", 0.0, 2.0), step("c", 10.0, 1.0))

    loop.run_until_complete(run())
    loop.close()
    assert ended == pytest.approx({"a": 2.0, "b": 3.0, "c": 11.0})


@pytest.mark.parametrize(
    ("others_s", "expected_s"), [([], 2.0), ([0.5], 2.5), ([9.0], 4.0), ([0.5, 9.0], 4.5)]
)
def test_work_beside_other_work_takes_longer_by_the_shorter_of_the_two(
    others_s: list[float], expected_s: float
) -> None:
    assert beside(2.0, others_s) == expected_s


def test_predictions_on_one_card_are_worse_without_the_work_of_the_neighbours() -> None:
    apart, unaware, aware = (
        median(as_served(on_virtual_clock(config(None), Load(0.6), 20.0, together, named, 0)))
        for together, named in ((False, False), (True, False), (True, True))
    )
    assert unaware > 1.5 * apart
    assert aware < 0.75 * unaware
