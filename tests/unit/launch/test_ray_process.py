"""Calls to a Ray that can die."""

import threading
import time

import pytest

from deployments.launch.ray_process import unless_gone


def alive() -> list[str]:
    return []


class Dies:
    """A Ray of which a process is missing from the third look on."""

    looks = 0

    def __call__(self) -> list[str]:
        self.looks += 1
        return ["raylet"] if self.looks > 2 else []


def test_a_call_has_its_result_or_its_error() -> None:
    assert unless_gone(lambda: 5, alive) == 5
    for error in (ValueError("own"), TimeoutError("own")):

        def fails(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error), match="own"):
            unless_gone(fails, alive)


def test_a_slow_call_is_waited_for_while_ray_lives() -> None:
    assert unless_gone(lambda: time.sleep(0.6) or 5, alive) == 5  # type: ignore[func-returns-value]


def test_a_call_that_waits_for_a_dead_ray_is_left_behind() -> None:
    never = threading.Event()
    ray = Dies()
    with pytest.raises(RuntimeError, match="raylet died"):
        unless_gone(never.wait, ray)
    assert ray.looks == 3
    never.set()


def test_nothing_is_called_where_ray_is_dead_already() -> None:
    called = list[int]()
    with pytest.raises(RuntimeError, match="gcs_server and raylet died"):
        unless_gone(lambda: called.append(1), lambda: ["gcs_server", "raylet"])
    assert not called
