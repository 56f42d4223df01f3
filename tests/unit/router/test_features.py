"""One set of features for a list of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.domain import Features, TextKind
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
    kinds = (TextKind(None, None, False, False, 2),) if len(texts) == 2 else ()
    assert extract(texts) == Features(sum(map(len, texts)), None, None, False, False, kinds)


def test_the_language_of_a_list_is_that_of_most_texts_however_long_the_others_are() -> None:
    found = extract([RUSSIAN * 3, ENGLISH, ENGLISH])
    assert found == Features(
        3 * len(RUSSIAN) + 2 * len(ENGLISH),
        "en",
        "Latn",
        False,
        False,
        (TextKind("en", "Latn", False, False, 2), TextKind("ru", "Cyrl", False, False, 1)),
    )
    assert found.languages == {"en": 2, "ru": 1}


@pytest.mark.parametrize("chinese", [3, 9])
def test_one_english_sentence_does_not_outvote_chinese_titles(chinese: int) -> None:
    titles = ["送货晚了", "箱子坏了", "今天天气很好"] * (chinese // 3)
    found = extract([*titles, "The delivery was late and the box was damaged."])
    assert (found.language, found.script) == ("zh", "Hani")
    assert found.languages == {"zh": chinese, "en": 1}


def test_one_text_has_no_kinds() -> None:
    assert extract([ENGLISH]).kinds == ()
    assert extract([ENGLISH]).languages == {}


def test_texts_in_different_languages_do_not_make_a_list_mixed() -> None:
    assert not extract([ENGLISH, GERMAN, RUSSIAN]).mixed


def test_a_list_is_mixed_or_code_where_texts_that_are_so_hold_half_of_it() -> None:
    assert extract([MIXED, MIXED, ENGLISH]).mixed
    assert not extract([MIXED, ENGLISH, ENGLISH, ENGLISH]).mixed
    assert extract([CODE, ENGLISH]).code
    assert not extract([CODE * 3, ENGLISH, ENGLISH]).code


def test_a_long_list_is_sampled_and_each_text_looked_at_stands_for_its_neighbours() -> None:
    texts = [ENGLISH] * 690 + [RUSSIAN] * 10
    found = extract(texts)
    assert found.languages == {"en": 690, "ru": 10}
    assert found.characters == sum(map(len, texts))
    assert len(texts) > SAMPLED_TEXTS


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
        ("eng", "en", "Cyrl"),
        ("ENG-US", "en", "Cyrl"),
        ("eng_Latn", "en", "Latn"),
        ("en-US", "en", "Cyrl"),
        ("zh_Hant", "zh", "Hani"),
        ("zho-Hans", "zh", "Hani"),
        ("zho", "zh", "Cyrl"),
        ("chi", "zh", "Cyrl"),
        ("deu", "de", "Cyrl"),
        ("ger", "de", "Cyrl"),
        ("fra", "fr", "Cyrl"),
        ("fre", "fr", "Cyrl"),
        ("rus", "ru", "Cyrl"),
        ("ara", "ar", "Cyrl"),
        ("nob", "no", "Cyrl"),
        ("nno", "no", "Cyrl"),
        ("hbs", "hr", "Cyrl"),
        ("tgl", "tl", "Cyrl"),
        ("ilo", None, "Cyrl"),
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
        ("zzz", "no language in ISO 639"),
        ("eng lish", "BCP-47"),
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
