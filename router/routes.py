"""The routes of the service: which paths there are, with which methods, for whom.

Everything that needs to know a path reads this table: the application, its fast path, access, the
OpenAPI reference, and the messages of 404 and 405. A new route is a row here, a method of the
application with the name of its handler (deployments/ingress/application.py), and its description
(router/openapi.py).
"""

from collections.abc import Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

GET = ("GET", "HEAD")
POST = ("POST",)
DELETE = ("DELETE",)


class Caller(StrEnum):
    """Who may call a route of a service that has keys."""

    ANYONE = "anyone"
    KEY = "key"
    ADMIN = "admin"  # an admin key: the route shows what other callers do


class Route(NamedTuple):
    """A path and what answers there; `{id}` stands for all between what is before and behind it."""

    path: str
    methods: tuple[str, ...]
    caller: Caller
    handler: str


ROUTES = (
    Route("/v1/embeddings", POST, Caller.KEY, "embed"),
    Route("/embeddings", POST, Caller.KEY, "embed"),
    Route("/v1/route", POST, Caller.KEY, "explain"),
    Route("/v1/models", GET, Caller.KEY, "models"),
    Route("/models", GET, Caller.KEY, "models"),
    Route("/v1/models/{id}", GET, Caller.KEY, "model"),
    Route("/v1/tiers", GET, Caller.KEY, "tiers"),
    Route("/v1/files", POST, Caller.KEY, "upload_file"),
    Route("/v1/files", GET, Caller.KEY, "files"),
    Route("/v1/files/{id}", GET, Caller.KEY, "file"),
    Route("/v1/files/{id}", DELETE, Caller.KEY, "delete_file"),
    Route("/v1/files/{id}/content", GET, Caller.KEY, "file_content"),
    Route("/v1/batches", POST, Caller.KEY, "create_batch"),
    Route("/v1/batches", GET, Caller.KEY, "batches"),
    Route("/v1/batches/{id}", GET, Caller.KEY, "batch"),
    Route("/v1/batches/{id}/cancel", POST, Caller.KEY, "cancel_batch"),
    Route("/v1/compare", GET, Caller.ADMIN, "compare"),
    Route("/v1/decisions", GET, Caller.ADMIN, "decisions"),
    Route("/v1/what-if", GET, Caller.ADMIN, "policy"),
    Route("/v1/what-if", POST, Caller.ADMIN, "what_if"),
    Route("/health", GET, Caller.ANYONE, "health"),
    Route("/health/live", GET, Caller.ANYONE, "live"),
    Route("/openapi.json", GET, Caller.ANYONE, "reference"),
    Route("/", GET, Caller.ANYONE, "console"),
    Route("/docs", GET, Caller.ANYONE, "docs"),
)


def paths_of(handler: str) -> tuple[str, ...]:
    """The paths at which `handler` answers, its own first, then aliases."""
    return tuple(route.path for route in ROUTES if route.handler == handler)


EMBEDDINGS = paths_of("embed")


def parameter(path: str, handler: str) -> str:
    """What stands at a path in the place of the `{id}` of a handler's own path."""
    start, end = _around(paths_of(handler)[0])
    return path[len(start) : len(path) - len(end)]


def _around(path: str) -> tuple[str, str]:
    start, _, rest = path.partition("{")
    return start, rest.partition("}")[2]


class Table:
    """Routes by path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._at: dict[str, list[Route]] = {}
        self._around: dict[tuple[str, str], list[Route]] = {}
        for route in routes:
            if "{" in route.path:
                self._around.setdefault(_around(route.path), []).append(route)
            else:
                self._at.setdefault(route.path, []).append(route)
        self._below_admin = tuple(
            f"{path}/" for path, found in self._at.items() if found[0].caller is Caller.ADMIN
        )

    def find(self, path: str) -> list[Route]:
        """The routes at `path`, one for each set of methods; empty where there is none."""
        if found := self._at.get(path):
            return found
        around = [
            (len(end), routes)
            for (start, end), routes in self._around.items()
            if path.startswith(start) and path.endswith(end) and len(path) > len(start) + len(end)
        ]
        return max(around, key=lambda one: one[0], default=(0, []))[1]

    def caller(self, path: str) -> Caller:
        """Who may call `path`. What lies below an admin's path is an admin's, also where there is
        nothing, so that no key learns what is there.
        """
        if routes := self._at.get(path):
            return routes[0].caller
        return Caller.ADMIN if path.startswith(self._below_admin) else Caller.KEY

    def nearest(self, path: str) -> Route | None:
        """The route that a wrong path most likely means."""
        close = get_close_matches(path[:100].lower(), self._at, n=1, cutoff=0.75)
        return self._at[close[0]][0] if close else None


def methods_of(routes: Iterable[Route]) -> tuple[str, ...]:
    """The methods of all these routes, in the table's order."""
    return tuple(dict.fromkeys(method for route in routes for method in route.methods))
