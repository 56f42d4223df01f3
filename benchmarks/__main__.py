"""Run one benchmark: `python -m benchmarks NAME`. Without a name it runs the data plane."""

import signal
import sys
from importlib import import_module

NAMES = (
    "abuse",
    "advise",
    "advise_english",
    "autoscale",
    "batches",
    "batch_jobs",
    "budgets",
    "chaos",
    "clients",
    "data_plane",
    "decide",
    "device",
    "elsewhere",
    "encoding",
    "fairness",
    "features",
    "fronts",
    "fuzz",
    "general_texts",
    "languages",
    "latency",
    "memory",
    "mteb",
    "observability",
    "one_card",
    "outages",
    "points",
    "profile",
    "qwen3_shapes",
    "rerank",
    "rerank_load",
    "routers",
    "search",
    "shadow",
    "sim",
    "sim_models",
    "sim_thousand",
    "sim_truth",
    "soak",
    "spaces",
    "student_query",
    "students",
    "timing",
    "versions",
    "where",
)


def _summary(doc: str) -> str:
    return " ".join(doc.partition("\n\n")[0].split())


def main() -> None:
    """Pass the arguments after the name to the benchmark of that name."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in ("-h", "--help"):
        names = (
            f"  {name:<14} {_summary(import_module(f'benchmarks.{name}').__doc__ or '')}"
            for name in NAMES
        )
        more = "Each has --help of its own; those that measure write their figures to --json FILE."
        print("\n".join([__doc__ or "", "", *names, "", more]))
        return
    if first and not first.startswith("-"):
        if first not in NAMES:
            sys.exit(f"there is no benchmark {first!r}; there are {', '.join(NAMES)}")
        del sys.argv[1]
    else:
        first = "data_plane"
    # so that the process that started servers stops them
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    import_module(f"benchmarks.{first}").main()


if __name__ == "__main__":
    main()
