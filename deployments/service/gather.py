"""Collect the vectors of one request: cached texts are looked up, texts in flight are awaited, and
the rest is sent.

Everything is keyed by model and digest of what the model reads, so nothing crosses models. Order
and duplicates are kept: each text of the request ends in the row it had. A text is awaited only
where that costs little. An interactive request does not wait for a bulk one, and no request waits
for one of several batches. If the request that sent a text fails or is cancelled, the waiting ones
send it themselves. A fresh request (`Prepared.fresh`) shares nothing with other requests: its texts
are neither looked up nor awaited, and its vectors are not kept.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from deployments.dispatch.chunks import Rows, TextChunk
from deployments.dispatch.dispatcher import ModelDispatcher
from deployments.service.prepare import Prepared
from deployments.service.shared_cache import SharedCache
from deployments.service.turns import LARGE_TEXTS, Turns
from router.admission import RETRY_AFTER_S
from router.cache import CachedVector, VectorCache
from router.errors import (
    INPUT,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidValue,
    ModelUnavailable,
)

T = TypeVar("T")


@dataclass(slots=True, frozen=True)
class InFlightText:
    """The place where the vector of a text in flight will appear."""

    made: "asyncio.Future[Rows]"
    row: int
    bulk: bool


class Gatherer:
    """One model's cache lookups, texts in flight, and dispatcher."""

    def __init__(
        self,
        dispatcher: ModelDispatcher,
        cache: VectorCache,
        shared: SharedCache | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._dispatcher, self._cache, self._shared = dispatcher, cache, shared
        self._turns = turns or Turns()
        self.in_flight: dict[bytes, InFlightText] = {}
        self.coalesced = 0  # texts that waited for another request's

    async def gather(self, prepared: Prepared, deadline_s: float, bulk: bool) -> Rows:
        """Return all rows. Raises RouterError if one is missing at `deadline_s`, which is on the
        dispatcher's clock.
        """
        dispatcher, digests = self._dispatcher, prepared.digests
        if len(digests) > LARGE_TEXTS:
            await self._turns.next()
        entries: list[CachedVector | None] = [None] * len(digests)
        if not prepared.fresh:
            entries = self._cache.get_many(dispatcher.model, digests)
        if self._shared is not None and None in entries and not prepared.fresh:
            await self._look_further(self._shared, digests, entries)
        if None not in entries:
            return self._known(entries)
        in_flight = {} if prepared.fresh else self.in_flight
        own, others = _unknown(digests, entries, in_flight, bulk)
        if len(own) == len(digests):  # the hot path: all new, all different
            return await self._send(prepared, own, None, deadline_s, bulk)

        made = Rows(np.empty((0, dispatcher.dimensions), np.float32), [], {}, 0.0, 0.0)
        places = [place for place, digest in enumerate(digests) if digest in own]
        if own:
            made = await self._send(prepared, own, _firsts(places, digests), deadline_s, bulk)
        found = await self._wait(others, prepared, deadline_s, bulk)
        vectors = np.empty((len(digests), dispatcher.dimensions), np.float32)
        tokens = [0] * len(digests)
        rows = [own[digests[place]] for place in places]
        vectors[places] = made.vectors[rows]
        for place, row in zip(places, rows, strict=True):
            tokens[place] = made.tokens[row]
        for place, (digest, entry) in enumerate(zip(digests, entries, strict=True)):
            if entry is not None:
                vectors[place], tokens[place] = entry
            elif digest in found:
                source, row = found[digest]
                vectors[place], tokens[place] = source.vectors[row], source.tokens[row]
        known = 0 if prepared.fresh else len(digests) - len(own)
        return made._replace(vectors=vectors, tokens=tokens, known=known)

    def _known(self, entries: Sequence[CachedVector | None]) -> Rows:
        """The rows of texts that are all in the cache."""
        vectors = np.empty((len(entries), self._dispatcher.dimensions), np.float32)
        tokens: list[int] = []
        for place, entry in enumerate(entries):
            assert entry is not None, "the caller has looked"
            vectors[place] = entry.vector
            tokens.append(entry.tokens)
        return Rows(vectors, tokens, {}, 0.0, 0.0, len(entries))

    async def _look_further(
        self, shared: SharedCache, digests: Sequence[bytes], entries: list[CachedVector | None]
    ) -> None:
        """Fill `entries` and the own cache from the shared one, except texts in flight."""
        unknown = {
            digest: place
            for place, digest in enumerate(digests)
            if entries[place] is None and digest not in self.in_flight
        }
        if not unknown:
            return
        found = {
            digest: entry
            for digest, entry in zip(
                unknown, await shared.get_many(self._dispatcher.model, list(unknown)), strict=True
            )
            if entry is not None
        }
        if len(found) > LARGE_TEXTS:
            await self._turns.next()
        if found:
            self._cache.put_many(
                self._dispatcher.model,
                list(found),
                np.stack([entry.vector for entry in found.values()]),
                [entry.tokens for entry in found.values()],
            )
            for place, digest in enumerate(digests):
                entries[place] = entries[place] or found.get(digest)

    async def _wait(
        self, others: dict[bytes, InFlightText], prepared: Prepared, deadline_s: float, bulk: bool
    ) -> dict[bytes, tuple[Rows, int]]:
        """Await texts that other requests sent; send those whose sender failed."""
        found: dict[bytes, tuple[Rows, int]] = {}
        self.coalesced += len(others)
        if others:
            left_s = max(0.0, deadline_s - self._dispatcher.clock())
            await asyncio.wait({waited.made for waited in others.values()}, timeout=left_s)
        again: dict[bytes, int] = {}
        for digest, waited in others.items():
            if (
                waited.made.done()
                and not waited.made.cancelled()
                and waited.made.exception() is None
            ):
                found[digest] = (waited.made.result(), waited.row)
            else:
                again[digest] = len(again)
        if again:
            places = [place for place, digest in enumerate(prepared.digests) if digest in again]
            made = await self._send(
                prepared, again, _firsts(places, prepared.digests), deadline_s, bulk
            )
            found |= {digest: (made, row) for digest, row in again.items()}
        return found

    async def _send(
        self,
        prepared: Prepared,
        own: dict[bytes, int],
        places: list[int] | None,
        deadline_s: float,
        bulk: bool,
    ) -> Rows:
        """Send the texts at `places` (None: all), whose digests are `own` in the same order."""
        dispatcher = self._dispatcher
        shared: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()
        counts = prepared.counts if places is None else [prepared.counts[place] for place in places]
        # no request waits for the rest of a large one
        if sum(counts) <= dispatcher.batch_tokens and not prepared.fresh:
            for digest, row in own.items():
                self.in_flight[digest] = InFlightText(shared, row, bulk)
        try:
            made = await self._calls_run(prepared, places, list(own), deadline_s, bulk)
            shared.set_result(made)
            if prepared.fresh:
                return made
            if len(prepared.counts) > LARGE_TEXTS:
                await self._turns.run(lambda: self._keep(list(own), made))
            else:
                self._keep(list(own), made)
            return made
        finally:
            shared.cancel()
            for digest in own:
                if (waited := self.in_flight.get(digest)) is not None and waited.made is shared:
                    del self.in_flight[digest]

    def _keep(self, digests: list[bytes], made: Rows) -> None:
        model = self._dispatcher.model
        self._cache.put_many(model, digests, made.vectors, made.tokens)
        if self._shared is not None:
            self._shared.put_many(model, digests, made.vectors, made.tokens)

    def _keep_answered(self, chunks: Sequence[TextChunk], digests: Sequence[bytes]) -> None:
        """Keep what was made for a request that failed, or whose caller left."""
        start = 0
        for chunk in chunks:
            future, end = chunk.future, start + len(chunk.lengths)
            if future.done() and not future.cancelled() and future.exception() is None:
                made = future.result()
                rows = [row for row in range(end - start) if row not in made.failed]
                part = made._replace(
                    vectors=made.vectors[rows], tokens=[made.tokens[row] for row in rows]
                )
                self._keep([digests[start + row] for row in rows], part)
            start = end

    async def _calls_run(
        self,
        prepared: Prepared,
        places: list[int] | None,
        digests: list[bytes],
        deadline_s: float,
        bulk: bool,
    ) -> Rows:
        """Return the rows of all texts; if one has none, the cache keeps the others."""
        dispatcher = self._dispatcher
        left_s = deadline_s - dispatcher.clock()
        chunks = dispatcher.submit(
            _at(prepared.ids, places),
            _at(prepared.texts, places),
            _at(prepared.counts, places) or (),
            prepared.side,
            deadline_s,
            bulk,
            prepared.prefix,
        )
        try:
            async with asyncio.timeout(max(0.0, left_s)):
                answers = [await chunk.future for chunk in chunks]
            self._check(answers, places, left_s)
        except BaseException as error:
            keep = partial(self._keep_answered, chunks, digests)
            if len(digests) > LARGE_TEXTS and not prepared.fresh:
                self._turns.later(keep)
            elif not prepared.fresh:
                keep()
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(left_s) from None
            raise
        finally:
            for chunk in chunks:
                if not chunk.future.cancel() and not chunk.future.cancelled():
                    # retrieve the error of a later chunk, or asyncio logs it
                    chunk.future.exception()
        if len(answers) == 1:
            return answers[0]
        last = max(answers, key=lambda answer: answer.stamps[-1:])
        return Rows(
            np.concatenate([answer.vectors for answer in answers]),
            [count for answer in answers for count in answer.tokens],
            {},
            max(answer.queue_s for answer in answers),
            max(answer.inference_s for answer in answers),
            stamps=last.stamps,
            call_texts=last.call_texts,
            joined=any(answer.joined for answer in answers),
        )

    def _check(self, answers: list[Rows], places: list[int] | None, limit_s: float) -> None:
        """Raise the contract's error for the first text that has no vector."""
        start, model = 0, self._dispatcher.model
        for answer in answers:
            for row, failure in answer.failed.items():
                place = start + row if places is None else places[start + row]
                if failure.code == "too_long":
                    raise ContextLengthExceeded(place, failure.tokens, failure.limit, model)
                if failure.code == "invalid":
                    raise InvalidValue(f"{INPUT}[{place}]: {failure.message}", "input")
                if failure.code == "expired":
                    raise DeadlineExceeded(limit_s)
                raise ModelUnavailable(
                    [f"{model} could not embed {INPUT}[{place}]: {failure.message}"],
                    RETRY_AFTER_S,
                    sent=True,
                )
            start += len(answer.tokens)


def _unknown(
    digests: Sequence[bytes],
    entries: Sequence[CachedVector | None],
    in_flight: Mapping[bytes, InFlightText],
    bulk: bool,
) -> tuple[dict[bytes, int], dict[bytes, InFlightText]]:
    """The texts that a request sends, with their rows, and those that other requests have sent."""
    own: dict[bytes, int] = {}
    others: dict[bytes, InFlightText] = {}
    for digest, entry in zip(digests, entries, strict=True):
        if entry is None and digest not in own and digest not in others:
            waited = in_flight.get(digest)
            if waited is not None and (bulk or not waited.bulk):
                others[digest] = waited
            else:
                own[digest] = len(own)
    return own, others


def _firsts(places: list[int], digests: Sequence[bytes]) -> list[int]:
    """The first place of each digest."""
    seen: dict[bytes, int] = {}
    for place in places:
        seen.setdefault(digests[place], place)
    return list(seen.values())


def _at(values: Sequence[T] | None, places: list[int] | None) -> Sequence[T] | None:
    return values if values is None or places is None else [values[place] for place in places]
