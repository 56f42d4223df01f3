"""Track which replica has read a prefix: texts with that prefix are faster there if its engine
caches prefixes. Pure.
"""

from collections import OrderedDict
from collections.abc import Container

MAX_PREFIXES = 1024  # most recently used prefixes that are kept


class PrefixHomes:
    """The replica of each prefix, for the prefixes that were sent last."""

    __slots__ = ("_homes",)

    def __init__(self) -> None:
        self._homes: OrderedDict[bytes, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._homes)

    def get(self, prefix: bytes | None) -> str | None:
        """The replica that has read `prefix`, if any."""
        return None if prefix is None else self._homes.get(prefix)

    def sent(self, prefix: bytes, replica: str, able: Container[str]) -> None:
        """Record a call with `prefix` to `replica`; its home changes only if not in `able`."""
        if self._homes.get(prefix) not in able:
            self._homes[prefix] = replica
        self._homes.move_to_end(prefix)
        if len(self._homes) > MAX_PREFIXES:
            self._homes.popitem(last=False)
