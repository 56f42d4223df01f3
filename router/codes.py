"""ISO codes of languages (639-1) and scripts (15924) in configs, with names for suggestions."""

from difflib import get_close_matches

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


def unknown_language(word: str) -> str | None:
    """The error message for a `word` that is no ISO 639-1 code; None if it is one."""
    return _unknown(word, LANGUAGES, "an ISO 639-1 code such as en or zh")


def unknown_script(word: str) -> str | None:
    """The error message for a `word` that is no detectable script; None if it is one."""
    return _unknown(word, SCRIPTS, "an ISO 15924 code such as Cyrl or Hani")


def _unknown(word: str, table: dict[str, str], what: str) -> str | None:
    if word in table:
        return None
    keys = {code.lower(): code for code in table} | {
        name.lower(): code for code, name in table.items()
    }
    asked = word.lower().partition("-")[0].partition("_")[0]
    near = [asked] if asked in keys else get_close_matches(asked, keys, n=1, cutoff=0.75)
    return f"{word!r} is not {what}" + (f"; did you mean {keys[near[0]]}?" if near else "")
