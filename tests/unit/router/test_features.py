"""One set of features for a list of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain import Features
from router.features import SAMPLED_TEXTS, extract

ENGLISH = "The committee will publish its report on public transport next week."
GERMAN = "Der Ausschuss wird seinen Bericht über den Nahverkehr nächste Woche veröffentlichen."
RUSSIAN = "Комитет опубликует свой доклад об общественном транспорте на следующей неделе."
CODE = "def add(self, a: int, b: int) -> int:\n    return self.total + a * b\n"
MIXED = "What is the size of the endowment? 在1925年建了一個露天劇場，吸引各種各樣的觀眾。"


def test_one_text_has_its_own_features() -> None:
    assert extract([ENGLISH]) == Features(len(ENGLISH), "en", "Latn", False, False)
    assert extract([CODE]) == Features(len(CODE), None, "Latn", False, True)
    assert extract([MIXED]).mixed


@pytest.mark.parametrize(
    "texts", [[], [""], ["", " "]], ids=["no text", "an empty text", "blank texts"]
)
def test_nothing_to_read_is_nothing_learned(texts: list[str]) -> None:
    assert extract(texts) == Features(sum(map(len, texts)), None, None, False, False)


def test_the_language_of_a_list_is_that_of_most_characters() -> None:
    assert extract([RUSSIAN * 3, ENGLISH, ENGLISH]) == Features(
        3 * len(RUSSIAN) + 2 * len(ENGLISH), "ru", "Cyrl", False, False
    )


def test_texts_in_different_languages_do_not_make_a_list_mixed() -> None:
    assert not extract([ENGLISH, GERMAN, RUSSIAN]).mixed


def test_a_list_is_mixed_or_code_where_texts_that_are_so_hold_half_of_it() -> None:
    assert extract([MIXED, MIXED, ENGLISH]).mixed
    assert not extract([MIXED, ENGLISH, ENGLISH, ENGLISH]).mixed
    assert extract([CODE * 3, ENGLISH]).code
    assert not extract([CODE, ENGLISH, ENGLISH]).code


def test_a_long_list_is_sampled_evenly_from_the_first_text_to_the_last() -> None:
    looked_at = {i * 699 // (SAMPLED_TEXTS - 1) for i in range(SAMPLED_TEXTS)}
    texts = [RUSSIAN if i in looked_at else ENGLISH for i in range(700)]
    assert {0, 699} <= looked_at
    assert extract(texts).language == "ru"
    assert extract(texts).characters == sum(map(len, texts))


@pytest.mark.parametrize(
    ("hint", "language", "script"),
    [
        ("en", "en", "Cyrl"),
        ("EN_us", "en", "Cyrl"),
        ("zh-Hant", "zh", "Hani"),
        ("zh-cmn-Hans-CN", "zh", "Hani"),
        ("sr-Latn-RS", "sr", "Latn"),
        ("nb-NO", "no", "Cyrl"),
        ("iw", "he", "Cyrl"),
        ("yue", "zh", "Cyrl"),
        ("ja-Hira", "ja", "Jpan"),
        ("ceb", None, "Cyrl"),
        (" de ", "de", "Cyrl"),
        ("de-1996", "de", "Cyrl"),
        ("und", "ru", "Cyrl"),
    ],
)
def test_a_hint_replaces_detection(hint: str, language: str | None, script: str) -> None:
    assert extract([RUSSIAN], hint) == Features(len(RUSSIAN), language, script, False, False)


def test_a_hint_says_that_there_is_one_language_but_not_whether_it_is_code() -> None:
    assert not extract([MIXED], "zh").mixed
    assert extract([CODE], "en") == Features(len(CODE), "en", "Latn", False, True)


@pytest.mark.parametrize(
    ("hint", "says"),
    [
        ("", "BCP-47"),
        ("english", "BCP-47"),
        ("e", "BCP-47"),
        ("en us", "BCP-47"),
        ("x-private", "BCP-47"),
        ("en-", "BCP-47"),
        ("cn", "no language in ISO 639-1"),
        ("jp-JP", "no language in ISO 639-1"),
    ],
)
def test_a_hint_that_is_no_language_is_refused(hint: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        extract([ENGLISH], hint)


@given(st.lists(st.text(), max_size=20), st.sampled_from([None, "en", "zh-Hant"]))
def test_any_list_is_good_input(texts: list[str], hint: str | None) -> None:
    assert extract(texts, hint).characters == sum(map(len, texts))
