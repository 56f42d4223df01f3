"""Which replica has read a prefix: texts that begin alike are quicker there, where its engine keeps
what it computed of a prefix. Pure.
"""

from collections import OrderedDict
from collections.abc import Container

MOST = 1024  # prefixes that are remembered, those used last


class PrefixHomes:
    """The replica of each prefix, for the prefixes that were sent last."""

    __slots__ = ("_homes",)

    def __init__(self) -> None:
        self._homes: OrderedDict[bytes, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._homes)

    def get(self, prefix: bytes | None) -> str | None:
        """The replica that has read it, if any."""
        return None if prefix is None else self._homes.get(prefix)

    def sent(self, prefix: bytes, replica: str, able: Container[str]) -> None:
        """A call with it goes to `replica`; its home stays where it is while that is in `able`."""
        if self._homes.get(prefix) not in able:
            self._homes[prefix] = replica
        self._homes.move_to_end(prefix)
        if len(self._homes) > MOST:
            self._homes.popitem(last=False)
