"""The routes of the service: their paths, methods and permitted callers.

All code that needs a path reads this table: the application, its fast path, access, the OpenAPI
reference, and the messages of 404 and 405. A new route is a row here, a function under the name of
its handler (deployments/ingress/inference.py if a model serves it, else batches.py, views.py or
application.py), and its request and answers (router/openapi.py). A route under /v1 that a key can
call also gets an alias without /v1.
"""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple

GET = ("GET", "HEAD")
POST = ("POST",)
DELETE = ("DELETE",)


class Audience(StrEnum):
    """Who can call a route of a service that has keys."""

    ANYONE = "anyone"
    KEY = "key"
    ADMIN = "admin"  # an admin key: the route shows what other callers do


class Route(NamedTuple):
    """A path and its handler; `{id}` in the path matches one or more parts, slashes included."""

    path: str
    methods: tuple[str, ...]
    caller: Audience
    handler: str
    tag: str = ""  # its part of the reference
    summary: str = ""
    # it takes the fast path, and every request is counted, refused ones too
    model_serves: bool = False

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


def _part(
    tag: str,
    caller: Audience,
    *rows: tuple[tuple[str, ...], str, str, str],
    model_serves: bool = False,
) -> Iterator[Route]:
    """The routes of one part of the reference: methods, path, handler and summary of each."""
    for methods, path, handler, summary in rows:
        yield Route(path, methods, caller, handler, tag, summary, model_serves)


_ROUTES = (
    *_part(
        "embeddings",
        Audience.KEY,
        (POST, "/v1/embeddings", "embed", "Embed texts"),
        (POST, "/openai/deployments/{model}/embeddings", "azure_embed", "Embed texts, as Azure"),
        (POST, "/v2/embed", "cohere_embed", "Embed texts, as Cohere"),
        (POST, "/embed", "tei_embed", "Embed texts, as Text Embeddings Inference"),
        (POST, "/api/embed", "ollama_embed", "Embed texts, as Ollama"),
        model_serves=True,
    ),
    *_part(
        "reranking",
        Audience.KEY,
        (POST, "/v1/rerank", "rerank", "Rank documents for a query"),
        (POST, "/v2/rerank", "rerank", "Rank documents for a query"),
        model_serves=True,
    ),
    *_part(
        "routing",
        Audience.KEY,
        (POST, "/v1/route", "explain", "Explain where a request would go"),
        (GET, "/v1/tiers", "tiers", "Show the decision matrix, live"),
    ),
    *_part(
        "models",
        Audience.KEY,
        (GET, "/v1/models", "models", "List everything that `model` may be"),
        (GET, "/v1/models/{id}", "model", "Show one entry of that list"),
    ),
    *_part(
        "files",
        Audience.KEY,
        (POST, "/v1/files", "upload_file", "Upload the lines of a batch"),
        (GET, "/v1/files", "files", "List the files of the key, newest first"),
        (GET, "/v1/files/{id}", "file", "Show one file"),
        (DELETE, "/v1/files/{id}", "delete_file", "Delete a file; a batch that reads it goes on"),
        (GET, "/v1/files/{id}/content", "file_content", "Read a file"),
    ),
    *_part(
        "batches",
        Audience.KEY,
        (POST, "/v1/batches", "create_batch", "Embed the lines of a file when there is time"),
        (GET, "/v1/batches", "batches", "List the batches of the key, newest first"),
        (GET, "/v1/batches/{id}", "batch", "Show one batch"),
        (POST, "/v1/batches/{id}/cancel", "cancel_batch", "Run no more lines of a batch"),
    ),
    *_part(
        "usage",
        Audience.KEY,
        (GET, "/v1/usage", "usage", "Sum up what the key used; an admin key sees all keys"),
    ),
    *_part(
        "routing",
        Audience.ADMIN,
        (GET, "/v1/compare", "compare", "Show what a shadow or a canary found on live traffic"),
        (GET, "/v1/decisions", "decisions", "List the last decisions of one router replica"),
        (GET, "/v1/what-if", "policy", "Show the routing rules in force, to edit and post back"),
        (POST, "/v1/what-if", "what_if", "Decide the last requests again by other rules"),
    ),
    *_part(
        "health",
        Audience.ANYONE,
        (GET, "/health", "health", "Say whether every model that must be ready is"),
        (GET, "/health/live", "live", "Say that the router runs"),
    ),
    *_part(
        "pages",
        Audience.ANYONE,
        (GET, "/openapi.json", "reference", "This document"),
        (GET, "/", "console", "The console: a page to try requests and watch decisions"),
        (GET, "/docs", "docs", "This document as a page"),
    ),
)


def _with_aliases(routes: Iterable[Route]) -> Iterator[Route]:
    """Yield each route, and the aliases without /v1 of those that keys can call."""
    routes = tuple(routes)
    own = {route.path for route in routes}
    for route in routes:
        yield route
        short = route.path.removeprefix("/v1")
        if short != route.path and route.caller is Audience.KEY and short not in own:
            yield route._replace(path=short)


ROUTES = tuple(_with_aliases(_ROUTES))


def paths_of(handler: str) -> tuple[str, ...]:
    """The paths of `handler`: its own first, then aliases."""
    return tuple(route.path for route in ROUTES if route.handler == handler)


EMBEDDINGS = paths_of("embed")
OLLAMA = paths_of("ollama_embed")[0]


def is_ollamas(path: str) -> bool:
    """Whether only a client of Ollama calls such a path."""
    return f"{path}/".startswith(OLLAMA[: OLLAMA.rindex("/") + 1])


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
            f"{path}/" for path, found in self._at.items() if found[0].caller is Audience.ADMIN
        )

    def find(self, path: str) -> list[Route]:
        """The routes at `path`, one for each set of methods; empty if there is none."""
        if routes := self._at.get(path):
            return routes
        found = [route for route in self._patterns if route.matches(path)]
        longest = max((len(route.path) for route in found), default=0)
        return [route for route in found if len(route.path) == longest]

    def infers(self, path: str) -> bool:
        """Whether a model answers a POST to `path`."""
        return any(route.model_serves for route in self.find(path))

    def caller(self, path: str) -> Audience:
        """Who can call `path`.

        Every path below an admin route is for admins only, even if no such route exists, so that
        other keys cannot probe for routes.
        """
        if routes := self._at.get(path):
            return routes[0].caller
        return Audience.ADMIN if path.startswith(self._below_admin) else Audience.KEY

    def nearest(self, path: str) -> Route | None:
        """The route that a wrong path most likely means."""
        if is_ollamas(path) and OLLAMA in self._at:
            return self._at[OLLAMA][0]
        close = get_close_matches(path[:100].lower(), self._at, n=1, cutoff=0.75)
        return self._at[close[0]][0] if close else None


def methods_of(routes: Iterable[Route]) -> tuple[str, ...]:
    """The methods of all these routes, in the table's order."""
    return tuple(dict.fromkeys(method for route in routes for method in route.methods))
