"""`embedding-router compare`: print GET /v1/compare as tables."""

from collections.abc import Iterator
from typing import Any

import click
import orjson

from deployments.tools.client import BASE_URL, START_ROUTER, BaseUrl, send_request

FEWEST = 30  # slices of fewer requests are hidden without --all


@click.command()
@click.option(
    "--base-url", type=BaseUrl(), default=BASE_URL, show_default=True, help="A running router."
)
@click.option(
    "--api-key",
    envvar="EMBEDDING_ROUTER_API_KEY",
    help="An admin's key; or EMBEDDING_ROUTER_API_KEY.",
)
@click.option(
    "--all", "all_slices", is_flag=True, help=f"Also slices of fewer than {FEWEST} requests."
)
@click.option("--json", "as_json", is_flag=True, help="The answer as it came.")
def main(base_url: str, api_key: str | None, all_slices: bool, as_json: bool) -> None:
    """Show what `compare.shadow` and `compare.canary` of the config have found since they began.

    Every router replica counts for itself, and one of them answers. With several replicas, the
    output covers only the traffic of that one.
    """
    answer = orjson.loads(send_request(base_url, "/v1/compare", api_key, None, START_ROUTER))
    if as_json:
        click.echo(orjson.dumps(answer, option=orjson.OPT_INDENT_2))
    else:
        click.echo("\n".join(_lines(answer, 0 if all_slices else FEWEST)))


def _lines(answer: dict[str, Any], fewest: int) -> Iterator[str]:
    if answer["shadow"] is None and answer["canary"] is None:
        yield (
            "no experiment is running; write `compare:` under args, or into the router's "
            "user_config"
        )
    if (shadow := answer["shadow"]) is not None:
        yield from _shadow(shadow, fewest)
    if (canary := answer["canary"]) is not None:
        yield from _canary(canary, fewest)


def _shadow(report: dict[str, Any], fewest: int) -> Iterator[str]:
    yield (
        f"shadow    {report['model']}, {report['share']:.1%} of the requests, for "
        f"{report['running_s']:g} s"
    )
    left_out = [f"{count} {why}" for why, count in report["left_out"].items()]
    yield (
        f"compared  {report['compared']} requests; left out: {', '.join(left_out) or 'none'}; "
        f"waiting: {report['waiting']}"
    )
    yield ""
    rows = [
        [
            "answered by",
            "slice",
            "requests",
            "overlap@10",
            "",
            "p50 ms",
            "p95 ms",
            "its p50",
            "its p95",
            "device s",
            "its",
        ]
    ]
    for each in report["slices"]:
        if each["requests"] >= fewest or each["slice"] == "all":
            overlap = each["overlap_at_10"]
            known = overlap["low"] is not None
            rows.append(
                [
                    each["answered_by"],
                    each["slice"],
                    str(each["requests"]),
                    _number(overlap["mean"], 3),
                    f"{overlap['low']:.3f}-{overlap['high']:.3f}" if known else "too few",
                    _number(each["latency_ms"]["p50"]),
                    _number(each["latency_ms"]["p95"]),
                    _number(each["shadow_predicted_ms"]["p50"]),
                    _number(each["shadow_predicted_ms"]["p95"]),
                    _number(each["device_s"], 2),
                    _number(each["shadow_device_s"], 2),
                ]
            )
    yield from _aligned(rows, 2)
    yield ""
    yield (
        "overlap@10: of a text's ten nearest among the last 512, how many both models agree "
        "on, and its 95 % interval."
    )
    yield (
        "Agreement is not quality. Its times are predictions for the caller, had the shadow "
        "been chosen."
    )


def _canary(report: dict[str, Any], fewest: int) -> Iterator[str]:
    what = report.get("model") or "rules of its own"
    yield (
        f"canary    {what}, {report['share']:.1%} of the free requests, for "
        f"{report['running_s']:g} s"
    )
    for arm, codes in report["failed"].items():
        yield (
            f"{arm:<9} failed: "
            f"{', '.join(f'{count} {code}' for code, count in codes.items()) or 'none'}"
        )
    yield ""
    rows = [
        ["slice", "arm", "requests", "p50 ms", "p95 ms", "in time", "quality", "device s", "models"]
    ]
    for each in report["slices"]:
        if each["slice"] == "all" or each["canary"]["requests"] >= fewest:
            for arm in ("control", "canary"):
                one = each[arm]
                models = ", ".join(f"{name} {count}" for name, count in one["models"].items())
                in_time = f"{one['in_time']}/{one['budgets']}" if one["budgets"] else "-"
                rows.append(
                    [
                        each["slice"],
                        arm,
                        str(one["requests"]),
                        _number(one["latency_ms"]["p50"]),
                        _number(one["latency_ms"]["p95"]),
                        in_time,
                        _number(one["quality"]),
                        _number(one["device_s"], 2),
                        models,
                    ]
                )
    yield from _aligned(rows, 2)


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: list[list[str]], words: int) -> Iterator[str]:
    """Align the rows of one table: the first `words` columns left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if place < words else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
