"""An exact LRU cache of vectors, bounded in bytes.

The key of an entry is its model and a digest of everything else that the vector depends on: the
exact token ids, or the side and the prompted text for engines that take text. The digest also
covers the caller's scope (`cache.scope`): callers of the same scope share its vectors. It must
therefore be cryptographic, or an attacker could craft a text that returns another text's vector.
Vectors are stored in the model's own size: `router.spaces.fit` makes every smaller one from it, to
the same bits.

For one event loop: no locks. Concurrent requests for the same text are handled in dispatch.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from router.arrays import Vectors

# The overhead of an entry beside its 4 bytes a dimension: array, entry and key objects, slots in
# the dictionary. Measured with tracemalloc; checked in test_cache.py.
_ENTRY_BYTES = 450


class CachedVector(NamedTuple):
    """One text's vector (read-only, the model's own size) and the number of tokens read."""

    vector: Vectors
    tokens: int


class VectorCache:
    """At most `max_bytes` of vectors, keys and Python's overhead; 0 stores nothing."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: OrderedDict[tuple[str, bytes], CachedVector] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def unknown(self, model: str, digests: Sequence[bytes]) -> list[int]:
        """Index of the first occurrence of each uncached digest; neither counts nor touches
        entries.
        """
        entries = self._entries
        first: dict[bytes, int] = {}
        for index, digest in enumerate(digests):
            if (model, digest) not in entries:
                first.setdefault(digest, index)
        return list(first.values())

    def get_many(self, model: str, digests: Sequence[bytes]) -> list[CachedVector | None]:
        """The entry of each digest, or None; each counts as one hit or miss."""
        entries = self._entries
        found: list[CachedVector | None] = []
        for digest in digests:
            key = (model, digest)
            entry = entries.get(key)
            if entry is not None:
                entries.move_to_end(key)
            found.append(entry)
        misses = found.count(None)
        self.misses += misses
        self.hits += len(found) - misses
        return found

    def put_many(
        self, model: str, digests: Sequence[bytes], vectors: Vectors, tokens: Sequence[int]
    ) -> None:
        """Store a copy of each row of (len(digests), native) `vectors`.

        An entry that exists already only becomes recent. Raises ValueError if the three differ in
        length or the vectors are not float32.
        """
        if not len(digests) == len(vectors) == len(tokens):
            raise ValueError(
                f"{len(digests)} digests, {len(vectors)} vectors and {len(tokens)} token counts "
                "do not match"
            )
        if vectors.dtype != np.float32:
            raise ValueError(f"the cache keeps float32 vectors, these are {vectors.dtype}")
        entry_bytes = _ENTRY_BYTES + 4 * vectors.shape[1]
        if entry_bytes > self.max_bytes:
            return
        entries = self._entries
        for digest, row, count in zip(digests, vectors, tokens, strict=True):
            key = (model, digest)
            if key in entries:
                entries.move_to_end(key)
                continue
            vector = row.copy()  # a view would keep the whole batch alive
            vector.flags.writeable = False
            entries[key] = CachedVector(vector, count)
            self.used_bytes += entry_bytes
            while self.used_bytes > self.max_bytes:
                _, oldest = entries.popitem(last=False)
                self.used_bytes -= _ENTRY_BYTES + oldest.vector.nbytes
                self.evictions += 1
