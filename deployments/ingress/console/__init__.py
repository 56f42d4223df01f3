"""The console at `/`: a page, its style and its scripts as they lie in this folder, served from
memory; nothing builds them.

The page gets what it shows from the same HTTP interface as everybody. Its policy lets it load and
call this origin only, and run no script that is not one of these files, whatever text finds its way
into it.
"""

import hashlib
from importlib.resources import files
from typing import NamedTuple

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "
    "'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


class Asset(NamedTuple):
    """One file of the console."""

    body: bytes
    content_type: str
    etag: str

    def headers(self) -> dict[str, str]:
        """Always asked for again, and sent again only when it has changed: an upgrade shows at
        once.
        """
        return {
            "etag": self.etag,
            "cache-control": "no-cache",
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
        }

    def known(self, if_none_match: str) -> bool:
        """Whether the caller has this version already; proxies that compress make `W/` of an
        ETag.
        """
        return self.etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))


def _read() -> dict[str, Asset]:
    found = {}
    for file in files(__package__).iterdir():
        kind = TYPES.get("." + file.name.rpartition(".")[2])
        if kind is not None:
            body = file.read_bytes()
            path = "/" if file.name == "index.html" else f"/console/{file.name}"
            found[path] = Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


ASSETS = _read()
