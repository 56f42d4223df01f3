"""Read a request's texts before the decision: tokens for every candidate model, and features.

Texts are repeated, above all searches. The result for a short single text is kept, so that a repeat
costs neither tokenisation nor language identification. Vectors are cached by router/cache.py.
"""

from collections.abc import Iterable, Sequence
from functools import _lru_cache_wrapper, cached_property, lru_cache, partial
from typing import NamedTuple

from deployments.service.prepare import Prepared, Preparer
from deployments.service.reading_pool import ReadingPool
from router.codes import parse_tag
from router.config import Limits
from router.domain import Features
from router.errors import InvalidValue
from router.features import extract
from router.language_id import NO_PRIOR, Prior
from router.schema import EmbeddingsRequest, Side

# a longer request is tokenised in a thread, so that other requests do not wait for it
OFF_LOOP_CHARACTERS = 5_000
TEXT_CHARACTERS = 20  # the fixed cost of a text, in characters
KNOWN_TEXTS = 8192  # of about 2 kB each at most, the text and its tokens
KNOWN_CHARACTERS = 400


class Read(NamedTuple):
    """The result of reading; requests can share the object, so it is never changed."""

    prepared: dict[str, Prepared]  # by model
    features: Features


class Reader:
    """Reads texts; create a new reader to change its settings."""

    def __init__(
        self,
        preparer: Preparer,
        language_prior: Prior = NO_PRIOR,
        limits: Limits | None = None,
        pool: ReadingPool | None = None,
    ) -> None:
        self._preparer, self._prior = preparer, language_prior
        self._limits = limits or Limits()
        self.pool = pool or ReadingPool(self._limits.max_reading_characters)

    @cached_property
    def known(self) -> "_lru_cache_wrapper[Read]":
        """Read a short text, or return the cached result; it and the reader refer to each other."""
        return lru_cache(KNOWN_TEXTS)(self._one)

    def is_short(self, texts: Sequence[str], instruction: str | None) -> bool:
        """Whether what is read from these texts is kept, so that reading them takes no thread."""
        return len(texts) == 1 and len(texts[0]) + len(instruction or "") <= KNOWN_CHARACTERS

    def reading(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        models: Iterable[str],
    ) -> int:
        """The cost of reading the texts, in characters; the longest prompt counts once per text."""
        prompt = 0
        for name in models:
            prompt = max(prompt, self._preparer.prompt_characters(name, side, instruction))
        return sum(map(len, texts)) + len(texts) * (prompt + TEXT_CHARACTERS)

    def check(self, client: str, characters: int) -> None:
        """Raise RateLimitExceeded if this many characters cannot be read now."""
        if characters > OFF_LOOP_CHARACTERS:
            self.pool.check(client, characters)

    async def read(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        language: str | None,
        models: tuple[str, ...],
        scope: str = "",
        client: str = "",
    ) -> Read:
        """Read texts for `models`. Raises InvalidValue for an unknown `language`, and ValueError
        naming a text that is not valid Unicode.
        """
        if self.is_short(texts, instruction):
            return self.known(texts[0], side, instruction, language, models, scope)
        return await self._read(texts, side, instruction, language, models, scope, client)

    async def _read(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        language: str | None,
        models: tuple[str, ...],
        scope: str,
        client: str,
    ) -> Read:
        """Read texts, in a thread if that takes long."""
        characters = self.reading(texts, side, instruction, models)
        if characters > OFF_LOOP_CHARACTERS:
            read = partial(self._prepare, texts, side, instruction, models, scope)
            prepared = await self.pool.run(client, characters, read)
        else:
            prepared = self._prepare(texts, side, instruction, models, scope)
        return Read(prepared, self._features(texts, language))

    async def cut(
        self, prepared: Prepared, request: EmbeddingsRequest, model: str, client: str
    ) -> tuple[Prepared, list[int]]:
        """Return the texts cut to what `model` reads, and which of them were cut."""
        where, texts = request.truncate, request.texts
        assert where in ("end", "start"), "the others are not cut"
        if texts is None:
            return self._preparer.cut_ids(prepared, model, where)
        if max(prepared.counts) <= self._preparer.longest_for(model):
            return prepared, []
        cut = partial(self._preparer.cut, prepared, texts, model, where, request.instruction)
        characters = self.reading(texts, prepared.side, request.instruction, (model,))
        return await self.pool.run(client, characters, cut)

    def _one(
        self,
        text: str,
        side: Side | None,
        instruction: str | None,
        language: str | None,
        models: tuple[str, ...],
        scope: str = "",
    ) -> Read:
        return Read(
            self._prepare((text,), side, instruction, models, scope),
            self._features((text,), language),
        )

    def _prepare(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        models: tuple[str, ...],
        scope: str,
    ) -> dict[str, Prepared]:
        return self._preparer.prepare(texts, side, instruction, models, self._limits, scope)

    def _features(self, texts: Sequence[str], language: str | None) -> Features:
        if language is not None:
            try:
                parse_tag(language)
            except ValueError as error:
                raise InvalidValue(str(error), "language") from None
        return extract(texts, language, self._prior)
