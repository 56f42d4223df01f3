"""A pytest plugin that lists skipped tests and the commands that run them; in CI, fail on a skip
that `tests/skips.toml` does not list. `make test` names a file for the lists of its two runs, and
prints it at the end.
"""

import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

SKIPS = Path(__file__).parents[1] / "skips.toml"
# By mark; the first that a test has is what runs it.
COMMANDS = {"long": "make test-long", "models": "make test"}
OTHERWISE = "make test without -m and -k"

LIST_FILE = "NOT_RUN_FILE"  # the environment variable with the file; else the list is printed
_OUTPUT = "deselected"  # what a worker hands to the process that started it

_deselected = pytest.StashKey[Counter[str]]()


def listed() -> dict[str, dict[str, str]]:
    """The skips that CI accepts, by test."""
    return {entry["test"]: entry for entry in tomllib.loads(SKIPS.read_text())["skip"]}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_deselected] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        asked = item.config.getoption("markexpr")
        marks = [mark for mark in COMMANDS if item.get_closest_marker(mark)]
        by_mark = any(mark in asked for mark in marks)
        item.config.stash[_deselected][marks[0] if by_mark else ""] += 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker of `-n` collects, and so deselects, the same tests."""
    before: Counter[str] = node.config.stash[_deselected]
    counted = Counter[str](getattr(node, "workeroutput", {}).get(_OUTPUT, {}))
    node.config.stash[_deselected] = before | counted


def _skipped(config: pytest.Config) -> list[tuple[str, str]]:
    """Each skipped test, or file, with its reason."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        return []
    reports = reporter.stats.get("skipped", ())
    skipped = ((one.nodeid, one.longrepr[2].removeprefix("Skipped: ")) for one in reports)
    return list(dict.fromkeys(skipped))  # every worker reports a file that it does not collect


def _unlisted(config: pytest.Config) -> list[str]:
    accepted = listed()
    return sorted({test for test, _ in _skipped(config) if test.partition("[")[0] not in accepted})


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        counted: Counter[str] = session.config.stash[_deselected]
        output[_OUTPUT] = dict(counted)
    if os.environ.get("CI") and _unlisted(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> Iterator[None]:
    yield
    lines = _lines(config)
    if file := os.environ.get(LIST_FILE):
        with Path(file).open("a", encoding="utf-8") as listing:
            listing.writelines(f"{line}\n" for line in lines)
    elif lines:
        terminalreporter.section("not run")
        for line in lines:
            terminalreporter.line(line)
    if os.environ.get("CI") and (unlisted := _unlisted(config)):
        terminalreporter.section("skips that tests/skips.toml does not list", red=True)
        for test in unlisted:
            terminalreporter.line(test)


def _lines(config: pytest.Config) -> list[str]:
    accepted, reasons = listed(), Counter[str]()
    for test, reason in _skipped(config):
        entry = accepted.get(test.partition("[")[0])
        reasons[f"{reason} ({entry['run']})" if entry else reason] += 1
    lines = [f"{count} skipped: {reason}" for reason, count in reasons.most_common()]
    for mark, count in config.stash[_deselected].most_common():
        what = f"marked {mark}" if mark else "deselected"
        lines.append(f"{count} {what}: {COMMANDS.get(mark, OTHERWISE)}")
    return lines
