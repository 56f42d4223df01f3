"""Pairs of a query and its documents, as each reranker reads them.

A reranker with its own model reads both in one text, built from its template. Rescoring by
similarity embeds the query once and each document alone. Both count and cut the document.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Literal

from deployments.service.cutting import by_counting
from deployments.service.prepare import Prepared, Preparer
from deployments.service.reader import TEXT_CHARACTERS, Read, Reader
from deployments.service.reading_pool import ReadingPool
from router.config import Limits
from router.domain import Features
from router.errors import ContextLengthExceeded, InvalidValue, MaxTokensPerRequest, RouterError
from router.features import of_pairs
from router.language_id import Prior
from router.rerank_config import RerankerConfig
from router.rerank_schema import RerankRequest
from router.schema import Side
from router.token_estimate import estimated_tokens

_PLACE = re.compile(r"\{(instruction|query)\}")
_CUTTING = re.compile(r"shorten it, split it, or .*|send its texts in several requests$")
_MARK = "."  # replaces a document where a prompt's own tokens are counted


@dataclass(frozen=True, slots=True)
class PreparedPairs(Prepared):
    """Documents with their prompts; `query` is set where it is a separate text."""

    query: Prepared | None = None
    limit: int | None = None  # most tokens of a document with its prompt, by the request


class PairPreparer(Preparer):
    """Prepares the pairs of one request with the tokenizers of `other`."""

    def __init__(
        self, other: Preparer, rerankers: Mapping[str, RerankerConfig], request: RerankRequest
    ) -> None:
        self._models, self.tokenizers = other._models, other.tokenizers
        self._rerankers, self._request = rerankers, request
        self._limits: dict[str, int] = {}

    def _prompt(self, model: str, side: Side, instruction: str | None) -> tuple[str, str]:
        config = self._rerankers[model]
        if config.similarity is not None:
            return super()._prompt(model, side, instruction)
        query = self._request.query
        if config.template is None:  # the engine sends both to another server
            return f"{len(query)}:{query}", ""
        task = config.instruction if instruction is None else instruction
        values = {"query": query, "instruction": task}
        before, after = (
            _PLACE.sub(lambda place: values[place[1]], part)
            for part in config.template.split("{document}")
        )
        return before, after

    def prefix_of(self, model: str, instruction: str | None) -> bytes | None:
        """A digest of the text before each document; None if the query is not part of it."""
        if self._rerankers[model].similarity is not None:
            return None
        before, _ = self._prompt(model, "document", instruction)
        return blake2b(before.encode(), digest_size=16).digest()

    def longest_for(self, model: str) -> int:
        """The most tokens of a document with its prompt, within the request's limit."""
        limit = self.limit_for(model)
        own = super().longest_for(model)
        return own if limit is None else min(own, limit)

    def cut(
        self,
        prepared: Prepared,
        texts: Sequence[str],
        model: str,
        where: Literal["end", "start"],
        instruction: str | None,
    ) -> tuple[Prepared, list[int]]:
        """Shorten the documents that are too long; by the estimate where there is no tokenizer."""
        most = self._request.max_tokens_per_doc
        if prepared.exact or most is None:
            return super().cut(prepared, texts, model, where, instruction)
        parts = [_shortened(text, most, where) for text in texts]
        long = [index for index, part in enumerate(parts) if part != texts[index]]
        made = self.prepare(parts, prepared.side, instruction, [model], None, prepared.scope)[model]
        shorter = {name: getattr(made, name) for name in ("texts", "counts", "digests")}
        return replace(prepared, **shorter), long

    def limit_for(self, model: str) -> int | None:
        """`max_tokens_per_doc` plus the prompt's own tokens; None where it is not given."""
        most = self._request.max_tokens_per_doc
        if most is None:
            return None
        if model not in self._limits:
            self._limits[model] = most + self.prompt_tokens(model)
        return self._limits[model]

    def prompt_tokens(self, model: str) -> int:
        """Tokens of the prompt around a document."""
        tokenizer = self.tokenizers[model]
        if tokenizer is None:
            return 0
        before, after = self._prompt(model, "document", self._request.common.instruction)
        return tokenizer([before + _MARK + after], "document").counts[0] - 1


class PairReader(Reader):
    """Reads the documents of one request, and its query."""

    def __init__(
        self,
        preparer: PairPreparer,
        request: RerankRequest,
        prior: Prior,
        limits: Limits,
        pool: ReadingPool,
    ) -> None:
        super().__init__(preparer, prior, limits, pool)
        self.request, self.pairs = request, preparer
        self.documents: Features | None = None  # of the documents alone, once they are read

    def is_short(self, texts: Sequence[str], instruction: str | None) -> bool:
        """Never: nothing is kept, and the query can be long."""
        return False

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
        """Read as PreparedPairs. Raises ContextLengthExceeded where no model reads the query."""
        return await self._read(texts, side, instruction, language, models, scope, client)

    def _features(self, texts: Sequence[str], language: str | None) -> Features:
        """Those of the pairs."""
        own = self.documents = super()._features(texts, language)
        query = super()._features([self.request.query], language)
        return of_pairs(query, own, len(texts))

    def reading(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        models: Iterable[str],
    ) -> int:
        """The cost of reading the documents, and the query as one more text."""
        query = len(self.request.query) + TEXT_CHARACTERS
        return query + super().reading(texts, side, instruction, models)

    def _prepare(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        models: tuple[str, ...],
        scope: str,
    ) -> dict[str, Prepared]:
        try:
            documents = super()._prepare(texts, side, instruction, models, scope)
        except InvalidValue as error:
            raise self._of_prompts(error, len(texts)) from None
        rerankers, most = self.pairs._rerankers, self._limits.max_tokens_per_request
        apart = [name for name in documents if rerankers[name].similarity is not None]
        queries = self._queries(instruction, apart, scope, len(apart) == len(documents))
        prepared: dict[str, Prepared] = {}
        for name, one in documents.items():
            query = queries.get(name)
            if name in apart and (query is None or sum((*one.counts, *query.counts)) > most):
                continue
            own = {field.name: getattr(one, field.name) for field in fields(Prepared)}
            own["prefix"] = self.pairs.prefix_of(name, instruction)
            limit = self.pairs.limit_for(name)
            prepared[name] = PreparedPairs(**own, query=query, limit=limit)
        if not prepared:
            raise MaxTokensPerRequest(None, most)
        self._check_query(prepared)
        return prepared

    def _queries(
        self, instruction: str | None, models: Sequence[str], scope: str, alone: bool
    ) -> dict[str, Prepared]:
        """Prepare the query as a text; models for which it has too many tokens are left out."""
        query = (self.request.query,)
        try:
            return self.pairs.prepare(query, "query", instruction, models, self._limits, scope)
        except MaxTokensPerRequest as error:
            if alone:
                raise of_query(error) from None
            return {}

    def _of_prompts(self, error: InvalidValue, documents: int) -> InvalidValue:
        """The error of prompts that are too long; it names the query if that makes them so."""
        characters, most = len(self.request.query), self._limits.max_prompt_characters
        if characters * documents <= most:
            return error
        return InvalidValue(
            f"query has {characters} characters and is repeated for each of {documents} documents; "
            f"the limit is {most} in all (limits.max_prompt_characters); shorten it, or send "
            "fewer documents",
            "query",
        )

    def _check_query(self, prepared: Mapping[str, Prepared]) -> None:
        """Raise ContextLengthExceeded where no model has room for the query."""
        room: dict[str, int] = {}
        for name, one in prepared.items():
            if not one.exact or max(one.counts) <= self._preparer.longest_for(name):
                taken = 0
            else:
                taken = self.pairs.prompt_tokens(name)
            query = one.query if isinstance(one, PreparedPairs) else None
            taken = max(taken, 0 if query is None else query.counts[0] - 1)
            room[name] = Preparer.longest_for(self.pairs, name) - taken
        if room and max(room.values()) <= 0:
            name = max(room, key=lambda name: room[name])
            limit = Preparer.longest_for(self.pairs, name)
            error = ContextLengthExceeded(0, limit - room[name] + 1, limit, name)
            error.param, error.message = (
                "query",
                f"query has {limit - room[name] + 1} tokens with what is around it and {name} "
                f"reads {limit} with a document; shorten it: a query is never cut",
            )
            raise error


def of_query(error: RouterError) -> RouterError:
    """Reword the error of a query that was read as a separate text for this route."""
    error = error.renamed(dict.fromkeys(("input", "input[0]"), "query"))
    error.message = _CUTTING.sub("shorten it: a query is never cut", error.message)
    return error


def _shortened(text: str, most: int, where: Literal["end", "start"]) -> str:
    """Cut a text at its end or start to at most `most` estimated tokens."""
    count = estimated_tokens(text)
    if count <= most:
        return text

    def part(length: int) -> str:
        return text[:length] if where == "end" else text[len(text) - length :]

    return part(by_counting(lambda length: estimated_tokens(part(length)), count, len(text), most))
