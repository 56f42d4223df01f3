"""The report as one page that contains its style, its plots and its text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.tools.figures import GOOD, MODELS, PLAIN, STYLE, labelled, svg

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 12  # bars


def draw(data: Mapping[str, Any]) -> str:
    """Draw the page."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    plots = {
        "attainment": _line(data, "attainment", "on time, %", 100.0, GOOD),
        "quality": _line(data, "quality", "points", 1.0, MODELS[0]),
        "devices": _devices(data),
        "models": _models(data),
        "degraded": _degraded(data),
    }
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    drawn = template.render(
        report=data,
        plots={name: Markup(plot) for name, plot in plots.items()},
        style=Markup(STYLE.read_text(encoding="utf-8")),
        percent=percent,
        points=points,
    )
    return labelled(drawn)


def percent(share: float | None) -> str:
    """Format a share as a percentage."""
    return "–" if share is None else f"{100.0 * share:.1f} %"


def points(value: float | None) -> str:
    """Format points of quality."""
    return "–" if value is None else f"{value:.2f}"


def _unit(data: Mapping[str, Any]) -> tuple[float, str]:
    long = data["seconds"] >= 3 * 3600
    return (3600.0, "hours, simulated") if long else (1.0, "seconds, simulated")


def _line(data: Mapping[str, Any], key: str, label: str, times: float, colour: str) -> str:
    moments = [
        item for item in data["result"]["moments"] if item[key] is not None and item["offered"]
    ]
    size, unit = _unit(data)

    def paint(axes: Any) -> None:
        axes.plot(
            [moment["from_s"] / size for moment in moments],
            [times * moment[key] for moment in moments],
            color=colour,
            linewidth=1.6,
        )
        axes.set(xlabel=unit, ylabel=label)
        axes.margins(0.02, 0.15)

    values = [times * moment[key] for moment in moments]
    description = f"from {min(values):.1f} to {max(values):.1f}" if values else "nothing arrived"
    return svg(paint, 2.6, f"{label} over time, simulated: {description}")


def _devices(data: Mapping[str, Any]) -> str:
    size, unit = _unit(data)
    names = list(data["replicas"])
    devices = data["devices"]

    def paint(axes: Any) -> None:
        for place, name in enumerate(names):
            steps = [item for item in data["result"]["replicas"] if item["model"] == name]
            times = [step["from_s"] / size for step in steps] + [data["seconds"] / size]
            held = [step["ready"] * devices[name] for step in steps]
            axes.step(times, [*held, held[-1]], where="post", color=MODELS[place % 8], label=name)
        axes.set(xlabel=unit, ylabel="devices", ylim=(0, None))
        axes.legend(frameon=False, fontsize=8)

    return svg(paint, 2.6, "Devices of ready replicas over time, simulated, by model")


def _models(data: Mapping[str, Any]) -> str:
    size, unit = _unit(data)
    names, moments = list(data["replicas"]), data["result"]["moments"]

    def paint(axes: Any) -> None:
        times = [moment["from_s"] / size for moment in moments]
        rows = [[moment["models"].get(name, 0) for moment in moments] for name in names]
        colours = [MODELS[place % 8] for place in range(len(names))]
        axes.stackplot(times, rows, labels=names, colors=colours)
        axes.set(xlabel=unit, ylabel="answers")
        axes.legend(frameon=False, fontsize=8)

    return svg(paint, 2.6, "Answers over time by model, simulated")


def _degraded(data: Mapping[str, Any]) -> str:
    rows: Sequence[Mapping[str, Any]] = data["result"]["degraded_by"][:SHOWN]
    if not rows:
        return ""
    labels = [f"{row['tenant']}, {row['language']}: {row['reason']}" for row in rows]

    def paint(axes: Any) -> None:
        axes.barh(range(len(rows)), [row["requests"] for row in rows], color=PLAIN)
        axes.set_yticks(range(len(rows)), labels)
        axes.invert_yaxis()
        axes.set(xlabel="requests, simulated")
        axes.grid(visible=False, axis="y")

    description = "; ".join(
        f"{label} {item['requests']}" for label, item in zip(labels, rows, strict=True)
    )
    return svg(paint, 1.2 + 0.27 * len(rows), f"Degraded requests, simulated: {description}")
