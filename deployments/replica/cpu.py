"""Process settings for a replica that runs its model on the CPU: `environment: cpu-vllm`.

glibc returns large freed buffers to the kernel, so every step of a model faults all of its memory
in again. That takes a third of the time of a batch or a long text. With its memory kept, glibc is
as fast as tcmalloc. Ray starts actors with one OpenMP thread per booked core, and these replicas
book less than one.

The replica does this itself, before torch is imported. An `LD_PRELOAD` or environment variable in a
runtime_env is lost when a config file sets `ray_actor_options`, and is inherited by processes that
it does not suit.
"""

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 1 << 30


def prepare() -> None:
    """Keep freed memory, and use every available core unless Ray booked several for it."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # missing in musl and macOS
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
