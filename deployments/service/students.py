"""Encode queries with students in the router's own process, without a replica."""

import asyncio
import time

import numpy as np

from deployments.dispatch.chunks import Rows
from deployments.service.prepare import Prepared
from router.cache import VectorCache
from router.student import Student

AT_ONCE_TOKENS = 2000  # about 5 ms; more are encoded in a thread


class StudentGatherer:
    """One student's cache lookups and vectors, with the interface of Gatherer."""

    coalesced = 0  # no text is in flight long enough to be awaited

    def __init__(self, model: str, student: Student, cache: VectorCache) -> None:
        self._model, self._student, self._cache = model, student, cache

    async def gather(self, prepared: Prepared, deadline_s: float, bulk: bool) -> Rows:
        """Return the vectors of the texts; those that are not in the cache are computed now."""
        assert prepared.ids is not None, "the router reads for a student"
        began, digests = time.perf_counter(), prepared.digests
        entries = self._cache.get_many(self._model, digests)
        new = [place for place, entry in enumerate(entries) if entry is None]
        ids = [prepared.ids[place] for place in new]
        if sum(prepared.counts[place] for place in new) <= AT_ONCE_TOKENS:
            made = self._student.encode_ids(ids)
        else:
            made = await asyncio.to_thread(self._student.encode_ids, ids)
        self._cache.put_many(
            self._model,
            [digests[place] for place in new],
            made,
            [prepared.counts[place] for place in new],
        )
        vectors = np.empty((len(digests), made.shape[1]), np.float32)
        vectors[new] = made
        for place, entry in enumerate(entries):
            if entry is not None:
                vectors[place] = entry.vector
        took_s, known = time.perf_counter() - began, len(digests) - len(new)
        return Rows(vectors, list(prepared.counts), {}, 0.0, took_s if new else 0.0, known)
