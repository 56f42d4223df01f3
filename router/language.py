"""Detect the script and language of a text, whether it mixes languages, and whether it is code.

Only a sample is read, so that the cost does not grow with the text: `SAMPLE_CHARACTERS` in four
slices, evenly spaced from the first character to the last, and for code the first
`CODE_CHARACTERS`. Texts are composed (NFC), and web and mail addresses are removed, so that neither
affects a result. Then, in this order: code, script, mixed, and language, by the script if one
language dominates it, else by fastText and word frequencies (router/language_id.py).
docs/internals.md describes each. The language is None for texts that are too short, and for
languages without an ISO 639-1 code.
"""

import re
import unicodedata
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import regex  # type: ignore[import-untyped]

from router import language_id
from router.language_id import NO_PRIOR, Prior, guess, identify, without_links, words_of

SAMPLE_CHARACTERS = 2000
CODE_CHARACTERS = 600
COMPOSED_CHARACTERS = 4 * SAMPLE_CHARACTERS
TEXT_CHARACTERS = 200  # fastText takes about 0.2 us a character
WINDOW_CHARACTERS = 60

COUNTED_SCRIPTS = (
    "Latn", "Cyrl", "Grek", "Armn", "Hebr", "Arab", "Syrc", "Thaa", "Deva", "Beng", "Guru", "Gujr",
    "Orya", "Taml", "Telu",
    "Knda", "Mlym", "Sinh", "Thai", "Laoo", "Tibt", "Mymr", "Geor", "Hang", "Ethi", "Cher", "Cans",
    "Khmr", "Mong", "Hira",
    "Kana", "Hani", "Bopo", "Yiii", "Nkoo", "Tfng", "Olck", "Adlm",
)  # fmt: skip
LANGUAGE_OF_SCRIPT = {
    "Grek": "el", "Armn": "hy", "Thaa": "dv", "Guru": "pa", "Gujr": "gu", "Orya": "or",
    "Taml": "ta", "Telu": "te",
    "Knda": "kn", "Mlym": "ml", "Sinh": "si", "Thai": "th", "Laoo": "lo", "Tibt": "bo",
    "Mymr": "my", "Geor": "ka", "Hang": "ko",
    "Khmr": "km", "Jpan": "ja", "Hani": "zh", "Bopo": "zh", "Yiii": "ii", "Hebr": "he",
}  # fmt: skip
_CLOSE = tuple(  # languages that fastText confuses in a short window
    frozenset(group.split())
    for group in (
        "da no sv", "pt es gl ca", "fr oc ca", "it co", "cs sk", "hr sr bs sl mk", "id ms jv su",
        "ru uk bg be sr mk",
        "de nl lb af", "fi et", "hi ne mr sa", "fa ar ur ku az ps", "ur pa", "tr az",
        "kk ky tt ba", "bn as",
    )
)  # fmt: skip
_WESTERN = "latin-1"
_HAN = re.compile(r"[\u3400-\u9fff]+")
_DENSE = frozenset({"Jpan", "Hani", "Hang", "Bopo", "Hira", "Kana", "Yiii"})
_DENSE_WEIGHT = 2.5
_SECOND_SHARE = 0.10
_SECOND_LETTERS = 4  # weighted; a lone symbol or a unit such as µ is no second script
# not names and acronyms, which occur in texts of every script
_LATIN_WORDS = re.compile(r"(?<![^\W_])[a-zß-öø-ÿ]+(?![^\W_])")
_LATIN_MIN_WORDS = 1
_MIXED_CHARACTERS = 48  # within one script: shorter texts are not split into windows
_MIXED_SCORE = 0.55
_SHORT_LETTERS = 16
# for a word or two: below this score fastText's first guess is wrong more often than right
_SHORT_SCORE = 0.40
_MIN_SCORE = 0.30

_CODE_MIN_CHARACTERS = 24
_CODE_SCORE = 10.0  # points per 100 characters
_CODE_SYMBOLS = b"{}[]();=<>_|&*$#\\"
_CODE_PAIRS = (
    "();", "){", ") {", "};", ");", "->", "=>", "==", "!=", ":=", "&&", "||", "+=", "::", "</",
    "/>", ";\n", "{\n", "):\n",
    "\n//", "/*", "*/", "$(", "${", "\n    ", "\n\t", "\n}", "[]", "#include", "#define", "fi\n",
    "&mut ",
)  # fmt: skip
_CODE_WORDS = (
    "def ", "self.", "self,", "return ", "elif ", "const ", "let ", "var ", "static ", "void ",
    "int ", "struct ", "fn ", "impl ",
    "pub ", "func ", "nil", "null", "None", "bool", "async ", "await ", "typedef ", "println",
    "printf", "echo ", "sizeof",
    "raise ", "boolean", "function ", "public ", "private ", "import ", "throw ", "unsigned ",
    "float", "if (", "if(", "for (",
    "for(", "while (", "print(", " FROM ", "\nFROM ", "WHERE ",
)  # fmt: skip
_SQL_WORDS = ("SELECT ", "INSERT INTO ", "CREATE TABLE ", "UPDATE ")
_CODE_NAMES = re.compile(r"[a-z][A-Z]|[A-Za-z0-9]\(")


class Detected(NamedTuple):
    """The script, language and kind of one text."""

    language: str | None  # ISO 639-1
    script: str | None  # ISO 15924; Jpan for Han with kana; None without a letter
    mixed: bool
    code: bool


def detect(text: str, prior: Prior = NO_PRIOR) -> Detected:
    """Detect script, language, mixed and code of a text, as described at the top of this file.

    Any string is valid input.
    """
    head, sample = _read(text)
    code = _is_code(head)
    letters = _letters_by_script(sample)
    if not letters:
        return Detected(None, None, False, code)
    script = max(letters, key=letters.__getitem__)
    if code:
        return Detected(None, script, False, True)
    total = sum(letters.values())
    mixed = any(
        _is_second(name, count, total, sample) for name, count in letters.items() if name != script
    )
    if script == "Hani" and _is_japanese(sample):
        return Detected("ja", script, mixed, False)
    if script in LANGUAGE_OF_SCRIPT:
        return Detected(LANGUAGE_OF_SCRIPT[script], script, mixed, False)
    if len(letters) > 1:
        sample = _only(sample, script)
    language, differ = _identify(sample, script, letters[script], prior)
    return Detected(language, script, mixed or differ, False)


def load() -> None:
    """Load the tables before the first detection; this takes a second or two, once per process."""
    _script_table()
    language_id.load()


def script_of(text: str) -> str | None:
    """The script of most letters in a text, as `detect` reports it."""
    letters = _letters_by_script(_read(text)[1])
    return max(letters, key=letters.__getitem__) if letters else None


def sample_of(text: str, characters: int = SAMPLE_CHARACTERS) -> str:
    """Four slices of the text, evenly spaced from its start to its end.

    A text of at most `characters` is returned unchanged.
    """
    if len(text) <= characters:
        return text
    width = characters // 4
    starts = [(len(text) - width) * i // 3 for i in range(4)]
    return " ".join(text[start : start + width] for start in starts)


def _read(text: str) -> tuple[str, str]:
    """The first `CODE_CHARACTERS` of a text and its sample.

    Both are composed, so that the result does not depend on the Unicode form of the text. Addresses
    belong to no language and are removed from the sample, unless nothing else in it has letters.
    """
    if len(text) > COMPOSED_CHARACTERS:
        head = unicodedata.normalize("NFC", text[: 4 * CODE_CHARACTERS])
        sample = unicodedata.normalize("NFC", sample_of(text))
    else:
        head = unicodedata.normalize("NFC", text)
        sample = sample_of(head)
    rest = without_links(sample)
    return head[:CODE_CHARACTERS], rest if any(map(str.isalpha, rest)) else sample


def is_code(text: str) -> bool:
    """Whether the first `CODE_CHARACTERS` look like program code rather than prose."""
    return _is_code(unicodedata.normalize("NFC", text[: 4 * CODE_CHARACTERS])[:CODE_CHARACTERS])


def _is_code(text: str) -> bool:
    count = text.count
    encoded = text.encode("utf-8", "replace")
    symbols = len(encoded) - len(encoded.translate(None, _CODE_SYMBOLS))
    sql = sum(map(count, _SQL_WORDS))
    if len(text) < _CODE_MIN_CHARACTERS or (symbols < max(2, 0.02 * len(text)) and not sql):
        return False
    minimum = _CODE_SCORE / 100 * len(text)
    signs = sum(map(count, _CODE_PAIRS))
    points = symbols + 2 * signs + 3 * count("_") + 5 * sql
    # most code is recognised by now; the rest would double the cost
    if points < minimum or not (signs or sql):
        words = sum(map(count, _CODE_WORDS))
        if not (signs or sql or words):
            return False  # symbols alone also occur in statistics, chemistry and prices
        points += 2 * words + 3 * len(_CODE_NAMES.findall(text))
    return points >= minimum


def _letters_by_script(sample: str) -> dict[str, float]:
    """The number of letters of each script in the sample, dense scripts weighted."""
    if (western := _western(sample)) is not None:
        letters = len(western) - len(western.translate(None, _western_letters()))
        return {"Latn": float(letters)} if letters else {}
    counts = np.bincount(_scripts_of(sample), minlength=len(COUNTED_SCRIPTS) + 1)
    found = {COUNTED_SCRIPTS[i - 1]: float(counts[i]) for i in np.flatnonzero(counts).tolist() if i}
    kana = found.pop("Hira", 0.0) + found.pop("Kana", 0.0)
    # with less kana it is a Chinese text that quotes a word
    if kana and (kana >= 0.05 * found.get("Hani", 0.0)):
        found["Jpan"] = kana + found.pop("Hani", 0.0)
    if found.get("Hang", 0.0) > found.get("Hani", 0.0) > 0.0:
        found["Hang"] += found.pop("Hani")
    return {
        name: count * _DENSE_WEIGHT if name in _DENSE else count for name, count in found.items()
    }


def _western(sample: str) -> bytes | None:
    """The sample in Latin-1, which is counted in a tenth of the time; None if it does not fit."""
    try:
        return sample.encode(_WESTERN)
    except UnicodeEncodeError:
        return None


def _is_japanese(sample: str) -> bool:
    """Whether Han without kana is certainly Japanese.

    True for a third of Japanese words of at least three characters, and for no Chinese.
    """
    han = "".join(_HAN.findall(sample[:TEXT_CHARACTERS]))
    return _writes("shift_jis", han) and not _writes("gb2312", han) and not _writes("big5", han)


def _writes(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _is_second(script: str, count: float, total: float, sample: str) -> bool:
    if count < _SECOND_SHARE * total or count < _SECOND_LETTERS:
        return False
    return script != "Latn" or len(_LATIN_WORDS.findall(sample)) >= _LATIN_MIN_WORDS


def _identify(sample: str, script: str, letters: float, prior: Prior) -> tuple[str | None, bool]:
    """The language of a sample in one script, and whether its parts differ in language."""
    is_long = len(sample) > 2 * TEXT_CHARACTERS
    if is_long:
        windows = [words_of(window, script) for window in _windows(sample)]
    else:
        line = words_of(sample, script)
        if len(line) < _MIXED_CHARACTERS:
            language, score = identify(line, script, prior)
            minimum = _SHORT_SCORE if letters < _SHORT_LETTERS else _MIN_SCORE
            return (language if score >= minimum else None), False
        windows = _windows(line)
    answers = [(*guess(window, script), len(window)) for window in windows if window]
    sure = {
        language for language, score, _ in answers if score >= _MIXED_SCORE and language is not None
    }
    if len({language for language, _, _ in answers}) == 1 and sure:
        return answers[0][0], False
    differ = any(not _are_close(one, other) for one, other in combinations(sure, 2))
    if not (differ or is_long):
        language, score = identify(line[:TEXT_CHARACTERS], script, prior)
        return (language if score >= _MIN_SCORE else None), False
    weight: dict[str | None, float] = {}
    for language, score, length in answers:
        weight[language] = weight.get(language, 0.0) + score * length
    return max(weight, key=weight.__getitem__, default=None), differ


def _windows(sample: str) -> list[str]:
    """Two or three stretches of whole words, evenly spaced; they cover a short sample."""
    parts = 2 if len(sample) < 90 else 3
    windows = []
    start = 0
    for part in range(1, parts + 1):
        end = len(sample)
        if part < parts:
            end = sample.find(" ", max(start, len(sample) * part // parts - 1))
            end = len(sample) if end < 0 else end
        if end > start:
            windows.append(sample[start : min(end, start + WINDOW_CHARACTERS)])
        start = end + 1
    return windows


def _are_close(one: str, other: str) -> bool:
    return any(one in group and other in group for group in _CLOSE)


def _only(sample: str, script: str) -> str:
    """Blank the letters of other scripts, so that a quoted name does not affect the language."""
    scripts = _scripts_of(sample)
    codes = np.frombuffer(sample.encode("utf-32-le", "surrogatepass"), "<u4")
    keep = (scripts == 0) | (scripts == COUNTED_SCRIPTS.index(script) + 1)
    return (
        np.where(keep, codes, np.uint32(ord(" ")))
        .astype("<u4")
        .tobytes()
        .decode("utf-32-le", "replace")
    )


def _scripts_of(sample: str) -> npt.NDArray[np.uint8]:
    """1 + the index in COUNTED_SCRIPTS of each character's script, or 0."""
    codes = np.frombuffer(sample.encode("utf-32-le", "surrogatepass"), "<u4")
    return _script_table().take(codes, mode="clip")


@cache
def _script_table() -> npt.NDArray[np.uint8]:
    """The script of every code point up to the last one of Han; the last entry is for the rest."""
    table = np.zeros(0x323B0, np.uint8)
    every = "".join(" " if 0xD800 <= code < 0xE000 else chr(code) for code in range(len(table)))
    expression = regex.compile(
        "|".join(rf"((?:(?=[\p{{L}}\p{{M}}])\p{{Script={script}}})+)" for script in COUNTED_SCRIPTS)
    )
    for match in expression.finditer(every):
        table[match.start() : match.end()] = match.lastindex or 0
    return table


@cache
def _western_letters() -> bytes:
    """The bytes of `_western` that are letters of the Latin script."""
    every = bytes(range(256)).decode(_WESTERN)
    latin = COUNTED_SCRIPTS.index("Latn") + 1
    return bytes(byte for byte, script in enumerate(_scripts_of(every).tolist()) if script == latin)
