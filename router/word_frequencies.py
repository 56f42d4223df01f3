"""How common words are in each language, by the tables of the package wordfreq.

Words that make up at least one in 160,000 of a language are kept, as hashes in sorted arrays of
4 MB in all.
"""

from collections.abc import Sequence
from functools import cache
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
_SERBIAN = (
    (*zip(("lj", "nj", "dž"), "љњџ", strict=True),),
    str.maketrans("abvgdđežzijklmnoprstćufhcčš", "абвгдђежзијклмнопрстћуфхцчш"),
)
# wordfreq counts in centibels below 1: 300 is one word in a thousand
_RAREST = 520
_ABSENT = 620  # assumed of a word that a language's table does not have


class _Table(NamedTuple):
    """One row for each word of each language, sorted by the word's hash."""

    hashes: npt.NDArray[np.int64]
    languages: npt.NDArray[np.uint8]  # index in LANGUAGES
    strengths: npt.NDArray[np.uint16]  # centibels above _ABSENT


def strengths(words: Sequence[str]) -> dict[str, float]:
    """By how many centibels each language makes the words more likely than one that has none of
    them. Words are in lower case.
    """
    table = load()
    hashes = np.fromiter(map(hash, words), np.int64, len(words))
    starts = table.hashes.searchsorted(hashes).tolist()
    ends = table.hashes.searchsorted(hashes, "right").tolist()
    rows = [slice(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
    if not rows:
        return {}
    centibels = np.bincount(
        np.concatenate([table.languages[row] for row in rows]),
        np.concatenate([table.strengths[row] for row in rows]),
        len(LANGUAGES),
    )
    return dict(zip(LANGUAGES, centibels.tolist(), strict=True))


@cache
def load() -> _Table:
    """Read the tables: a second at most, once in a process."""
    import wordfreq  # for those that identify languages: it takes a third of a second

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
    return _Table(
        joined[order],
        np.repeat(languages.astype(np.uint8), counts)[order],
        np.repeat((_ABSENT - centibels_of).astype(np.uint16), counts)[order],
    )


def _in_cyrillic(word: str) -> str:
    digraphs, letters = _SERBIAN
    for latin, cyrillic in digraphs:
        word = word.replace(latin, cyrillic)
    return word.translate(letters)
