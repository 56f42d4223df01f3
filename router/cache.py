"""Vectors of texts that were embedded before: exact, least recently used out first, bounded in
bytes.

An entry is known by its model and by a digest of everything else that the vector depends on: the
exact token ids, or the side and the prompted text for engines that take text. The digest
is of the caller's scope too (`cache.scope`): those who share one share its vectors; hence it must
be cryptographic, or a text could be made to answer with another's vector. What is kept is the
vector in the model's own size: `router.spaces.fit` makes every smaller one from it, to the same
bits.

For one event loop: no locks. Requests that wait for the same text at the same time are dispatch's
matter.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from router.arrays import Vectors

# What an entry costs beside its 4 bytes a dimension: array, entry and key objects, places in the
# dictionary. Measured with tracemalloc; test_cache.py holds it to that.
_ENTRY_BYTES = 450


class Entry(NamedTuple):
    """One text's vector (read-only, the model's own size) and the tokens that the model read
    of it.
    """

    vector: Vectors
    tokens: int


class VectorCache:
    """At most `max_bytes` of vectors, their keys and what Python needs around them; 0 keeps
    nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self._entries: OrderedDict[tuple[str, bytes], Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def unknown(self, model: str, digests: Sequence[bytes]) -> list[int]:
        """The places of the digests that have no entry; asks without counting and without keeping
        anything recent.
        """
        entries = self._entries
        if not entries:
            return list(range(len(digests)))
        return [index for index, digest in enumerate(digests) if (model, digest) not in entries]

    def get_many(self, model: str, digests: Sequence[bytes]) -> list[Entry | None]:
        """The entry of each digest, None where it is not known; each counts as one hit or miss."""
        entries = self._entries
        found: list[Entry | None] = []
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
        """Keep a copy of each row of (len(digests), native) `vectors`; what is there already only
        becomes recent.

        Raises ValueError when the three differ in length or the vectors are not float32.
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
            entries[key] = Entry(vector, count)
            self.used_bytes += entry_bytes
            while self.used_bytes > self.max_bytes:
                _, oldest = entries.popitem(last=False)
                self.used_bytes -= _ENTRY_BYTES + oldest.vector.nbytes
                self.evictions += 1
