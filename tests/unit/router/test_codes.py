"""Codes of languages and scripts in a config are read as those of requests."""

import pytest

from router.codes import LANGUAGES, SCRIPTS, by_language, language_codes, parse_tag, script_codes
from router.language import COUNTED_SCRIPTS, LANGUAGE_OF_SCRIPT, script_of
from router.language_id import LABELS, allowed_labels


@pytest.mark.parametrize(
    "word",
    "en eng EN en-US en_GB zh-CN zho chi cmn yue zh-Hant-TW ger iw nb nno no hbs gsw fil".split(),  # noqa: SIM905
)
def test_a_code_is_read_as_that_of_a_request(word: str) -> None:
    assert language_codes([word]) == (parse_tag(word)[0],)


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("english", "en"),
        ("Chinese", "zh"),
        ("english (US)", "en"),
        ("portuguese-brazil", "pt"),
        ("portugese", "pt"),
        ("deutsch", "de"),
        ("en us", "en"),
        ("nynorsk", "no"),
        ("norwegian bokmal", "no"),
        ("cn", "zh"),
        ("jp", "ja"),
        ("cz-CZ", "cs"),
    ],
)
def test_a_word_that_is_no_code_is_refused_with_the_code(word: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {near}\?$"):
        language_codes([word])


@pytest.mark.parametrize("word", ["", "xx", "klingon", "e", "c", "posix"])
def test_a_word_that_is_like_no_language_is_refused_without_a_guess(word: str) -> None:
    with pytest.raises(ValueError, match=r"is not an ISO 639 code such as en or zh$"):
        language_codes([word])


@pytest.mark.parametrize("word", ["ceb", "ceb-PH", "und", "mul", "ilo"])
def test_a_code_that_no_text_ever_has_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="never matches"):
        language_codes([word])


def test_every_language_of_a_label_is_a_code_or_reported_as_none() -> None:
    found = {language for script in LABELS for language in allowed_labels(script).languages}
    found |= set(LANGUAGE_OF_SCRIPT.values())
    codes = sorted(language for language in found if len(language) == 2)
    assert language_codes(codes) == tuple(codes)
    assert set(language_codes(LANGUAGES)) == set(LANGUAGES) - {"nb", "nn"}


def test_a_language_has_one_figure() -> None:
    assert by_language({"eng": 1, "default": 2}, ("default",)) == {"en": 1, "default": 2}
    with pytest.raises(ValueError, match="en and eng are the same language; keep one of them"):
        by_language({"en": 1, "eng": 1})
    with pytest.raises(ValueError, match="beside languages there are code and default"):
        by_language({"defualt": 1}, ("code", "default"))


@pytest.mark.parametrize(
    "text", ["ひらがな", "カタカナ", "漢字とかな", "한국어", "大學", "大学", "Ж", "é"]
)
def test_every_script_that_is_reported_can_be_in_a_rule(text: str) -> None:
    script = script_of(text)
    assert script is not None
    assert script_codes([script, script.lower()]) == (script,)


def test_every_code_of_a_script_is_read_as_one_that_is_reported() -> None:
    assert script_codes(["Hira", "Kana", "Hrkt", "jpan", "Kore", "Hans", "Hant", "Hani"]) == (
        "Jpan",
        "Hang",
        "Hani",
    )
    reported = (set(COUNTED_SCRIPTS) | {"Jpan"}) - {"Hira", "Kana"}
    assert set(script_codes(SCRIPTS)) == set(script_codes(sorted(reported))) == reported


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("chinese", "Hani"),
        ("zh", "Hani"),
        ("ja", "Jpan"),
        ("korean", "Hang"),
        ("cyrillic", "Cyrl"),
        ("ru", "Cyrl"),
        ("latin", "Latn"),
    ],
)
def test_a_word_that_is_no_script_is_refused_with_the_script(word: str, near: str) -> None:
    with pytest.raises(ValueError, match=rf"did you mean {near}\?$"):
        script_codes([word])
