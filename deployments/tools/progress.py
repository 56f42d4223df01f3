"""Progress of long commands: a bar on a terminal, otherwise a line for each part."""

from typing import Any

import click
from tqdm import tqdm

TRUST = 0.2  # weight of the prediction against measurements, as a share of the work


def bar(**options: Any) -> "tqdm[None]":
    """Create a tqdm bar that is drawn only on a terminal: in a file each redraw would be a line."""
    return tqdm(disable=None, **options)


def left_s(total: float, done: float, elapsed_s: float) -> float:
    """Estimate the seconds left; `total` and `done` are predicted seconds.

    The estimate starts at the prediction and follows the average speed since the start, so it does
    not jump when a part is faster or slower than predicted.
    """
    trusted = TRUST * total
    speed = (elapsed_s + trusted) / (done + trusted) if trusted else 1.0
    return max(0.0, total - done) * speed


class PredictedWork:
    """Progress over several parts, in predicted seconds."""

    def __init__(self, total_s: float) -> None:
        self._total_s, self._done_s = total_s, 0.0
        layout = "{desc}  {percentage:3.0f}%|{bar}| {elapsed} gone{postfix}"
        self._bar = bar(total=max(total_s, 1e-9), bar_format=layout)

    def __enter__(self) -> "PredictedWork":
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.close()

    def part(self, name: str) -> None:
        """Begin a part."""
        if self._bar.disable:
            click.echo(name, err=True)
        self._bar.set_description(name)

    def done(self, predicted_s: float) -> None:
        """Count work that was done."""
        self._done_s += predicted_s
        if self._bar.disable:
            return
        elapsed_s = float(self._bar.format_dict["elapsed"])
        rest = self._bar.format_interval(left_s(self._total_s, self._done_s, elapsed_s))
        self._bar.set_postfix_str(f"about {rest} left", refresh=False)
        self._bar.update(predicted_s)
