"""Plots to embed in a page: matplotlib's SVG with its colours replaced by the page's own.

The plots therefore follow a dark theme. Their text stays text, so it can be read aloud and
searched.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

STYLE = Path(__file__).with_name("report.css")
# placeholders for the page's colours
INK, FAINT, GOOD, PLAIN = (
    "#010203",
    "#010204",
    "#010205",
    "#010206",
)
MODELS = tuple(f"#0102{10 + place:02d}" for place in range(8))
COLOURS = {
    INK: "currentColor",
    FAINT: "var(--line)",
    GOOD: "var(--good)",
    PLAIN: "var(--quiet)",
    **{colour: f"var(--m{place})" for place, colour in enumerate(MODELS)},
}
WIDTH_IN = 5.0  # 360 CSS pixels: a phone


def labelled(drawn: str) -> str:
    """Copy each column's heading into its cells, where a narrow screen shows it."""

    def table(found: "re.Match[str]") -> str:
        head, body = found[0].split("<tbody>")
        headings = [
            " ".join(re.sub("<[^>]+>", " ", each).split())
            for each in re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", head, re.DOTALL)
        ]

        def row(line: "re.Match[str]") -> str:
            labels = iter(headings[1:])
            return re.sub("<td", lambda _: f'<td data-label="{next(labels)}"', line[0])

        return f"{head}<tbody>" + re.sub(r"<tr.*?</tr>", row, body, flags=re.DOTALL)

    return re.sub(r"<table>.*?</table>", table, drawn, flags=re.DOTALL)


def svg(paint: Callable[[Any], None], height_in: float, description: str) -> str:
    """Paint a figure and return it as SVG to embed in the page."""
    import html

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter, NullLocator

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": description,
        "text.parse_math": False,  # a name from a file can contain `$`
        "font.size": 10,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "axes.spines.left": False,
    }
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(WIDTH_IN, height_in), layout="constrained")
        paint(axes)
        if axes.get_xscale() == "log":
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            low, high = axes.get_xlim()
            axes.set_xticks(_round_ticks(low, high))
            axes.set_xlim(low, high)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        made = io.StringIO()
        figure.savefig(
            made, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
        pyplot.close(figure)
    svg = made.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (?:bold |700 )?([\d.]+)px [^;\"]+", _font, svg)
    for placeholder, colour in COLOURS.items():
        svg = svg.replace(placeholder, colour)
    label = html.escape(description)
    opening = re.search(r'<svg [^>]*viewBox="([^"]+)"[^>]*>', svg)
    assert opening is not None
    return f'<svg viewBox="{opening[1]}" role="img" aria-label="{label}">' + svg[opening.end() :]


def _font(found: "re.Match[str]") -> str:
    weight = "; font-weight: 600" if "bold" in found[0] or "700" in found[0] else ""
    return f"font-size: {found[1]}px{weight}"


def _round_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 times powers of ten between two numbers; coarser steps if these are many."""
    powers = [10.0**power for power in range(-6, 13)]
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * power for power in powers for step in steps if low <= step * power <= high]
        if len(ticks) <= 6:
            break
    return ticks
