"""What the router learns of a request's text before it decides: one `Features` for the whole list
of texts.

At most `SAMPLED_TEXTS` texts, evenly spaced over the list, are looked at, each by its own sample
(router/language.py). Language and script are those of most characters among them. The list is code,
or mixed, where texts that are so hold at least half of these characters: texts in different
languages do not make a list mixed, and one doubtful text among many does not send them all to a
larger model.
"""

import re
from collections import Counter
from collections.abc import Sequence

from router.domain import Features
from router.language import Detected, detect, is_code, script_of
from router.language_id import NO_PRIOR, Prior

SAMPLED_TEXTS = 8

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
_MACROLANGUAGE = {  # tags that name a variety, or the same language by an older or longer code
    "nb": "no", "nn": "no", "iw": "he", "in": "id", "ji": "yi", "mo": "ro", "sh": "hr",
    "cmn": "zh", "yue": "zh", "wuu": "zh",
    "nan": "zh", "hak": "zh", "arb": "ar", "arz": "ar", "ary": "ar", "apc": "ar", "pes": "fa",
    "prs": "fa", "ckb": "ku",
    "kmr": "ku", "zsm": "ms", "ekk": "et", "lvs": "lv", "swh": "sw", "fil": "tl", "azj": "az",
    "uzn": "uz", "khk": "mn",
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
    """The features of a list of texts; the top of this file says what they mean for a list.

    Args:
        texts: as the caller sent them, without a prompt. hint: a BCP-47 tag that replaces the
        detection of language and mixed, and of script where it names one; `und` is no hint.
        prior: how much likelier a short text is in a language than in others, by ISO 639-1 code.

    Raises:
        ValueError: the hint is not a language tag.
    """
    language, script = (None, None) if hint is None else _parse_tag(hint)
    characters = sum(map(len, texts))
    if len(texts) > SAMPLED_TEXTS:
        last = len(texts) - 1
        texts = [texts[i * last // (SAMPLED_TEXTS - 1)] for i in range(SAMPLED_TEXTS)]
    given = hint is not None and language != "und"
    seen = [
        (
            Detected(language, script or script_of(text), False, is_code(text))
            if given
            else detect(text, prior),
            len(text),
        )
        for text in texts
    ]
    half = sum(length for _, length in seen) / 2
    code = 0 < half <= sum(length for one, length in seen if one.code)
    mixed = 0 < half <= sum(length for one, length in seen if one.mixed)
    languages: Counter[str] = Counter()
    scripts: Counter[str] = Counter()
    for one, length in seen:
        if one.language is not None:
            languages[one.language] += length
        if one.script is not None:
            scripts[one.script] += length
    return Features(
        characters=characters,
        language=_most(languages) if given or not code else None,
        script=_most(scripts),
        mixed=mixed,
        code=code,
    )


def _most(characters: Counter[str]) -> str | None:
    return max(characters, key=characters.__getitem__) if characters else None


def _parse_tag(tag: str) -> tuple[str | None, str | None]:
    """The ISO 639-1 language of a tag, None where it has none there, and the script it names."""
    match = _TAG.fullmatch(tag.strip().replace("_", "-").lower())
    if match is None:
        raise ValueError(
            f"language must be a BCP-47 tag such as 'en', 'pt-BR' or 'zh-Hant', it is {tag!r}"
        )
    language = match["language"]
    language = _MACROLANGUAGE.get(language, language)
    if len(language) == 2 and language not in _LANGUAGES:
        raise ValueError(
            f"language {tag!r} begins with {language!r}, which is no language in ISO 639-1 "
            "(languages are not countries: "
            "Czech is 'cs', Japanese 'ja', Chinese 'zh')"
        )
    script = match["script"].title() if match["script"] else None
    known = language if len(language) == 2 or language == "und" else None
    return known, _SCRIPT_AS_REPORTED.get(script, script) if script else None
