"""Extract the features of a request's texts: one `Features` for the whole list.

All texts of a list have the same weight, however long they are. At most `SAMPLED_TEXTS` of them are
read, each by its own sample (router/language.py), and each represents its neighbours. ASCII texts
and others are sampled separately, half of the sample each. So a few texts in another script among
many are seen, and counted as a few. Language and script are those of most texts. The list is code,
or mixed, if at least half of its texts are. `kinds` has the details.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from router.codes import parse_tag
from router.domain import Features, TextKind
from router.language import Detected, detect, is_code, script_of
from router.language_id import NO_PRIOR, Prior

SAMPLED_TEXTS = 8


def extract(texts: Sequence[str], hint: str | None = None, prior: Prior = NO_PRIOR) -> Features:
    """Extract the features of a list of texts, as described at the top of this file.

    Args:
        texts: as the caller sent them, without a prompt.
        hint: a BCP-47 tag that replaces the detection of language and mixed, and of script if it
            names one; `und` is no hint.
        prior: how much likelier a short text is in a language than in others, by ISO 639-1 code.

    Raises:
        ValueError: the hint is not a language tag.
    """
    language, script = (None, None) if hint is None else parse_tag(hint)
    given = hint is not None and language != "und"

    def seen(text: str) -> Detected:
        if given:
            return Detected(language, script or script_of(text), False, is_code(text))
        return detect(text, prior)

    if len(texts) == 1:
        one = seen(texts[0])
        return Features(len(texts[0]), one.language, one.script, one.mixed, one.code)
    counts: Counter[Detected] = Counter()
    for text, weight in _sample(texts):
        counts[seen(text)] += weight
    code = 0 < len(texts) <= 2 * _texts(counts, lambda detected: detected.code)
    mixed = 0 < len(texts) <= 2 * _texts(counts, lambda detected: detected.mixed)
    kinds = tuple(TextKind(*detected, texts=count) for detected, count in counts.most_common())
    return Features(
        characters=sum(map(len, texts)),
        language=_most_common(counts, lambda each: each.language) if given or not code else None,
        script=_most_common(counts, lambda each: each.script),
        mixed=mixed,
        code=code,
        kinds=kinds,
    )


def of_pairs(query: Features, documents: Features, pairs: int) -> Features:
    """The features of pairs: the query counts as much as all documents together."""
    kinds = documents.kinds or (_kind(documents, pairs),)
    return replace(
        documents,
        mixed=documents.mixed or query.mixed,
        code=documents.code or query.code,
        kinds=(*kinds, _kind(query, pairs)),
    )


def _kind(features: Features, texts: int) -> TextKind:
    return TextKind(features.language, features.script, features.mixed, features.code, texts)


def _sample(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The texts to read, each with the number of texts that it represents."""
    if len(texts) <= SAMPLED_TEXTS:
        yield from ((text, 1) for text in texts)
        return
    ascii_texts = [text for text in texts if text.isascii()]
    others = [text for text in texts if not text.isascii()]
    max_others = min(len(others), max(SAMPLED_TEXTS // 2, SAMPLED_TEXTS - len(ascii_texts)))
    for group, looks in ((ascii_texts, SAMPLED_TEXTS - max_others), (others, max_others)):
        looks = min(looks, len(group))
        for look in range(looks):
            start, end = look * len(group) // looks, (look + 1) * len(group) // looks
            yield group[(start + end - 1) // 2], end - start


def _texts(counts: Counter[Detected], holds: Callable[[Detected], bool]) -> int:
    return sum(count for detected, count in counts.items() if holds(detected))


def _most_common(counts: Counter[Detected], of: Callable[[Detected], str | None]) -> str | None:
    """The most frequent value; among equals the first in the list."""
    texts: Counter[str] = Counter()
    for detected, count in counts.items():
        if (value := of(detected)) is not None:
            texts[value] += count
    return max(texts, key=texts.__getitem__) if texts else None
