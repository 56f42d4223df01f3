"""Prompt and tokens of a request, computed once for all models that read them alike.

Models with the same tokenizer and prompt (the whole Qwen3 family) share one tokenisation. An engine
that takes text gets the prompted text. Its tokens are counted here if its tokenizer is available,
otherwise estimated. The engine then checks the length itself, except for servers elsewhere: those
can cut a text silently, so the estimate is their limit.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from deployments.service.cutting import longest_that_fits, spliced
from router.arrays import TokenIds
from router.config import Limits, RouterArgs
from router.encoder_check import load_student
from router.errors import InvalidValue, MaxTokensPerRequest
from router.file_tokenizers import of_library
from router.schema import Side
from router.token_estimate import Estimate, estimated_tokens
from router.tokenised_texts import TokenisedTexts, refuse_surrogates
from router.tokenizer import Tokenizer, load

PIECE_CHARACTERS = 65_536  # tokenised at a time, where tokens are limited
CUT_TOKENS = 128  # that a cut between two pieces can add: at most an unknown word in two
_FRESH = "\0"  # begins no name of a key


def fresh_scope(scope: str) -> str:
    """Return the scope of requests that no cache may answer, for callers of `scope`.

    It has at most 64 bytes, as the digests' key must.
    """
    return _FRESH + hashlib.blake2b(scope.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Prepared:
    """The texts of one request as one group of models reads them."""

    ids: Sequence[TokenIds] | None  # one array a text, or None where the engine takes text
    texts: Sequence[str] | None  # prompted, where the engine takes text
    counts: Sequence[int]
    side: Side
    exact: bool  # counts are final: a tokenizer's, or the estimate for a server
    # one a text, of what the model reads and of the scope: the cache's key
    digests: Sequence[bytes]
    # share of each text's tokens that the tokenizer does not know; None where it knows all
    unread: Sequence[float] | None = None
    scope: str = ""
    prefix: bytes | None = None  # of the texts' common beginning, where an engine can use it

    @property
    def fresh(self) -> bool:
        """Whether vectors of other requests, cached or in flight, must not answer this one."""
        return self.scope.startswith(_FRESH)

    @property
    def unreadable(self) -> list[int]:
        """Places of the texts of which the model reads nothing."""
        if self.unread is None and all(self.counts):
            return []
        unread = self.unread or [0.0] * len(self.counts)
        return [
            place
            for place, (count, share) in enumerate(zip(self.counts, unread, strict=True))
            if not count or share >= 1.0
        ]

    @property
    def mean_unread(self) -> float:
        """Mean share of unknown tokens over the texts."""
        return sum(self.unread) / len(self.unread) if self.unread else 0.0

    def unread_by(self, min_share: float) -> float:
        """The share of unknown tokens that `min_share` of the texts reach."""
        if not self.unread:
            return 0.0
        texts = len(self.unread)
        least = next(count for count in range(1, texts + 1) if count / texts >= min_share)
        return sorted(self.unread, reverse=True)[least - 1]


class Preparer:
    """The tokenizers of all models of a config; thread-safe."""

    _by_source: dict[tuple[str, bool, str | None], Tokenizer]

    def __init__(self, args: RouterArgs, other: "Preparer | None" = None) -> None:
        """Share the tokenizers that `other` has."""
        self._models = args.models
        self.tokenizers: dict[str, Tokenizer | None] = {}
        by_source = self._by_source = {} if other is None else other._by_source
        for name, model in args.models.items():
            if model.engine.in_router:
                student = load_student(model, args.base_dir)
                self.tokenizers[name] = of_library(student.tokenizer, student.fingerprint, False)
                continue
            if model.tokenizer is None:
                self.tokenizers[name] = Estimate() if model.engine.runs_elsewhere else None
                continue
            key = (model.tokenizer, model.special_tokens, model.pinned(model.tokenizer))
            if key not in by_source:
                by_source[key] = load(key[0], key[1], args.base_dir, key[2])
            self.tokenizers[name] = by_source[key]

    def prepare(
        self,
        texts: Sequence[str],
        side: Side | None,
        instruction: str | None,
        models: Iterable[str],
        limits: Limits | None = None,
        scope: str = "",
    ) -> dict[str, Prepared]:
        """Prompt and tokenise texts for each model; models that read alike share one value.

        Digests of another `scope` never match in a cache. Models for which the texts have more
        tokens than `limits` allow are left out. Raises MaxTokensPerRequest if none is left, and
        InvalidValue if the prompts of all texts are too long.
        """
        most = None if limits is None else limits.max_tokens_per_request
        groups: dict[tuple[object, ...], Prepared | None] = {}
        prompts: dict[tuple[str, str], Sequence[str]] = {("", ""): texts}
        prepared = {}
        for name in models:
            config = self._models[name]
            own_side: Side = side or config.prompts.default
            before, after = self._prompt(name, own_side, instruction)
            tokenizer = self.tokenizers[name]
            takes_text = not (config.engine.takes_token_ids or config.engine.in_router)
            prompted = prompts.get((before, after))
            if prompted is None:
                if limits is not None:
                    _check_prompts(len(texts), len(before) + len(after), instruction, limits)
                prompted = prompts[before, after] = [before + text + after for text in texts]
            key = (
                tokenizer.key_for(prompted) if tokenizer else name,
                before,
                after,
                takes_text,
                own_side,
            )
            if key not in groups:
                groups[key] = _tokenised(
                    prompted, own_side, tokenizer, takes_text, texts, before, after, most, scope
                )
            if (group := groups[key]) is not None:
                prepared[name] = group
        if most is not None and groups and not prepared:
            raise MaxTokensPerRequest(None, most)
        return prepared

    def given(self, ids: Sequence[TokenIds], model: str, scope: str = "") -> dict[str, Prepared]:
        """Token ids that the caller made for `model`, used unchanged: they include the prompt, if
        any.
        """
        side = self._models[model].prompts.default
        return {
            model: Prepared(
                ids,
                None,
                [len(row) for row in ids],
                side,
                True,
                [_digest(row.tobytes(), scope) for row in ids],
                scope=scope,
            )
        }

    def prompt_characters(self, model: str, side: Side | None, instruction: str | None) -> int:
        """Characters of the prompt that `model` reads around each text."""
        side = side or self._models[model].prompts.default
        before, after = self._prompt(model, side, instruction)
        return len(before) + len(after)

    def longest_for(self, model: str) -> int:
        """The most tokens of a text that `model` reads."""
        return self._models[model].max_tokens

    def cut(
        self,
        prepared: Prepared,
        texts: Sequence[str],
        model: str,
        where: Literal["end", "start"],
        instruction: str | None,
    ) -> tuple[Prepared, list[int]]:
        """Shorten texts that are too long for `model`, keeping its prompt and special tokens; also
        return which texts were cut.
        """
        limit = self.longest_for(model)
        # an estimate is no reason to cut: the engine refuses what it cannot read
        if not prepared.exact:
            return prepared, []
        long = [index for index, count in enumerate(prepared.counts) if count > limit]
        if not long:
            return prepared, []
        shorter = [
            self._longest_that_fits(
                texts[index], prepared.counts[index], prepared.side, instruction, model, where
            )
            for index in long
        ]
        made = self.prepare(shorter, prepared.side, instruction, [model], scope=prepared.scope)[
            model
        ]
        return replace(
            prepared,
            ids=spliced(prepared.ids, long, made.ids),
            texts=spliced(prepared.texts, long, made.texts),
            counts=spliced(prepared.counts, long, made.counts) or (),
            digests=spliced(prepared.digests, long, made.digests) or (),
        ), long

    def cut_ids(
        self, prepared: Prepared, model: str, where: Literal["end", "start"]
    ) -> tuple[Prepared, list[int]]:
        """Shorten token ids that are too long for `model`; special tokens are up to the caller."""
        limit, given = self._models[model].max_tokens, prepared.ids or ()
        long = [index for index, row in enumerate(given) if len(row) > limit]
        return self.given(
            [row[:limit] if where == "end" else row[-limit:] for row in given],
            model,
            prepared.scope,
        )[model], long

    def _prompt(self, model: str, side: Side, instruction: str | None) -> tuple[str, str]:
        """The prompt before a text and after it."""
        prompts = self._models[model].prompts
        template = prompts.of(side)
        if template == "{text}":  # nearly always
            return "", ""
        task = prompts.instruction if instruction is None else instruction
        before, after = (part.replace("{instruction}", task) for part in template.split("{text}"))
        return before, after

    def _longest_that_fits(
        self,
        text: str,
        count: int,
        side: Side,
        instruction: str | None,
        model: str,
        where: Literal["end", "start"],
    ) -> str:
        limit, tokenizer = self.longest_for(model), self.tokenizers[model]
        assert tokenizer is not None, "an estimate is no reason to cut"
        before, after = self._prompt(model, side, instruction)
        shorter = longest_that_fits(text, count, limit, tokenizer, side, before, after, where)
        if not shorter:
            raise InvalidValue(
                f"the prompt alone has more tokens than the {limit} that {model} reads; shorten it",
                "instruction",
            )
        return shorter


def _tokenised(
    prompted: Sequence[str],
    side: Side,
    tokenizer: Tokenizer | None,
    takes_text: bool,
    texts: Sequence[str],
    before: str,
    after: str,
    most: int | None,
    scope: str,
) -> Prepared | None:
    """Tokenise prompted texts; None if there are more than `most` tokens."""
    unread = None
    if tokenizer is None:
        estimates = [max(1, estimated_tokens(text)) for text in prompted]
        tokens = TokenisedTexts(None, estimates) if most is None or sum(estimates) <= most else None
    else:
        tokens = _tokens(prompted, side, tokenizer, most)
    if tokens is None:
        return None
    if tokenizer is not None:
        unread = tokenizer.unread(texts, tokens, before, after)
    ids, counts = tokens
    if takes_text or ids is None:
        digests = [_digest(side.encode() + text.encode(), scope) for text in prompted]
        exact = tokenizer is not None
        return Prepared(None, prompted, counts, side, exact, digests, unread, scope)
    digests = [_digest(row.tobytes(), scope) for row in ids]
    return Prepared(ids, None, counts, side, True, digests, unread, scope)


def _tokens(
    texts: Sequence[str], side: Side, tokenizer: Tokenizer, most: int | None
) -> TokenisedTexts | None:
    """The tokens of all texts; None as soon as they are known to be more than `most`."""
    if most is None:
        return tokenizer(texts, side)
    if sum(map(len, texts)) <= PIECE_CHARACTERS:
        tokens = tokenizer(texts, side)
        return tokens if sum(tokens.counts) <= most else None
    refuse_surrogates(texts)  # here, because below a text is named by its place in a run
    ids, counts, left = list[TokenIds](), list[int](), most
    for run in _runs(texts):
        if len(run[0]) > max(most, PIECE_CHARACTERS) and _exceeds(run[0], side, tokenizer, left):
            return None
        made = tokenizer(run, side)
        ids += made.ids or ()
        counts += made.counts
        left -= sum(made.counts)
        if left < 0:
            return None
    return TokenisedTexts(ids or None, counts)


def _runs(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in their order, in runs of `PIECE_CHARACTERS`; a longer one alone."""
    start = characters = 0
    for place, text in enumerate(texts):
        if place > start and characters + len(text) > PIECE_CHARACTERS:
            yield texts[start:place]
            start, characters = place, 0
        characters += len(text)
    yield texts[start:]


def _exceeds(text: str, side: Side, tokenizer: Tokenizer, most: int) -> bool:
    """Whether a long text has more than `most` tokens; reads only as much of it as needed."""
    left = most
    for start in range(0, len(text), PIECE_CHARACTERS):
        (count,) = tokenizer((text[start : start + PIECE_CHARACTERS],), side).counts
        left -= max(0, count - CUT_TOKENS)
        if left < 0:
            return True
    return False


def _check_prompts(texts: int, characters: int, instruction: str | None, limits: Limits) -> None:
    """Raise InvalidValue before prompts are built: a short body must not become a long one."""
    if texts * characters > (most := limits.max_prompt_characters):
        raise InvalidValue(
            f"{texts} texts with a prompt of {characters} characters each have "
            f"{texts * characters} characters of prompts; the limit is {most} "
            "(limits.max_prompt_characters); send its texts in several requests"
            + ("" if instruction is None else ", or a shorter instruction"),
            "input" if instruction is None else "instruction",
        )


def _digest(data: bytes, scope: str) -> bytes:
    return hashlib.blake2b(data, digest_size=16, key=scope.encode()).digest()
