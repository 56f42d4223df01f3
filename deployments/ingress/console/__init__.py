"""The console at `/`: the page, style and scripts of this folder, served from memory, unbuilt.

The page uses the same HTTP interface as all clients. Its content security policy lets it load and
call this origin only, and run no script other than these files, whatever text gets into the page.
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
        """Headers for which browsers always ask again; a file is sent again only if it changed, so
        an upgrade shows at once.
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
        """Whether the caller already has this version; compressing proxies add `W/` to an ETag."""
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
