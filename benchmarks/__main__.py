"""`python -m benchmarks [NAME] ...`: run one benchmark; without a name, the data plane."""

import sys
from importlib import import_module

NAMES = (
    "advise", "autoscale", "budgets", "chaos", "data_plane", "decide", "encoding", "features", "fuzz", "latency", "memory",
    "observability", "profile", "shadow", "soak", "spaces",
)


def main() -> None:
    """Hand the arguments behind the name to the benchmark of that name."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first and not first.startswith("-"):
        if first not in NAMES:
            sys.exit(f"there is no benchmark {first!r}; there are {', '.join(NAMES)}")
        del sys.argv[1]
    else:
        first = "data_plane"
    import_module(f"benchmarks.{first}").main()


if __name__ == "__main__":
    main()
