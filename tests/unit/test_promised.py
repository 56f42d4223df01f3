"""What users' files, scripts and dashboards name does not change; additions are recorded."""

from functools import cache

import pytest

from router.decision_log import Logged, read
from tests.support import promised
from tests.support.promised import ADDED, LISTS, PROMISED, REMOVED, stored

current = cache(promised.current)


@pytest.mark.parametrize("name", LISTS)
def test_what_is_promised_is_still_there(name: str) -> None:
    promises = (stored(PROMISED, name) | stored(ADDED, name)) - stored(REMOVED, name)
    missing = promises - current(name)
    if name == "config":  # a key that a file may now leave out breaks no file
        missing = {line for line in missing if not line.endswith(" required")}
    assert not missing, (
        f"promised in {name}.txt, and missing or changed: {sorted(missing)}. "
        "A user's file may name it: bring it back."
    )


@pytest.mark.parametrize("name", LISTS)
def test_what_is_new_is_recorded(name: str) -> None:
    new = current(name) - stored(PROMISED, name) - stored(ADDED, name)
    assert not new, (
        f"new in {name}: {sorted(new)}. If this is intended, run "
        "`python -m tests.support.promised` and describe it in CHANGELOG.md."
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in REMOVED.glob("*")))
def test_what_is_recorded_as_removed_was_promised_and_is_gone(name: str) -> None:
    removed = stored(REMOVED, name)
    assert removed
    assert removed <= stored(PROMISED, name)
    assert not removed & current(name)


def test_every_list_has_promises_and_every_file_is_a_list() -> None:
    assert {path.stem for path in PROMISED.glob("*.txt")} == set(LISTS)
    assert {path.stem for path in ADDED.glob("*")} <= set(LISTS)
    for name in LISTS:
        assert stored(PROMISED, name), name
        assert not stored(PROMISED, name) & stored(ADDED, name), name


def test_a_decision_log_of_version_0_1_is_read() -> None:
    with (PROMISED / "decisions.jsonl").open("rb") as lines:
        logged = list(read(lines))
    assert all(type(one) is Logged for one in logged)
    assert [one.entry.outcome for one in logged] == [*["answered"] * 4, "budget_unreachable"]
    assert [one.entry.decision.model for one in logged] == [
        "small",
        "large",
        "small",
        "large",
        None,
    ]
