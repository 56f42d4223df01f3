"""Codes of languages and scripts, in requests and in configs.

A language is known by its ISO 639-1 code, and a variety by that of its macrolanguage: Cantonese is
`zh`. A script is known by its ISO 15924 code, and all of Japanese is `Jpan`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from locale import locale_alias
from typing import TypeVar

from langcodes import Language, standardize_tag

T = TypeVar("T")

KNOWN_TAGS = 1024  # language tags that stay parsed

_LANGUAGES = (
    "aa Afar|ab Abkhazian|ae Avestan|af Afrikaans|ak Akan|am Amharic|an Aragonese|ar Arabic|as "
    "Assamese|av Avaric|ay Aymara|"
    "az Azerbaijani|ba Bashkir|be Belarusian|bg Bulgarian|bi Bislama|bm Bambara|bn Bengali|bo "
    "Tibetan|br Breton|bs Bosnian|"
    "ca Catalan|ce Chechen|ch Chamorro|co Corsican|cr Cree|cs Czech|cu Church Slavic|cv "
    "Chuvash|cy Welsh|da Danish|de German|"
    "dv Dhivehi|dz Dzongkha|ee Ewe|el Greek|en English|eo Esperanto|es Spanish|et Estonian|eu "
    "Basque|fa Persian|ff Fulah|"
    "fi Finnish|fj Fijian|fo Faroese|fr French|fy Western Frisian|ga Irish|gd Scottish Gaelic|gl "
    "Galician|gn Guarani|gu Gujarati|"
    "gv Manx|ha Hausa|he Hebrew|hi Hindi|ho Hiri Motu|hr Croatian|ht Haitian|hu Hungarian|hy "
    "Armenian|hz Herero|ia Interlingua|"
    "id Indonesian|ie Interlingue|ig Igbo|ii Sichuan Yi|ik Inupiaq|io Ido|is Icelandic|it "
    "Italian|iu Inuktitut|ja Japanese|"
    "jv Javanese|ka Georgian|kg Kongo|ki Kikuyu|kj Kuanyama|kk Kazakh|kl Kalaallisut|km Khmer|kn "
    "Kannada|ko Korean|kr Kanuri|"
    "ks Kashmiri|ku Kurdish|kv Komi|kw Cornish|ky Kyrgyz|la Latin|lb Luxembourgish|lg Ganda|li "
    "Limburgish|ln Lingala|lo Lao|"
    "lt Lithuanian|lu Luba-Katanga|lv Latvian|mg Malagasy|mh Marshallese|mi Maori|mk "
    "Macedonian|ml Malayalam|mn Mongolian|"
    "mr Marathi|ms Malay|mt Maltese|my Burmese|na Nauru|nb Norwegian Bokmal|nd North Ndebele|ne "
    "Nepali|ng Ndonga|nl Dutch|"
    "nn Norwegian Nynorsk|no Norwegian|nr South Ndebele|nv Navajo|ny Chichewa|oc Occitan|oj "
    "Ojibwa|om Oromo|or Odia|os Ossetian|"
    "pa Punjabi|pi Pali|pl Polish|ps Pashto|pt Portuguese|qu Quechua|rm Romansh|rn Rundi|ro "
    "Romanian|ru Russian|rw Kinyarwanda|"
    "sa Sanskrit|sc Sardinian|sd Sindhi|se Northern Sami|sg Sango|si Sinhala|sk Slovak|sl "
    "Slovenian|sm Samoan|sn Shona|so Somali|"
    "sq Albanian|sr Serbian|ss Swati|st Sotho|su Sundanese|sv Swedish|sw Swahili|ta Tamil|te "
    "Telugu|tg Tajik|th Thai|ti Tigrinya|"
    "tk Turkmen|tl Tagalog|tn Tswana|to Tonga|tr Turkish|ts Tsonga|tt Tatar|tw Twi|ty "
    "Tahitian|ug Uyghur|uk Ukrainian|ur Urdu|"
    "uz Uzbek|ve Venda|vi Vietnamese|vo Volapuk|wa Walloon|wo Wolof|xh Xhosa|yi Yiddish|yo "
    "Yoruba|za Zhuang|zh Chinese|zu Zulu"
)
_SCRIPTS = (
    "Adlm Adlam|Arab Arabic|Armn Armenian|Beng Bengali|Bopo Bopomofo|Cans Canadian "
    "Aboriginal|Cher Cherokee|Cyrl Cyrillic|"
    "Deva Devanagari|Ethi Ethiopic|Geor Georgian|Grek Greek|Gujr Gujarati|Guru Gurmukhi|Hang "
    "Hangul|Hani Han|Hebr Hebrew|"
    "Hira Hiragana|Jpan Japanese|Kana Katakana|Khmr Khmer|Knda Kannada|Kore Korean|Laoo Lao|Latn "
    "Latin|Mlym Malayalam|"
    "Mong Mongolian|Mymr Myanmar|Nkoo Nko|Olck Ol Chiki|Orya Odia|Sinh Sinhala|Syrc Syriac|Taml "
    "Tamil|Telu Telugu|Tfng Tifinagh|"
    "Thaa Thaana|Thai Thai|Tibt Tibetan|Yiii Yi"
)


def _table(text: str) -> dict[str, str]:
    return {code: name for code, _, name in (entry.partition(" ") for entry in text.split("|"))}


LANGUAGES, SCRIPTS = _table(_LANGUAGES), _table(_SCRIPTS)  # code -> English name
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
    if len(language) == 2 and language not in LANGUAGES:
        raise ValueError(
            f"language {tag!r} begins with {language!r}, which is no language in ISO 639-1 "
            "(languages are not countries: "
            "Czech is 'cs', Japanese 'ja', Chinese 'zh')"
        )
    script = match["script"].title() if match["script"] else None
    known = language if len(language) == 2 or language == "und" else None
    return known, _SCRIPT_AS_REPORTED.get(script, script) if script else None


def language_codes(words: Iterable[str]) -> tuple[str, ...]:
    """The codes of a config's languages, read as those of requests; raises ValueError that names
    the right code.
    """
    return tuple(dict.fromkeys(map(_language_code, words)))


def by_language(figures: Mapping[str, T], others: Sequence[str] = ()) -> dict[str, T]:
    """Figures of a config by the code of their language; keys in `others` stay as they are.

    Raises ValueError as `language_codes` does, and if a language has two figures.
    """
    found: dict[str, T] = {}
    words: dict[str, str] = {}
    for word, figure in figures.items():
        try:
            code = word if word in others else _language_code(word)
        except ValueError as error:
            if not others:
                raise
            beside = f"{', '.join(others[:-1])} and {others[-1]}"
            raise ValueError(f"{error}; beside languages there are {beside}") from None
        if code in found:
            raise ValueError(f"{words[code]} and {word} are the same language; keep one of them")
        found[code], words[code] = figure, word
    return found


def script_codes(words: Iterable[str]) -> tuple[str, ...]:
    """The codes of a config's scripts, read as those in the tag of a request: `Hira` is `Jpan`.

    Raises ValueError that names the right code.
    """
    return tuple(dict.fromkeys(map(_script_code, words)))


def _language_code(word: str) -> str:
    try:
        code, _ = parse_tag(word)
    except ValueError:
        near = _language_near(word)
        meant = f"; did you mean {near}?" if near else ""
        raise ValueError(f"{word!r} is not an ISO 639 code such as en or zh{meant}") from None
    if code not in LANGUAGES:
        raise ValueError(
            f"{word!r} never matches: ISO 639-1 has no code for it, so such texts have no language "
            "here; use `scripts` in a rule, or remove it"
        )
    return code


def _language_near(word: str) -> str | None:
    """The code of the language whose name, or one of whose countries, is like `word`."""
    word = word.strip().lower()
    first = re.split(r"[^a-z]", word, maxsplit=1)[0]
    names = {name.lower(): code for code, name in LANGUAGES.items()}
    for spelling in (word, first):
        if (own := locale_alias.get(spelling, "")[:2]) in LANGUAGES:  # "deutsch" and the like
            return _MACROLANGUAGE.get(own, own)
        if near := get_close_matches(spelling, names, n=1, cutoff=0.75):
            return _MACROLANGUAGE.get(names[near[0]], names[near[0]])
    if len(first) != 2:
        return None
    country = Language.get(f"und-{first}")
    spoken = country.maximize().language if country.is_valid() else None
    return spoken if spoken in LANGUAGES and spoken != "en" else None  # en: also of no country


def _script_code(word: str) -> str:
    code = _SCRIPT_AS_REPORTED.get(word.strip().title(), word.strip().title())
    if code in SCRIPTS:
        return code
    near = _script_near(word.strip().lower())
    meant = f"; did you mean {near}?" if near else ""
    raise ValueError(f"{word!r} is not an ISO 15924 code such as Cyrl or Hani{meant}")


def _script_near(word: str) -> str | None:
    names = {name.lower(): code for code, name in SCRIPTS.items()}
    names |= {code.lower(): code for code in SCRIPTS}
    if near := get_close_matches(word, names, n=1, cutoff=0.75):
        code = names[near[0]]
    elif (language := word if word in LANGUAGES else _language_near(word)) is not None:
        return usual_script(language)
    else:
        return None
    code = _SCRIPT_AS_REPORTED.get(code, code)
    return code if code in SCRIPTS else None


@lru_cache(KNOWN_TAGS)
def usual_script(language: str) -> str | None:
    """The script in which most texts of a language are, as they report it."""
    code = Language.get(language).maximize().script or ""
    code = _SCRIPT_AS_REPORTED.get(code, code)
    return code if code in SCRIPTS else None
