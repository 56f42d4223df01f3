"""Prompts and tokens: models that read alike share them, and nothing of a caller's text is taken
for a template.
"""

from typing import Any

import pytest

from deployments.service.prepare import Preparer
from router.errors import InvalidValue
from router.strict import parse_args
from tests.support.counted_tokenizer import Counted
from tests.support.local_service import E5, FAKE, WORDLLAMA

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

PROMPTS = {"query": "Instruct: {instruction}\nQuery:{text}", "instruction": "find it"}


def preparer(**models: dict[str, Any]) -> Preparer:
    return Preparer(
        parse_args(
            {
                "models": models,
                "tiers": {"fast": next(iter(models))},
                "routing": {"default_tier": "fast"},
            }
        )
    )


def test_models_with_the_same_tokenizer_and_prompt_share_one_tokenisation() -> None:
    made = preparer(a=FAKE, b=FAKE, c={**FAKE, "prompts": PROMPTS}, d=WORDLLAMA)
    documents = made.prepare(["hello there"], "document", None, ["a", "b", "c", "d"])
    assert documents["a"] is documents["b"] is documents["c"]
    assert documents["d"] is not documents["a"]
    queries = made.prepare(["hello there"], "query", None, ["a", "c"])
    assert queries["a"] is not queries["c"]
    assert queries["c"].counts[0] > queries["a"].counts[0]


@pytest.mark.parametrize("text", ["{text}", "{instruction}", "a {text} b {instruction} c"])
def test_braces_in_a_text_or_an_instruction_are_only_text(text: str) -> None:
    made = preparer(plain=FAKE, prompted={**FAKE, "prompts": PROMPTS})
    whole = made.prepare([f"Instruct: {text}\nQuery:{text}"], "document", None, ["plain"])["plain"]
    built = made.prepare([text], "query", text, ["prompted"])["prompted"]
    assert built.digests == whole.digests


@pytest.mark.models
def test_a_model_that_takes_text_gets_it_with_its_tokens_counted_exactly() -> None:
    made = preparer(e5=E5)
    one = made.prepare(["how much protein"], None, None, ["e5"])["e5"]
    assert (one.ids, one.texts, one.side, one.exact) == (None, ["how much protein"], "query", True)
    assert made.prepare(["how much protein"], "document", None, ["e5"])["e5"].digests != one.digests


@pytest.mark.parametrize("where", ["end", "start"])
def test_a_cut_keeps_the_prompt_and_fills_the_model(where: Any) -> None:
    made = preparer(m={**FAKE, "prompts": PROMPTS})
    text = " ".join(f"w{index}" for index in range(400))
    before = made.prepare([text, "short"], "query", None, ["m"])["m"]
    after, cut = made.cut(before, [text, "short"], "m", where, None)
    assert cut == [0]
    assert 250 <= after.counts[0] <= 256
    assert after.counts[1] == before.counts[1]
    assert before.ids is not None
    assert after.ids is not None
    assert list(after.ids[0][:4]) == list(before.ids[0][:4])
    assert after.ids[0][-1] == before.ids[0][-1]


def test_a_prompt_longer_than_the_model_reads_is_refused_and_not_embedded_alone() -> None:
    made = preparer(m={**FAKE, "prompts": PROMPTS})
    task = "very " * 300
    before = made.prepare(["text"], "query", task, ["m"])["m"]
    with pytest.raises(InvalidValue, match="prompt alone"):
        made.cut(before, ["text"], "m", "end", task)


TEXTS = [
    "The parcel was late and the box was damaged, says the customer. " * 800,
    "配達が遅れて箱が壊れていました。" * 2000,
    "naïve café — “déjà vu” 😀 " * 1500,
    "x" * 90 + " " * 40_000 + "and a last word " * 3000,
    "0123456789abcdef" * 40 + " short words follow here" * 2000,
]


@pytest.mark.parametrize("where", ["end", "start"])
@pytest.mark.parametrize("model", [FAKE, {**WORDLLAMA, "max_tokens": 512}, E5], ids=["a", "b", "c"])
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_cut_reads_a_text_once_more_and_keeps_all_that_fits(
    where: Any, model: dict[str, Any], text: str
) -> None:
    made = preparer(m={**model, "prompts": {"query": "find: {text} ."}})
    limit = model["max_tokens"]
    before = made.prepare([text, "short"], "query", None, ["m"])["m"]
    if before.counts[0] <= limit:
        text *= 8
        before = made.prepare([text, "short"], "query", None, ["m"])["m"]
    inner = made.tokenizers["m"]
    assert inner is not None
    made.tokenizers["m"] = counted = Counted(inner)
    after, cut = made.cut(before, [text, "short"], "m", where, None)
    assert cut == [0]
    assert limit - 4 <= after.counts[0] <= limit
    assert list(after.counts[1:]) == list(before.counts[1:])
    assert list(after.digests[1:]) == list(before.digests[1:])
    only_counts = inner.offsets("") is None
    assert counted.characters < (6 if only_counts else 2.5) * len(text)
