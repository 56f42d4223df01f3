"""Hypothesis: new examples at every run by hand, the same ones in CI, so that what CI refuses
anyone can see again.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.support")  # what fails there shows its values too
pytest_plugins = ["tests.support.not_run", "tests.support.side_by_side"]

# a busy machine makes an example slow, not wrong
settings.register_profile("no deadline", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "no deadline")


@pytest.fixture(scope="session")
def kept_tokenizers() -> Iterator[None]:
    """Keep the tokenizers of tests/support/local_service.py: a router shares one that is in memory,
    and reads it again where the router before it is gone.
    """
    from router.tokenizer import load
    from tests.support.local_service import ARGS

    kept = [
        load(model["tokenizer"], model.get("special_tokens", True))
        for model in ARGS["models"].values()
    ]
    yield
    kept.clear()
