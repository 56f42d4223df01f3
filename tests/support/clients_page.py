"""docs/clients.md, and what it states of each client."""

from pathlib import Path

from benchmarks import clients

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text()


def stated() -> dict[str, list[str]]:
    """The page's table of what each client can say."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    start = next(place for place, line in enumerate(lines) if line[1:] == [*clients.FEATURES])
    return {line[0]: line[1:] for line in lines[start + 1 : start + 1 + len(clients.CLIENTS)]}


def check(name: str, url: str) -> None:
    found = clients.row(name, url, clients.names_of(url))
    assert [*found.values()] == stated()[name]
