"""What was read of a text is kept for the next time, and only for a request that would read the
same.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from deployments.service.prepare import Prepared, Preparer
from deployments.service.reader import (
    KNOWN_CHARACTERS,
    OFF_LOOP_CHARACTERS,
    TEXT_CHARACTERS,
    Reader,
)
from router.errors import InvalidValue
from router.features import extract
from router.strict import parse_args
from tests.support.local_service import FAKE, WORDLLAMA

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

PROMPTS = {"query": "Instruct: {instruction}\nQuery:{text}", "instruction": "find it"}
MODELS = {
    "a": FAKE,
    "b": WORDLLAMA,
    "c": {**FAKE, "prompts": PROMPTS},
    "d": {**FAKE, "prompts": {**PROMPTS, "instruction": "z" * 460}},
}


class Counting(Preparer):
    """Counts how often texts were read."""

    reads = 0
    thread: threading.Thread | None = None  # of the last time

    def prepare(self, *args: Any) -> dict[str, Prepared]:
        self.reads += 1
        self.thread = threading.current_thread()
        return super().prepare(*args)


@pytest.fixture
def preparer() -> Counting:
    return Counting(
        parse_args({"models": MODELS, "tiers": {"fast": "a"}, "routing": {"default_tier": "fast"}})
    )


async def test_a_short_text_is_read_once(preparer: Counting) -> None:
    reader = Reader(preparer)
    first = await reader.read(["wo ist der Bahnhof von Heidelberg"], None, None, None, ("a", "b"))
    again = await reader.read(
        ["wo ist der Bahnhof von " + "Heidelberg"], None, None, None, ("a", "b")
    )
    assert again is first
    assert preparer.reads == 1
    assert first.features.language == "de"


BASE: tuple[Any, ...] = ("ein Text wie jeder andere", "query", None, None, ("a", "c"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, "ein Text wie keiner sonst"),
        (1, "document"),
        (2, "find something else"),
        (3, "fr"),
        (4, ("a", "b")),
    ],
)
async def test_whatever_the_reading_depends_on_is_asked_for(
    preparer: Counting, place: int, value: Any
) -> None:
    reader, other = Reader(preparer), list(BASE)
    other[place] = value
    for asked in (BASE, tuple(other), BASE, tuple(other)):
        text, side, instruction, language, models = asked
        got = await reader.read([text], side, instruction, language, models)
        fresh = preparer.prepare([text], side, instruction, models)
        assert got.features == extract([text], language)
        assert list(got.prepared) == list(models)
        assert all(list(got.prepared[name].digests) == list(fresh[name].digests) for name in models)


@pytest.mark.parametrize(
    "texts", [["a" * (KNOWN_CHARACTERS + 1)], ["one", "two"], ["b " * OFF_LOOP_CHARACTERS]]
)
async def test_what_is_long_or_many_is_read_each_time(preparer: Counting, texts: list[str]) -> None:
    reader = Reader(preparer)
    for reads in (1, 2):
        read = await reader.read(texts, None, None, None, ("a",))
        assert preparer.reads == reads
        assert len(read.prepared["a"].counts) == len(texts)


async def test_what_is_no_language_is_said_each_time(preparer: Counting) -> None:
    reader = Reader(preparer)
    for _ in range(2):
        with pytest.raises(InvalidValue, match="language"):
            await reader.read(["hello"], None, None, "xx", ("a",))


class Broken(Mapping[str, float]):
    """A fault of ours in the detection of a language."""

    def __getitem__(self, language: str) -> float:
        raise KeyError(language)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        raise ValueError("ours")


@pytest.mark.parametrize("language", [None, "und"])
async def test_a_fault_of_detection_is_not_blamed_on_a_callers_language(
    preparer: Counting, language: str | None
) -> None:
    with pytest.raises(ValueError, match="ours"):
        await Reader(preparer, Broken()).read(["reset password"], None, None, language, ("a",))


async def test_a_prior_weighs_short_texts(preparer: Counting) -> None:
    for reader, language in ((Reader(preparer), None), (Reader(preparer, {"en": 5.0}), "en")):
        for texts in (["reset password"], ["reset password", "reset password"]):
            read = await reader.read(texts, None, None, None, ("a",))
            assert read.features.language == language


@pytest.mark.parametrize(
    ("texts", "side", "instruction", "model", "on_loop"),
    [
        (["ab"] * 50, None, None, "a", True),
        (["ab"] * 50, "query", "z" * 460, "a", True),  # has no prompt
        (["ab"] * 50, "document", "z" * 460, "c", True),
        (["ab"] * 50, "query", "z" * 460, "c", False),
        (["ab"] * 50, "query", None, "d", False),  # the operator's own instruction
        (["ab"] * 300, None, None, "a", False),
        (["a" * (OFF_LOOP_CHARACTERS + 1)], None, None, "a", False),
    ],
)
async def test_many_texts_and_long_prompts_are_read_off_the_loop(
    preparer: Counting,
    texts: list[str],
    side: Any,
    instruction: str | None,
    model: str,
    on_loop: bool,
) -> None:
    await Reader(preparer).read(texts, side, instruction, None, (model,))
    assert (preparer.thread is threading.current_thread()) == on_loop


def test_reading_costs_by_the_longest_prompt_of_the_models(preparer: Counting) -> None:
    reader, instruction = Reader(preparer), "z" * 460
    bare = 2048 * (2 + TEXT_CHARACTERS)
    prompt = len("Instruct: ") + len(instruction) + len("\nQuery:")
    for models, expected in ((("a", "b"), bare), (("a", "c"), bare + 2048 * prompt)):
        assert reader.reading(["ab"] * 2048, "query", instruction, models) == expected
