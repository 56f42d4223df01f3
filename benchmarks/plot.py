"""Draw the data plane's table: `python -m benchmarks.plot bench.json docs/img/bench.png`."""

import json
import sys
from pathlib import Path
from typing import Any


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Write a PNG of every server's ratio to the point's base; skip those without one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {
        point
        if found["base"].startswith("vllm serve")
        else f"{point}\n({found['base']} = 1)": found["servers"]
        for point, found in rows.items()
        if found["ratio"] is not None
    }
    bases = {found["base"] for found in rows.values()}  # 1 by definition
    names = [
        name
        for name in dict.fromkeys(name for one in shown.values() for name in one)
        if name not in bases
    ]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(shown) + 1.2))
    height = 0.8 / max(1, len(names))
    for place, name in enumerate(names):
        ratios = [one.get(name, {}).get("ratio") or 0.0 for one in shown.values()]
        bars = axes.barh(
            [row + place * height for row in range(len(shown))], ratios, height, label=name
        )
        axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(shown))], list(shown))
    axes.invert_yaxis()
    axes.margins(x=0.08)  # room for the figure behind the longest bar
    axes.set_xlabel("requests/s, vllm serve on the same machine = 1, where not said otherwise")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    """Draw what `make bench ARGS="--json FILE"` wrote."""
    source, target = map(Path, sys.argv[1:])
    rows = json.loads(source.read_text())["rows"]
    draw({row["name"]: row for row in rows if "servers" in row}, target)


if __name__ == "__main__":
    main()
