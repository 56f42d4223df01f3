"""The routes of the service: their paths, methods and permitted callers.

All code that needs a path reads this table: the application, its fast path, access, the OpenAPI
reference, and the messages of 404 and 405. A new route is a row here, a method of the application
with the name of its handler (deployments/ingress/application.py), and its description
(router/openapi.py). A route under /v1 that a key can call also gets an alias without /v1.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

GET = ("GET", "HEAD")
POST = ("POST",)
DELETE = ("DELETE",)


class Caller(StrEnum):
    """Who can call a route of a service that has keys."""

    ANYONE = "anyone"
    KEY = "key"
    ADMIN = "admin"  # an admin key: the route shows what other callers do


class Route(NamedTuple):
    """A path and its handler; `{id}` in the path matches one or more parts, slashes included."""

    path: str
    methods: tuple[str, ...]
    caller: Caller
    handler: str

    def parameter(self, path: str) -> str:
        """The value of `{id}` in `path`; empty if the route has no `{id}`."""
        start, _, rest = self.path.partition("{")
        return path[len(start) : len(path) - len(rest.partition("}")[2])] if rest else ""

    def matches(self, path: str) -> bool:
        """Whether this route matches `path`, with at least one character for `{id}`."""
        start, _, rest = self.path.partition("{")
        end = rest.partition("}")[2]
        return (
            path.startswith(start)
            and path.endswith(end)
            and len(path) > len(start) + len(end)
            and not (rest and self.parameter(path).startswith("/"))
        )


_ROUTES = (
    Route("/v1/embeddings", POST, Caller.KEY, "embed"),
    Route("/openai/deployments/{model}/embeddings", POST, Caller.KEY, "azure_embed"),
    Route("/v2/embed", POST, Caller.KEY, "cohere_embed"),
    Route("/embed", POST, Caller.KEY, "tei_embed"),
    Route("/api/embed", POST, Caller.KEY, "ollama_embed"),
    Route("/v1/rerank", POST, Caller.KEY, "rerank"),
    Route("/v2/rerank", POST, Caller.KEY, "rerank"),
    Route("/v1/route", POST, Caller.KEY, "explain"),
    Route("/v1/models", GET, Caller.KEY, "models"),
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
    Route("/v1/usage", GET, Caller.KEY, "usage"),
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


def _with_aliases(routes: Iterable[Route]) -> Iterator[Route]:
    """Yield each route, and the aliases without /v1 of those that keys can call."""
    routes = tuple(routes)
    own = {route.path for route in routes}
    for route in routes:
        yield route
        short = route.path.removeprefix("/v1")
        if short != route.path and route.caller is Caller.KEY and short not in own:
            yield route._replace(path=short)


ROUTES = tuple(_with_aliases(_ROUTES))


def paths_of(handler: str) -> tuple[str, ...]:
    """The paths of `handler`: its own first, then aliases."""
    return tuple(route.path for route in ROUTES if route.handler == handler)


EMBEDDINGS = paths_of("embed")
# handlers of requests that models answer: they take the fast path, and all of them are counted
INFERENCE = frozenset(
    ("embed", "azure_embed", "cohere_embed", "tei_embed", "ollama_embed", "rerank")
)


class Table:
    """Routes by path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._at: dict[str, list[Route]] = {}
        self._patterns: list[Route] = []
        for route in routes:
            if "{" in route.path:
                self._patterns.append(route)
            else:
                self._at.setdefault(route.path, []).append(route)
        self._below_admin = tuple(
            f"{path}/" for path, found in self._at.items() if found[0].caller is Caller.ADMIN
        )

    def find(self, path: str) -> list[Route]:
        """The routes at `path`, one for each set of methods; empty if there is none."""
        if routes := self._at.get(path):
            return routes
        found = [route for route in self._patterns if route.matches(path)]
        most = max((len(route.path) for route in found), default=0)
        return [route for route in found if len(route.path) == most]

    def infers(self, path: str) -> bool:
        """Whether a model answers a POST to `path`."""
        return any(route.handler in INFERENCE for route in self.find(path))

    def caller(self, path: str) -> Caller:
        """Who can call `path`. Any path below an admin's is for admins, even where no route exists,
        so that other keys cannot find out what is there.
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
