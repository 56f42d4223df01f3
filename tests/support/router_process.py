"""A router in a separate process, to be killed: `python -m tests.support.router_process ARGS`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.local_service import served


@contextmanager
def router_process(args: dict[str, Any]) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """The URL of a router with these args, and its process, which is stopped after the block."""
    command = [sys.executable, "-m", __name__, json.dumps(args)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the router did not start"
            yield url, process
        finally:
            process.kill()


def main() -> None:
    """Serve until the standard input ends."""
    with served(json.loads(sys.argv[1])) as (url, _):
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
