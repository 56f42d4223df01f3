"""The config tree under `args:` and the sentences about what is wrong with it."""

import copy
import pickle
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from router.config import Limits, RouterArgs
from router.strict import ConfigError, parse_args
from tests.support.config import ARGS, GONE, put


def problems_of(changes: Mapping[str, Any]) -> list[str]:
    """What parse_args says of ARGS with these places changed."""
    data = copy.deepcopy(ARGS)
    for place, value in changes.items():
        put(data, place, value)
    with pytest.raises(ConfigError) as caught:
        parse_args(data, "args")
    return caught.value.problems


def test_a_good_config_is_parsed_and_may_be_parsed_again() -> None:
    args = parse_args(ARGS)
    assert list(args.models) == ["small", "large"]
    assert parse_args(args) == args


LIMITS = ", ".join(Limits.model_fields)
NORWAY = "must be text; YAML reads no, off, on and yes as false: put the word in quotes"
MISTAKES = {
    "typo-deep-in-a-list": (
        "routing.rules.0.when.min_token",
        3,
        "routing.rules[0].when.min_token: unknown key; did you mean min_tokens?",
    ),
    "nothing-near": ("limits.zzz", 1, f"limits.zzz: unknown key; valid keys are {LIMITS}"),
    "flag-for-a-number": (
        "models.small.dimensions",
        True,
        "models.small.dimensions: must be a valid integer, it is true",
    ),
    "flag-for-a-fraction": (
        "limits.request_timeout_s",
        True,
        "limits.request_timeout_s: must be a number, it is true",
    ),
    "text-for-a-whole-number": (
        "limits.max_items",
        "10",
        "limits.max_items: must be a valid integer, it is '10'",
    ),
    "unknown-tier": (
        "tiers.quick",
        "small",
        "tiers.quick: unknown key; valid keys are fast, balanced, best",
    ),
    "typo-inside-a-union": (
        "models.large.engine.in_proces",
        True,
        "models.large.engine.in_proces: unknown key; did you mean in_process?",
    ),
    "typo-in-a-plain-union": (
        "models.large.matryoshka.mim",
        3,
        "models.large.matryoshka.mim: unknown key; did you mean min?",
    ),
    "unknown-engine": (
        "models.small.engine.kind",
        "vlm",
        "models.small.engine.kind: 'vlm' is not known; did you mean vllm?",
    ),
    "engine-without-kind": (
        "models.small.engine",
        {},
        "models.small.engine.kind: missing; it is one of vllm, transformers, static, callable, "
        "remote, student, fake",
    ),
    "engine-that-is-a-word": (
        "models.small.engine",
        "vllm",
        "models.small.engine: must be a mapping, it is 'vllm'",
    ),
    "wrong-item-of-a-union": (
        "models.small.matryoshka",
        [32, "x"],
        "models.small.matryoshka[1]: must be a valid integer, it is 'x'",
    ),
    "no-branch-of-a-union": (
        "models.small.matryoshka",
        "x",
        "models.small.matryoshka: must be a list or a mapping",
    ),
    "missing": ("tiers", GONE, "tiers: missing, it has no default"),
    "no-models": ("models", {}, "models: must not be empty"),
    "null": ("models", None, "models: must be a mapping, it is empty"),
    "typo-in-a-word": (
        "routing.default_tier",
        "bets",
        "routing.default_tier: 'bets' is not known; did you mean best?",
    ),
    "norway-in-a-list": (
        "routing.rules.0.when.languages",
        [False],
        f"routing.rules[0].when.languages[0]: {NORWAY}",
    ),
    "norway-as-a-key": (
        "models.small.quality",
        {False: 1},
        f"models.small.quality.false: {NORWAY}",
    ),
    "a-country-for-a-language": (
        "routing.rules.0.when.not_languages",
        ["jp"],
        "routing.rules[0].when.not_languages: 'jp' is not an ISO 639 code such as en or zh; did "
        "you mean ja?",
    ),
    "a-language-that-no-text-has": (
        "routing.rules.0.when.languages",
        ["ceb"],
        "routing.rules[0].when.languages: 'ceb' never matches: ISO 639-1 has no code for it, so "
        "such texts have no language here; use `scripts` in a rule, or remove it",
    ),
    "a-language-for-a-script": (
        "routing.rules.0.when.scripts",
        ["korean"],
        "routing.rules[0].when.scripts: 'korean' is not an ISO 15924 code such as Cyrl or Hani; "
        "did you mean Hang?",
    ),
    "one-language-twice": (
        "routing.language_prior",
        {"de": 5, "deu": 3},
        "routing.language_prior: de and deu are the same language; keep one of them",
    ),
    "quality-of-a-name": (
        "models.small.quality",
        {"german": 5},
        "models.small.quality: 'german' is not an ISO 639 code such as en or zh; did you mean de?; "
        "beside languages there are code, mixed, long and default",
    ),
    "a-key-that-was-removed": (
        "routing.price_eta",
        0.1,
        "routing.price_eta: removed in 0.2 with the policy `priced`; delete the line",
    ),
    "a-removed-key-of-a-canary": (
        "compare",
        {"canary": {"share": 0.1, "routing": {"quality_weight": 2}}},
        "compare.canary.routing.quality_weight: removed in 0.2 with the policy `priced`; "
        "delete the line",
    ),
    "a-policy-that-was-removed": (
        "routing.policy",
        "priced",
        "routing.policy: `priced` was removed in 0.2, for it gained nothing; delete the line",
    ),
    "too-large": (
        "routing.miss_share",
        0.7,
        "routing.miss_share: must be less than 0.5, it is 0.7",
    ),
    "not-a-number": (
        "models.small.quality.en",
        float("nan"),
        "models.small.quality.en: must be a finite number, it is nan",
    ),
    "prompt-without-text": (
        "models.large.prompts.query",
        "q: ",
        "models.large.prompts: prompts.query must contain {text} exactly once, it is 'q: '",
    ),
    "not-a-mapping": (
        "routing.rules",
        ["long"],
        "routing.rules[0]: must be a mapping, it is 'long'",
    ),
}


@pytest.mark.parametrize(("place", "value", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gives_one_sentence(place: str, value: Any, sentence: str) -> None:
    assert problems_of({place: value}) == [f"args.{sentence}"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"tiers.fast": "tiny"},
            "args: tiers.fast names model 'tiny'; models are small, large",
            id="no-such-model",
        ),
        pytest.param(
            {"tiers": {"fast": "large", "best": "small"}},
            "args: tiers.fast names 'large', which stands after 'small' of tiers.best in models; "
            "write models from small to "
            "large, or give each a rank (a tool that sorts keys may have reordered them)",
            id="models-not-from-small-to-large",
        ),
        pytest.param(
            {"routing.default_tier": "balanced"},
            "args: routing.default_tier names tier 'balanced', which tiers: does not map to a "
            "model",
            id="tier-without-model",
        ),
        *(
            pytest.param(
                {f"models.{name}": ARGS["models"]["small"]},
                f"args: models.{name}: a model id has ASCII letters, digits and signs only, and "
                "no space",
                id=kind,
            )
            for kind, name in (("model-in-another-script", "模型"), ("model-with-a-space", "a b"))
        ),
    ],
)
def test_names_that_do_not_fit_together_are_told(changes: dict[str, Any], sentence: str) -> None:
    assert problems_of(changes) == [sentence]


def test_all_mistakes_are_reported_at_once() -> None:
    assert problems_of(
        {
            "limit": {},
            "models.small.dimensions": "many",
            "models.large.engine": {"kind": "vllm", "sorce": "x"},
        }
    ) == [
        "args.models.large.engine.sorce: unknown key; did you mean source?",
        "args.limit: unknown key; did you mean limits?",
        "args.models.small.dimensions: must be a valid integer, it is 'many'",
        "args.models.large.engine.source: missing, it has no default",
    ]


def test_a_config_error_survives_pickling_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["one", "two"])))
    assert error.problems == ["one", "two"]
    assert str(error) == "one\ntwo"


def sections(model: BaseModel, path: str = "") -> Iterator[str]:
    """The place of every section of a parsed config that its file gave."""
    yield path
    for name in model.model_fields_set:
        value = getattr(model, name)
        items = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, tuple)
            else [("", value)]
        )
        for key, item in items:
            if isinstance(item, BaseModel):
                yield from sections(item, f"{path}{name}.{key}." if key != "" else f"{path}{name}.")


SECTIONS = sorted(sections(RouterArgs.model_validate(ARGS)))


@given(section=st.sampled_from(SECTIONS), key=st.from_regex(r"zz_[a-z]{1,8}", fullmatch=True))
def test_an_unknown_key_in_any_section_is_reported_once_and_with_its_path(
    section: str, key: str
) -> None:
    (problem,) = problems_of({section + key: 1})
    written = re.sub(r"[.](\d+)", r"[\1]", section + key)
    assert problem.startswith(f"args.{written}: unknown key; ")


KEYS = st.sampled_from([*RouterArgs.model_fields, "kind", "m", "source", "min"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("vllm"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(
    value=ANYTHING,
    place=st.sampled_from(
        ["", "models", "models.small", "models.small.engine", "routing", "tiers", "limits"]
    ),
)
def test_whatever_is_written_gives_sentences_and_no_other_error(value: Any, place: str) -> None:
    data = copy.deepcopy(ARGS)
    if place:
        put(data, place, value)
    problems = [": "]
    try:
        parse_args(data if place else value, "args")
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(": " in problem for problem in problems)
