"""Encode queries with students in the router's own process, without a replica."""

import asyncio
import time

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.service.prepare import Prepared
from deployments.service.refusals import reads_nothing
from deployments.service.turns import LARGE_TEXTS, Turns
from router.arrays import Vectors
from router.cache import CachedVector, VectorCache
from router.student import Student

AT_ONCE_TOKENS = 2000  # about 5 ms; more, or many texts, are encoded in a thread


class StudentGatherer:
    """One student's cache lookups and vectors, with the interface of Gatherer."""

    coalesced = 0  # no text is in flight long enough to be awaited

    def __init__(
        self, model: str, student: Student, cache: VectorCache, turns: Turns | None = None
    ) -> None:
        self._model, self._student, self._cache = model, student, cache
        self._turns = turns or Turns()

    async def gather(self, prepared: Prepared, deadline_s: float, bulk: bool) -> Rows:
        """Return the vectors of the texts; vectors that are not in the cache are computed now.

        Raises InvalidValue for a text of which the student reads nothing, as for one that was cut
        before all that it knows. No vector of it is kept.
        """
        digests, counts = prepared.digests, prepared.counts
        if len(digests) > LARGE_TEXTS:
            await self._turns.next()
        entries: list[CachedVector | None] = [None] * len(digests)
        if not prepared.fresh:
            entries = self._cache.get_many(self._model, digests)
        new = [place for place, entry in enumerate(entries) if entry is None]
        began = time.perf_counter()
        made = await self._encode(prepared, new)
        took_s = time.perf_counter() - began
        lengths = np.linalg.norm(made, axis=1)
        if not (lengths > 0.0).all():
            raise reads_nothing(new[int(np.argmin(lengths))], self._model)

        def keep() -> None:
            self._cache.put_many(
                self._model,
                [digests[place] for place in new],
                made,
                [counts[place] for place in new],
            )

        if len(new) > LARGE_TEXTS and not prepared.fresh:
            await self._turns.run(keep)
        elif not prepared.fresh:
            keep()
        if len(new) == len(digests):
            return Rows(made, list(counts), {}, 0.0, took_s)
        vectors = np.empty((len(digests), made.shape[1]), np.float32)
        vectors[new] = made
        for place, entry in enumerate(entries):
            if entry is not None:
                vectors[place] = entry.vector
        known = len(digests) - len(new)
        return Rows(vectors, list(counts), {}, 0.0, took_s if new else 0.0, known)

    async def _encode(self, prepared: Prepared, new: list[int]) -> Vectors:
        assert prepared.ids is not None, "the router reads for a student"
        ids = [prepared.ids[place] for place in new]
        tokens = sum(prepared.counts[place] for place in new)
        if tokens <= AT_ONCE_TOKENS and len(new) <= LARGE_TEXTS:
            return self._student.encode_ids(ids)
        return await asyncio.to_thread(self._student.encode_ids, ids)
