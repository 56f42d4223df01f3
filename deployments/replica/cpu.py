"""What a replica that runs its model on the CPU sets for itself: `environment: cpu-vllm`.

glibc gives large buffers back to the kernel when they are freed, so every step of a model faults
all of its memory in again: a third of the time of a batch or a long text. Kept, glibc is as fast as
tcmalloc. Ray starts actors with one OpenMP thread a booked core, and these replicas book less than
one.

The replica does this itself, before torch is imported: an `LD_PRELOAD` or environment variable in a
runtime_env is lost when a config file sets `ray_actor_options`, and is inherited by processes that
it does not suit.
"""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 1 << 30


def prepare() -> None:
    """Keep freed memory, and use every core this process may run on unless Ray booked several for
    it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not musl's, nor macOS's
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_ARENA_MAX, 1)
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        os.environ["OMP_NUM_THREADS"] = str(cores)
