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

MAX_BROKEN = 10  # line numbers in a message
MAX_SLICES = 12  # kinds of texts in a table


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
    """Decide the requests of LOG again, and show what moves.

    LOG is a file written by `decision_log:` of the config; give PATH.1 before PATH to read the
    older part too. Each request is decided with the loads logged with it, so times are predictions;
    the effect of another policy on the loads is not shown. With --policy the output lists the
    languages and scripts that move, and warns if by the config's figures quality falls. Without
    --policy every decision must equal the logged one; otherwise the exit status is 1.
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
        shown = ", ".join(map(str, broken[:MAX_BROKEN]))
        rest = f" and {more} more" if (more := len(broken) - MAX_BROKEN) > 0 else ""
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
    for item in summary.slices[:MAX_SLICES]:
        yield (
            f"{_named(item):<26}{item.requests:>14}{item.moved:>10}"
            f"{_points(item.quality_before)} -> {_points(item.quality_after)}"
        )
    if (rest := len(summary.slices) - MAX_SLICES) > 0:
        yield f"and {rest} more kinds of texts; --json lists them all"
    if falls := [item for item in summary.slices if item.falls]:
        shown = ", ".join(
            f"{_named(fall)} {_points(fall.quality_before).strip()} -> "
            f"{_points(fall.quality_after).strip()}"
            for fall in falls[:MAX_SLICES]
        )
        yield ""
        yield (
            f"warning: by the config's figures quality falls for {shown}. Keep the rules for "
            "these texts, or measure them first (embedding-router advise)."
        )


def _named(part: LogSlice) -> str:
    if part.dimension == "kind":
        return f"{part.value} texts"
    names = LANGUAGES if part.dimension == "language" else SCRIPTS
    name = names.get(part.value, f"{part.value} language" if part.dimension == "language" else "")
    return f"{name or part.value}" + (" script" if part.dimension == "script" else "")


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
