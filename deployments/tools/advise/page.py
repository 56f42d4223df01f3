"""The report as one page that contains its style, plots and text, and loads nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.tools.advise.languages import language
from deployments.tools.figures import GOOD, INK, MODELS, PLAIN, STYLE, labelled, svg
from router.codes import SCRIPTS

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN_SLICES = 30


def draw(data: Mapping[str, Any], routing: str) -> str:
    """Draw the page."""
    import jinja2
    from markupsafe import Markup

    names = [model["name"] for model in data["models"]]
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": number,
        "bytes": bytes_of,
        "seconds": seconds,
        "signed": lambda value: f"{value:+.1f}",
        "slice": lambda found: slice_name(found["dimension"], found["value"]),
    }
    plots = {
        "latency": _against(
            data, "together_p95_ms", f"p95, ms, {data['at_once']} asking at once", data["budget_ms"]
        ),
        "cost": _against(data, "device_s_per_million", "device seconds per million texts", None),
        "slices": _forest(data, names),
        "sizes": _sizes(data, names),
    }
    markup = {name: Markup(plot) if plot else "" for name, plot in plots.items()}
    return labelled(
        environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
            report=data,
            routing=routing,
            plots=markup,
            shown_slices=SHOWN_SLICES,
            style=Markup(STYLE.read_text(encoding="utf-8")),
            colour={name: f"var(--m{place % 8})" for place, name in enumerate(names)},
        )
    )


def slice_name(dimension: str, value: str) -> str:
    """Name a slice in words."""
    if dimension == "all":
        return "all"
    if dimension == "language":
        known = {"unknown": "language unknown", "other": "other languages"}
        return known.get(value, language(value))
    if dimension.startswith("tokens"):
        what = "texts" if dimension == "tokens" else "answers"
        return f"{what} of {value} tokens"
    if dimension == "script":
        return f"{SCRIPTS.get(value, 'no')} script"
    return {
        "side": f"{value} texts",
        "mixed": "texts of two languages" if value == "mixed" else f"texts of {value}",
    }.get(dimension, value)


def number(value: float | None, digits: int = 1) -> str:
    """Format a number; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"


def bytes_of(value: float | None) -> str:
    """Format bytes in a suitable unit."""
    if value is None:
        return "–"
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} kB"


def seconds(value: float) -> str:
    """Format device seconds, as hours from 7,200 s on."""
    return f"{value:,.0f} s" if value < 7200 else f"{value / 3600:,.1f} h"


def _against(data: Mapping[str, Any], key: str, label: str, budget: float | None) -> str:
    """Plot the quality of every model against its latency or cost."""
    models = [model for model in data["models"] if model["quality"] is not None]
    if not models:
        return ""

    def paint(axes: Any) -> None:
        for place, model in enumerate(data["models"]):
            if model["quality"] is None:
                continue
            axes.plot(model[key], model["quality"], "o", color=MODELS[place % 8], markersize=9)
            at = (model[key], model["quality"])
            axes.annotate(
                model["name"], at, (0, 10), textcoords="offset points", ha="center", color=INK
            )
        low, high = (
            min(model["quality"] for model in models),
            max(model["quality"] for model in models),
        )
        room = max(high - low, 1.0)
        axes.set(
            xscale="log",
            xlabel=label,
            ylabel="quality, points",
            ylim=(low - 0.25 * room, high + 0.35 * room),
        )
        left, right = min(model[key] for model in models), max(model[key] for model in models)
        axes.set_xlim(left / 3.0, right * 3.0)
        if budget is not None:
            axes.axvline(budget, color=PLAIN, linestyle="--", linewidth=1)
            axes.annotate(
                "your budget",
                (budget, low - 0.2 * room),
                (4, 0),
                textcoords="offset points",
                color=PLAIN,
            )

    description = "; ".join(
        f"{model['name']}: {number(model['quality'])} points, {number(model[key])}"
        for model in models
    )
    return svg(paint, 3.4, f"Quality against {label}. {description}")


def _forest(data: Mapping[str, Any], names: Sequence[str]) -> str:
    """Plot what the largest model gains over the next smaller one by slice, with intervals."""
    by_task = []
    for task in data["tasks"]:
        if task["kind"] == "agreement":
            continue
        rows = list[tuple[str, bool, int, Mapping[str, Any]]]()
        for item in task["slices"]:
            found = [
                each
                for each in item["differences"]
                if (each["smaller"], each["larger"]) == (names[-2], names[-1])
            ]
            whole = item["dimension"] == "all"
            label = task["name"] if whole else slice_name(item["dimension"], item["value"])
            rows += [(label, item["dimension"] == "all", item["units"], found[0])] if found else []
        by_task.append(rows)
    while sum(map(len, by_task)) > SHOWN_SLICES:  # no task is crowded out by another's slices
        max(by_task, key=len).pop()
    rows = [row for some in by_task for row in some]
    if not rows:
        return ""

    def paint(axes: Any) -> None:
        for place, (_, whole, _, found) in enumerate(rows):
            colour = (
                GOOD
                if found["measured"] and found["points"] > 0
                else MODELS[-1]
                if found["measured"]
                else PLAIN
            )
            axes.plot(
                [found["low"], found["high"]],
                [place, place],
                color=colour,
                linewidth=2.4 if whole else 1.4,
            )
            axes.plot(found["points"], place, "o", color=colour, markersize=7 if whole else 4.5)
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [f"{label} ({units})" for label, _, units, _ in rows])
        for (_, whole, _, _), text in zip(rows, axes.get_yticklabels(), strict=True):
            text.set_fontweight("bold" if whole else "normal")
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=f"points, {names[-1]}\nless {names[-2]}")
        axes.grid(visible=False, axis="y")

    description = "; ".join(
        f"{label}: {gap['points']:+.1f}, {gap['low']:+.1f} to {gap['high']:+.1f}"
        for label, _, _, gap in rows
    )
    return svg(
        paint,
        1.3 + 0.27 * len(rows),
        f"Points that {names[-1]} has over {names[-2]}. {description}",
    )


def _sizes(data: Mapping[str, Any], names: Sequence[str]) -> str:
    """Plot quality against the size of an index."""
    rows = data["dimensions"]
    if not rows:
        return ""
    cut = [name for name in names if any(row["model"] == name for row in rows)]

    def paint(axes: Any) -> None:
        for name in cut:
            own = [row for row in rows if row["model"] == name]
            places, heights = (
                [row["bytes_per_million"] / 1e9 for row in own],
                [row["quality"] for row in own],
            )
            axes.plot(places, heights, "o-", color=MODELS[names.index(name) % 8], markersize=7)
            for row, place, height in zip(own, places, heights, strict=True):
                axes.annotate(
                    str(row["size"]),
                    (place, height),
                    (0, 9),
                    textcoords="offset points",
                    ha="center",
                    color=INK,
                )
        axes.set(xscale="log", xlabel="GB per million vectors (float32)", ylabel="quality, points")
        axes.margins(0.15, 0.25)

    description = "; ".join(
        f"{row['model']} at {row['size']}: {number(row['quality'])}" for row in rows
    )
    return svg(paint, 3.0, f"Quality against the size of an index. {description}")
