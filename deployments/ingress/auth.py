"""Access control: keys, limits, origins, and the rule that a service without keys is local.

Without `keys:` the service answers every caller, so only this machine must be able to reach it.
`require_local` refuses to start on an address other than loopback. `Access` also refuses callers
from other machines, because a replica's own port is not the one in the config. It refuses requests
for a host other than this machine: they come from a page in a local browser whose name was made to
resolve to 127.0.0.1 (DNS rebinding). It refuses requests from a page of another origin, which could
not read the answer but could make the service work. `auth: none` turns all of this off.
"""

import re
from functools import lru_cache

from deployments.ingress.asgi import Headers, HttpRequest, Scope
from deployments.ingress.rate_limits import RateLimiter
from deployments.ingress.routes import TABLE
from router.config import RouterArgs
from router.errors import AdminKeyRequired, InvalidApiKey, OriginNotAllowed
from router.exposure import NOT_LOCAL, is_loopback
from router.keys import EVERYTHING, NO_ACCESS, Grant, Keyring, presented
from router.routes import ROUTES, Audience, methods_of

ALLOWED_METHODS = ", ".join(methods_of(ROUTES))
EXPOSED = (
    "x-request-id, x-embedding-model, x-embedding-space, x-embedding-encoder, "
    "x-expected-recall, x-routing-reason, x-predicted-ms, x-queue-ms, x-inference-ms, "
    "x-total-ms, x-ignored-fields, retry-after, retry-after-ms, x-ratelimit-limit-requests, "
    "x-ratelimit-remaining-requests, "
    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, "
    "x-ratelimit-reset-tokens"
)
_LIMIT_HEADERS = {
    kind: tuple(f"x-ratelimit-{what}-{kind}" for what in ("limit", "remaining", "reset"))
    for kind in ("requests", "tokens")
}
PREFLIGHT_S = 600  # how long a browser can cache the answer to a preflight
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(:[0-9]*)?")
FOREIGN_SITES = ("cross-site", "same-site")  # values of the header sec-fetch-site
_HEADER_NAMES = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2000}")

NOT_THIS_HOST = (
    "without keys the service answers only requests that name its own machine as host: call it "
    "as localhost or 127.0.0.1, add `keys:`, or write `auth: none` under args if a gateway or "
    "firewall decides who can reach it"
)


class Access:
    """Keys, limits and origins of one router; reloaded with the config."""

    def __init__(self, args: RouterArgs, rate_limiter: RateLimiter | None = None) -> None:
        self.rate_limiter = rate_limiter or RateLimiter()
        self.reload(args)

    def reload(self, args: RouterArgs) -> None:
        """Use the keys of `args` from now on; limits that did not change keep their state."""
        self._keys, self._local_only = Keyring(args), not args.keys and args.auth != "none"
        self._locked = len(self._keys) > 0
        self._origins = frozenset(args.cors.origins)
        self.rate_limiter.configure(self._keys.grants)

    def caller(self, http_request: HttpRequest) -> Grant:
        """Return the permissions of a request's sender.

        Raises InvalidApiKey, AdminKeyRequired or OriginNotAllowed.
        """
        if not self._locked:
            if self._local_only and not _is_local(http_request.scope):
                raise InvalidApiKey(NOT_LOCAL)
            if self._local_only and not _names_this_machine(http_request.headers.get("host")):
                raise InvalidApiKey(NOT_THIS_HOST)
            if self._local_only and (origin := self._foreign_origin(http_request)) is not None:
                raise OriginNotAllowed(origin)
            return EVERYTHING
        key = presented(http_request.headers)
        grant = None if key is None else self._keys.find(key)
        needed = TABLE.caller(http_request.path)
        if grant is None:
            if needed is Audience.ANYONE:
                return NO_ACCESS
            raise InvalidApiKey
        if needed is Audience.ADMIN and not grant.admin:
            raise AdminKeyRequired(http_request.path)
        return grant

    def _foreign_origin(self, http_request: HttpRequest) -> str | None:
        """The origin of the page that sent a request, if it is neither the service's own nor
        allowed. Following a link to the console is allowed.
        """
        headers = http_request.headers
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "")
        if origin is None and site not in FOREIGN_SITES:
            return None
        if "*" in self._origins or origin in self._origins:
            return None
        if origin is not None:
            return None if _is_own(origin, headers.get("host", "")) else origin
        followed = (
            headers.get("sec-fetch-mode") == "navigate"
            and TABLE.caller(http_request.path) is Audience.ANYONE
        )
        return None if followed and http_request.scope["method"] in ("GET", "HEAD") else site

    def limits(self, grant: Grant) -> dict[str, str]:
        """OpenAI's headers about a key's limits."""
        limit_headers = {}
        for kind, limit, left, full_after_s in self.rate_limiter.left(grant):
            most, remaining, reset = _LIMIT_HEADERS[kind]
            limit_headers[most], limit_headers[remaining], limit_headers[reset] = (
                str(limit),
                str(left),
                duration(full_after_s),
            )
        return limit_headers

    def preflight(self, headers: Headers) -> dict[str, str] | None:
        """The headers that answer a CORS preflight; None if this is no preflight or no origin is
        allowed.
        """
        if (
            not self._origins
            or "origin" not in headers
            or "access-control-request-method" not in headers
        ):
            return None
        allowed = self.cors(headers)
        if "access-control-allow-origin" not in allowed:
            return allowed
        wanted = headers.get("access-control-request-headers", "")
        return (
            allowed
            | {
                "access-control-allow-methods": ALLOWED_METHODS,
                "access-control-max-age": str(PREFLIGHT_S),
                "vary": "origin, access-control-request-headers",
            }
            | ({"access-control-allow-headers": wanted} if _HEADER_NAMES.fullmatch(wanted) else {})
        )

    def cors(self, headers: Headers) -> dict[str, str]:
        """The headers that let a page of another origin read the answer."""
        if not self._origins:
            return {}
        if "*" in self._origins:
            return {"access-control-allow-origin": "*", "access-control-expose-headers": EXPOSED}
        origin = headers.get("origin", "")
        if origin not in self._origins:
            return {"vary": "origin"}
        return {
            "access-control-allow-origin": origin,
            "access-control-expose-headers": EXPOSED,
            "vary": "origin",
        }


def duration(seconds: float) -> str:
    """Format a time as OpenAI's headers do: `250ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{int(max(0.0, seconds) * 1000 + 0.5)}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _is_local(scope: Scope) -> bool:
    """Whether the peer of the connection is this machine; a server that reports no peer is a test's
    or serves a socket file.
    """
    peer = scope.get("client")
    return not peer or is_loopback(peer[0])


def _is_own(origin: str, host: str) -> bool:
    """Whether this service itself served the page of this origin: the same port, and a name of this
    machine.
    """
    scheme, _, place = origin.partition("://")
    own, other = _HOST.fullmatch(host.strip()), _HOST.fullmatch(place)
    return (
        scheme in ("http", "https")
        and own is not None
        and other is not None
        and (own[2] or "") == (other[2] or "")
        and is_loopback(other[1].lower().rstrip("."))
    )


@lru_cache(64)
def _names_this_machine(host: str | None) -> bool:
    """Whether the header `host` names this machine in a way that no foreign DNS record can;
    browsers always send it.
    """
    if host is None:
        return True
    name = _HOST.fullmatch(host.strip())
    return name is not None and is_loopback(name[1].lower().rstrip("."))
