"""Wait for a condition of another process or thread."""

import time
from collections.abc import Callable

WAIT_S = 120.0


def wait_for(
    condition: Callable[[], bool],
    what: str,
    wait_s: float = WAIT_S,
    told: Callable[[], object] | None = None,
) -> None:
    """Return once `condition` holds; fail with `what` if it does not in time."""
    until_s = time.monotonic() + wait_s
    while not condition():
        if time.monotonic() > until_s:
            raise AssertionError(
                f"waited {wait_s:.0f} s for {what}" + (f": {told()}" if told else "")
            )
        time.sleep(0.2)
