"""Kill a command that writes Parquet parts in the middle of one."""

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.local_service import LocalRouter, held
from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]


def killed_after(parts: int, arguments: list[str], folder: Path, router: LocalRouter) -> int:
    """Kill the command during a part; return the number of finished parts."""

    def written() -> int:
        return len(list(folder.rglob("*.parquet")))

    def enough() -> bool:
        return written() >= parts

    said = folder.parent / "said"
    with said.open("wb") as stderr, held(router, enough):
        process = subprocess.Popen(
            [sys.executable, "-m", "router.cli", *arguments], cwd=ROOT, stderr=stderr
        )
        wait_for(lambda: enough() or process.poll() is not None, f"{parts} parts")
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, said.read_text()
    return written()
