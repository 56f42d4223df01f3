"""A student of a few tokens."""

from dataclasses import replace
from typing import Any

import numpy as np

from deployments.tools.vocabulary import tokenizer
from router.space import Space
from router.student import About, Student, quantised
from tests.support.bridges import proof_of

TOKENS = ["iron", "bread", "river", "##s", "stone", "人", "b", "##r"]


def student(**changes: Any) -> Student:
    rng = np.random.default_rng(0)
    rows, scales = quantised(rng.standard_normal((len(TOKENS) + 1, 16)).astype(np.float32))
    about = About(
        Space("large", 16),
        "teacher",
        len(TOKENS) + 1,
        100,
        20,
        {"MIT": 100},
        0.6,
        proof_of(0.9, by_language={"en": 0.95}),
    )
    weights = rng.random(len(rows)).astype(np.float32)
    return replace(Student(about, tokenizer(TOKENS), rows, scales, weights), **changes)
