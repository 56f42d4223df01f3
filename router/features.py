"""Extract the features of a request's texts: one `Features` for the whole list.

All texts of a list have the same weight, however long they are. At most `SAMPLED_TEXTS` of them are
read, each by its own sample (router/language.py), and each represents its neighbours. ASCII texts
and others are sampled separately, half of the sample each. So a few texts in another script among
many are seen, and counted as a few. Language and script are those of most texts. The list is code,
or mixed, if at least half of its texts are. `kinds` has the details.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from langcodes import Language, standardize_tag

from router.domain import Features, TextKind
from router.language import Detected, detect, is_code, script_of
from router.language_id import NO_PRIOR, Prior

SAMPLED_TEXTS = 8
KNOWN_TAGS = 1024  # language tags that stay parsed

_ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy "
    "da de dv dz ee el en eo es et "
    "eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io "
    "is it iu ja jv ka kg ki kj kk "
    "kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na "
    "nd ne ng nl no nr nv ny oc oj "
    "om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn "
    "to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
_LANGUAGES = frozenset(_ISO_639_1.split())
_MACROLANGUAGE = {  # codes of a variety, and older or longer codes of the same language
    "nb": "no", "nn": "no", "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "sh": "hr",
    "cmn": "zh", "yue": "zh", "wuu": "zh",
    "nan": "zh", "hak": "zh", "arb": "ar", "arz": "ar", "ary": "ar", "apc": "ar", "pes": "fa",
    "prs": "fa", "ckb": "ku",
    "kmr": "ku", "zsm": "ms", "ekk": "et", "lvs": "lv", "swh": "sw", "fil": "tl", "azj": "az",
    "uzn": "uz", "khk": "mn", "hbs": "hr",
    "npi": "ne", "ory": "or", "als": "sq", "gsw": "de", "pnb": "pa",
}  # fmt: skip
_SCRIPT_AS_REPORTED = {
    "Hans": "Hani",
    "Hant": "Hani",
    "Kore": "Hang",
    "Hrkt": "Jpan",
    "Hira": "Jpan",
    "Kana": "Jpan",
}
_TAG = re.compile(
    r"(?P<language>[a-z]{2,3})(?:-[a-z]{3}){0,3}(?:-(?P<script>[a-z]{4}))?(?:-[a-z0-9]{1,8})*"
)


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
    for text, stands_for in _sample(texts):
        counts[seen(text)] += stands_for
    code = 0 < len(texts) <= 2 * _texts(counts, lambda one: one.code)
    mixed = 0 < len(texts) <= 2 * _texts(counts, lambda one: one.mixed)
    kinds = tuple(TextKind(*one, texts=count) for one, count in counts.most_common())
    return Features(
        characters=sum(map(len, texts)),
        language=_most(counts, lambda one: one.language) if given or not code else None,
        script=_most(counts, lambda one: one.script),
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


def _kind(one: Features, texts: int) -> TextKind:
    return TextKind(one.language, one.script, one.mixed, one.code, texts)


def _sample(texts: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The texts to read, each with the number of texts that it represents."""
    if len(texts) <= SAMPLED_TEXTS:
        yield from ((text, 1) for text in texts)
        return
    ascii_texts = [text for text in texts if text.isascii()]
    others = [text for text in texts if not text.isascii()]
    most_others = min(len(others), max(SAMPLED_TEXTS // 2, SAMPLED_TEXTS - len(ascii_texts)))
    for group, looks in ((ascii_texts, SAMPLED_TEXTS - most_others), (others, most_others)):
        looks = min(looks, len(group))
        for look in range(looks):
            start, end = look * len(group) // looks, (look + 1) * len(group) // looks
            yield group[(start + end - 1) // 2], end - start


def _texts(counts: Counter[Detected], holds: Callable[[Detected], bool]) -> int:
    return sum(count for one, count in counts.items() if holds(one))


def _most(counts: Counter[Detected], of: Callable[[Detected], str | None]) -> str | None:
    """The most frequent value; among equals the first in the list."""
    texts: Counter[str] = Counter()
    for one, count in counts.items():
        if (value := of(one)) is not None:
            texts[value] += count
    return max(texts, key=texts.__getitem__) if texts else None


def _macrolanguage(code: str) -> str:
    """The code by which a language is known here: of two letters if it has one (`eng` is `en`), and
    that of its macrolanguage.
    """
    if len(code) == 3 and code not in _MACROLANGUAGE and code != "und":
        if not Language.get(code).is_valid():
            raise ValueError(
                f"language begins with {code!r}, which is no language in ISO 639; English is 'en' "
                "or 'eng'"
            )
        code = standardize_tag(code).partition("-")[0]
    return _MACROLANGUAGE.get(code, code)


@lru_cache(KNOWN_TAGS)
def parse_tag(tag: str) -> tuple[str | None, str | None]:
    """The ISO 639-1 language of a tag, None if it has no such code, and the script of the tag.
    Raises ValueError if it is no language tag.
    """
    match = _TAG.fullmatch(tag.strip().replace("_", "-").lower())
    if match is None:
        raise ValueError(
            f"language must be a BCP-47 tag such as 'en', 'pt-BR' or 'zh-Hant', it is {tag!r}"
        )
    language = _macrolanguage(match["language"])
    if len(language) == 2 and language not in _LANGUAGES:
        raise ValueError(
            f"language {tag!r} begins with {language!r}, which is no language in ISO 639-1 "
            "(languages are not countries: "
            "Czech is 'cs', Japanese 'ja', Chinese 'zh')"
        )
    script = match["script"].title() if match["script"] else None
    known = language if len(language) == 2 or language == "und" else None
    return known, _SCRIPT_AS_REPORTED.get(script, script) if script else None
