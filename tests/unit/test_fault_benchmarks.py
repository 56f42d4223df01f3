"""The marks and attacks of `python -m benchmarks abuse`."""

import pytest

from benchmarks.abuse import MARKS, MIDDLE, SHORT
from benchmarks.abuse_attacks import ATTACKS


def test_a_mark_is_the_larger_of_both() -> None:
    assert MARKS[SHORT].allows(0.01) == pytest.approx(0.05)
    assert MARKS[MIDDLE].allows(0.2) == pytest.approx(1.0)


def test_every_attack_says_what_it_is() -> None:
    assert all(attack.row and attack.at_once > 0 for attack in ATTACKS.values())
