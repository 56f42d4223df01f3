"""A set whose members can be counted off, added and removed in O(1)."""

from collections.abc import Hashable
from typing import Generic, TypeVar

M = TypeVar("M", bound=Hashable)


class Group(Generic[M]):
    """An unordered set with indexed members; members are added and removed in O(1)."""

    __slots__ = ("_places", "members")

    def __init__(self) -> None:
        self.members: list[M] = []
        self._places: dict[M, int] = {}

    def add(self, member: M) -> None:
        """Add a member; no effect if it is one already."""
        if member not in self._places:
            self._places[member] = len(self.members)
            self.members.append(member)

    def discard(self, member: M) -> None:
        """Remove a member; the last one moves to its place."""
        place = self._places.pop(member, None)
        if place is not None:
            last = self.members.pop()
            if place < len(self.members):
                self.members[place] = last
                self._places[last] = place
