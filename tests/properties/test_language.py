"""Whatever the text, a language is one that its letters can be of."""

from hypothesis import given
from hypothesis import strategies as st

from router.language import (
    COUNTED_SCRIPTS,
    detect,
    is_code,
)

OF_OTHER_SCRIPTS = set(
    "ar be bg el fa he hi hy ja ka ko mk mn ru ta th tg uk ur zh".split()  # noqa: SIM905
)


LATIN_LETTERS = st.text(st.characters(codec="latin-1", categories=["L"]), min_size=1)


@given(st.lists(LATIN_LETTERS, min_size=1, max_size=30))
def test_latin_letters_never_have_the_language_of_another_script(words: list[str]) -> None:
    assert detect(" ".join(words)).language not in OF_OTHER_SCRIPTS


@given(st.text(st.sampled_from("абвгдежзийклмнопрстуфхцчшщъыьэюя ы\u2014."), max_size=60))
def test_cyrillic_letters_never_have_the_language_of_another_script(text: str) -> None:
    assert detect(text).language in {
        None, "av", "ba", "be", "bg", "ce", "cv", "kk", "kv", "ky", "mk", "mn", "os", "ru", "sr",
        "tg", "tt", "ug", "uk", "uz",
    }  # fmt: skip


@given(st.text())
def test_any_text_is_good_input(text: str) -> None:
    found = detect(text)
    assert found == detect(text)
    assert found.language is None or len(found.language) == 2
    assert found.script is None or found.script in (*COUNTED_SCRIPTS, "Jpan")
    assert found.code == is_code(text)
