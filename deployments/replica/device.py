"""The device that a model runs on, named as in the profiles measured on it."""

import os
import platform
import sys
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def device_name() -> str:
    """Return the accelerator of this process, or the processor if it has none."""
    torch = sys.modules.get("torch")
    # Ray hides the cards from actors that book none
    booked = accelerator_bytes() or os.environ.get("CUDA_VISIBLE_DEVICES")
    if booked and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return processor()


def processor() -> str:
    """Return the processor of this machine and its number of cores."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def accelerator_bytes() -> int:
    """Return torch's peak of reserved bytes on this process's accelerator; 0 without one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.max_memory_reserved())
