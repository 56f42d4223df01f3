"""Requests that were read before, by their bytes.

A search that is repeated has the same body and headers. With the same config and permissions they
mean the same, so they are not parsed and merged again.
"""

from collections import OrderedDict
from typing import NamedTuple

from router.keys import Grant
from router.names import PathPrefix
from router.schema import EmbeddingsRequest
from router.shapes.form import Incoming
from router.spaces import Catalogue

KNOWN_REQUESTS = 4096  # of about 4 kB each at most
KNOWN_BYTES = 1024  # of a body, its path and settings


class Sent(NamedTuple):
    """All that the meaning of a request depends on, besides the config."""

    body: bytes
    path: str
    address: PathPrefix | None
    headers: tuple[tuple[str, str], ...]  # those that are settings
    key: str  # its name

    @property
    def is_short(self) -> bool:
        """Whether it can be kept; the hash of a long body takes as long as reading it."""
        values = sum(len(value) for _, value in self.headers)
        return len(self.body) + len(self.path) + values <= KNOWN_BYTES


class KnownRequest(NamedTuple):
    """A request with its settings, and how its answer is written."""

    request: EmbeddingsRequest
    incoming: Incoming


class KnownRequests:
    """The last short requests of one router. Those that were refused are read again."""

    def __init__(self, most: int = KNOWN_REQUESTS) -> None:
        self._most = most
        self._catalogue: Catalogue | None = None
        self._known: OrderedDict[Sent, tuple[Grant, KnownRequest]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def find(self, sent: Sent, grant: Grant, catalogue: Catalogue) -> KnownRequest | None:
        """The request read from `sent` with this grant and catalogue; a reload replaces both."""
        if catalogue is not self._catalogue:
            self._known.clear()
            self._catalogue = catalogue
        # longer ones are not kept
        found = self._known.get(sent) if len(sent.body) <= KNOWN_BYTES else None
        if found is None or found[0] is not grant:
            return None
        self._known.move_to_end(sent)
        return found[1]

    def keep(self, sent: Sent, grant: Grant, read: KnownRequest) -> None:
        """Keep a request that was read after `find`, in place of the oldest. Lists and bulk are not
        kept: they are rarely repeated, and a short body can hold hundreds of texts.
        """
        if sent.is_short and read.request.items == 1 and read.request.priority != "bulk":
            self._known[sent] = grant, read
            if len(self._known) > self._most:
                self._known.popitem(last=False)
