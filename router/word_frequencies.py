"""Word frequencies in each language, from the tables of the package wordfreq.

Words that make up at least one in 160,000 of a language are kept, as hashes in sorted arrays of 4
MB in all. Recent look-ups are cached: a few words make up most of all texts.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# wordfreq's name where it is not the ISO 639-1 code
_SOURCES = {"tl": "fil", "no": "nb", "hr": "sh", "sr": "sh"}
LANGUAGES = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "en", "es", "fa", "fi", "fr", "hi", "hr", "hu", "id",
    "is", "it", "lt", "lv", "mk", "ms", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sr", "sv",
    "tl", "tr", "uk", "ur", "vi",
)  # fmt: skip
INDEX = {language: index for index, language in enumerate(LANGUAGES)}
_SERBIAN = (
    (*zip(("lj", "nj", "dž"), "љњџ", strict=True),),
    str.maketrans("abvgdđežzijklmnoprstćufhcčš", "абвгдђежзијклмнопрстћуфхцчш"),
)
# wordfreq counts in centibels below 1: 300 is one word in a thousand
_RAREST = 520
_ABSENT = 620  # assumed for a word that is not in a language's table
_STRENGTH_BITS = 10
_STRENGTH = (1 << _STRENGTH_BITS) - 1
_FIELD_BITS = 32
_FIELDS = Struct(f"<{len(LANGUAGES)}I")
_KNOWN_WORDS = 4096  # of a quarter of a kB each


class _Table(NamedTuple):
    """One row for each word of each language, sorted by the word's hash."""

    hashes: npt.NDArray[np.int64]
    rows: memoryview  # index in LANGUAGES, and in the lowest bits centibels above _ABSENT


def strengths(words: Sequence[str]) -> Sequence[int]:
    """The likelihood of the words in each language, in centibels above a language with none of
    them, in the order of LANGUAGES; empty if no language has any. Words are in lower case.
    """
    packed = sum(map(_packed, words))
    return _FIELDS.unpack(packed.to_bytes(_FIELDS.size, "little")) if packed else ()


@lru_cache(_KNOWN_WORDS)
def _packed(word: str) -> int:
    """A word's strengths as one integer with a field for each language: words are then summed with
    one addition each.
    """
    table, number = load(), hash(word)
    start, end = table.hashes.searchsorted(number), table.hashes.searchsorted(number, "right")
    return sum(
        (row & _STRENGTH) << (_FIELD_BITS * (row >> _STRENGTH_BITS))
        for row in table.rows[start:end]
    )


@cache
def load() -> _Table:
    """Read the tables: takes a second at most, once per process."""
    import wordfreq  # only processes that identify languages need it: it takes a third of a second

    hashes: list[npt.NDArray[np.int64]] = []
    lengths: list[tuple[int, int, int]] = []
    for index, language in enumerate(LANGUAGES):
        by_centibels = wordfreq.get_frequency_list(_SOURCES.get(language, language), "small")
        for centibels, words in enumerate(by_centibels[: _RAREST + 1]):
            if language == "sr":
                words = [_in_cyrillic(word) for word in words]
            hashes.append(np.fromiter(map(hash, words), np.int64, len(words)))
            lengths.append((index, centibels, len(words)))
    wordfreq.get_frequency_list.cache_clear()
    joined = np.concatenate(hashes)
    order = joined.argsort(kind="stable")
    languages, centibels_of, counts = np.array(lengths).T
    rows = (languages << _STRENGTH_BITS) + _ABSENT - centibels_of
    return _Table(joined[order], memoryview(np.repeat(rows.astype(np.uint16), counts)[order]))


def _in_cyrillic(word: str) -> str:
    digraphs, letters = _SERBIAN
    for latin, cyrillic in digraphs:
        word = word.replace(latin, cyrillic)
    return word.translate(letters)
