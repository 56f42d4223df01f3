"""General texts for students: which ones are taken of a source."""

from benchmarks.general_texts import Line, shuffled

WORDNET = [Line(f"a definition of the word {word}", "wordnet", "WordNet-3.0") for word in range(50)]
PACKAGE = [Line(f"a docstring of function {word}", "package", "MIT") for word in range(50)]


def test_another_package_changes_neither_the_texts_of_the_others_nor_their_order() -> None:
    alone = shuffled(WORDNET, 600, max_of_a_source=20)
    both = shuffled([*PACKAGE, *reversed(WORDNET)], 600, max_of_a_source=20)
    assert len(alone) == 20
    assert [line for line in both if line.source == "wordnet"] == alone
    assert len(both) == 40


def test_the_order_is_not_that_of_the_sources_and_a_text_is_there_once() -> None:
    made = shuffled([*WORDNET, *PACKAGE, *WORDNET], 600)
    assert sorted(made) == sorted([*WORDNET, *PACKAGE])
    firsts = [line.source for line in made[:50]]
    assert 10 < firsts.count("wordnet") < 40


def test_texts_that_are_too_long_or_too_short_are_left_out() -> None:
    lines = [Line(text, "s", "MIT") for text in ("short", "x" * 60, "long enough for a student")]
    assert [line.text for line in shuffled(lines, 50)] == ["long enough for a student"]
