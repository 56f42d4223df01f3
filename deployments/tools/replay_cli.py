"""`embedding-router replay`: decide a log's requests again, under its own policy or another."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click
import orjson

from deployments.tools.policy_file import read_policy
from router.codes import LANGUAGES, SCRIPTS
from router.decision_log import LogError, Logged
from router.decision_log import read as read_log
from router.replay import REFUSED, LogSlice, Side, Summary, replay

MOST_BROKEN = 10  # line numbers in a message
MOST_SLICES = 12  # kinds of texts in a table


@click.command()
@click.argument(
    "logs",
    nargs=-1,
    required=True,
    metavar="LOG...",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--policy",
    "policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A Serve config, or a file with only `routing:` and `tiers:`; without it the log's own "
    "policy.",
)
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def main(logs: tuple[Path, ...], policy: Path | None, as_json: bool) -> None:
    """Decide the requests of LOG again, and say what moves.

    A LOG is what `decision_log:` in the config makes; give PATH.1 before PATH to read the older
    part too. Each request meets the loads that were written with it, so times are predictions; what
    another policy would do to the loads is not shown. With --policy it says which languages and
    scripts move, and warns where the config's figures say that quality falls. Without --policy
    every decision must come out as it is in the log: exit status 1 if one does not.
    """
    try:
        summary = replay(
            chain.from_iterable(map(_entries, logs)),
            None if policy is None else read_policy(policy),
        )
    except LogError as error:
        raise click.ClickException(str(error)) from None
    except ValueError as error:
        raise click.ClickException(f"{policy}: {error}") from None
    if as_json:
        click.echo(orjson.dumps(summary.as_dict(), option=orjson.OPT_INDENT_2))
    else:
        click.echo("\n".join(_table(summary, policy)))
    if policy is None and summary.changed:
        raise click.ClickException(
            f"{summary.changed} decisions differ: this version decides otherwise than the one "
            "that logged"
        )


def _entries(path: Path) -> Iterator[Logged]:
    with path.open("rb") as lines:
        try:
            broken = list[int]()
            yield from read_log(lines, broken.append)
        except LogError as error:
            raise LogError(f"{path}: {error}") from error
    if broken:
        shown = ", ".join(map(str, broken[:MOST_BROKEN]))
        rest = f" and {more} more" if (more := len(broken) - MOST_BROKEN) > 0 else ""
        click.echo(
            f"{path}: skipped broken line{'s' if len(broken) > 1 else ''} {shown}{rest}; what "
            "stands there cannot be decided again",
            err=True,
        )


def _table(summary: Summary, policy: Path | None) -> Iterator[str]:
    if not summary.requests:
        yield "the log has no requests"
        return
    before, after, measured = summary.before, summary.after, summary.measured
    name = "again" if policy is None else policy.name
    yield f"{summary.requests} requests, {summary.budgets} with a latency budget"
    yield ""
    yield f"{'':<26}{'as logged':>14}{name:>20}"
    for label, key in _ROWS:
        yield f"{label:<26}{_cell(before, key):>14}{_cell(after, key):>20}"
    models = [model for model in {**before.models, **after.models} if model != REFUSED] + [REFUSED]
    for model in models:
        yield f"{model:<26}{before.models.get(model, 0):>14}{after.models.get(model, 0):>20}"
    yield ""
    yield (
        f"measured: p50 {_ms(measured.p50_s)} ms, p95 {_ms(measured.p95_s)} ms, "
        f"{measured.misses} answered after their budget"
    )
    yield ""
    if not summary.moved:
        yield "every request goes where it went" + (
            "" if summary.changed else ", for the same reason"
        )
    for (old, new), reasons in summary.moved.items():
        counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        yield f"{old} -> {new}: {sum(reasons.values())} ({counts})"
    yield from _moved_texts(summary)


def _moved_texts(summary: Summary) -> Iterator[str]:
    """List which texts moved, and warn if the config's figures say that quality falls."""
    if not summary.slices:
        return
    yield ""
    yield f"{'texts that moved':<26}{'requests':>14}{'moved':>10}{'quality':>20}"
    for one in summary.slices[:MOST_SLICES]:
        yield (
            f"{_named(one):<26}{one.requests:>14}{one.moved:>10}"
            f"{_points(one.quality_before)} -> {_points(one.quality_after)}"
        )
    if (rest := len(summary.slices) - MOST_SLICES) > 0:
        yield f"and {rest} more kinds of texts; --json lists them all"
    if falls := [one for one in summary.slices if one.falls]:
        shown = ", ".join(
            f"{_named(one)} {_points(one.quality_before).strip()} -> "
            f"{_points(one.quality_after).strip()}"
            for one in falls[:MOST_SLICES]
        )
        yield ""
        yield (
            f"warning: by the config's figures quality falls for {shown}. Keep the rules for "
            "these texts, or measure them first (embedding-router advise)."
        )


def _named(one: LogSlice) -> str:
    if one.dimension == "kind":
        return f"{one.value} texts"
    names = LANGUAGES if one.dimension == "language" else SCRIPTS
    name = names.get(one.value, f"{one.value} language" if one.dimension == "language" else "")
    return f"{name or one.value}" + (" script" if one.dimension == "script" else "")


def _points(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.2f}':>10}"


_ROWS = (
    ("predicted p50, ms", "p50_s"),
    ("predicted p95, ms", "p95_s"),
    ("mean quality, points", "quality"),
    ("degraded", "degraded"),
    ("predicted to miss", "misses"),
    ("expected recall", "expected_recall"),
    ("recall assumed", "assumed_recall"),
)


def _cell(side: Side, key: str) -> str:
    value: Any = getattr(side, key)
    if key.endswith("_s"):
        return _ms(value)
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"
