"""`serve run` of configs/qwen3.yaml: the tests of `embedding-router run` on Serve's own front."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.qwen3_configs import tiny_config
from tests.support.qwen3_contract import (  # noqa: F401  # run here with the fixtures below
    WIDTHS,
    test_2048_vectors_of_4096_numbers_fit_in_one_request,
    test_a_40k_token_text_is_refused_with_its_count,
    test_base64_equals_float_bit_for_bit,
    test_every_width_equals_transformers_with_its_prompts,
    test_models_are_known_by_their_hub_names,
    test_smaller_spaces_are_cut_and_renormalised,
)
from tests.support.serve_run import ServeRun, served_by_serve_run
from tests.support.tiny_qwen3 import write_checkpoints

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("qwen3"), WIDTHS, max_tokens=32768)


@pytest.fixture(scope="module")
def qwen3(checkpoints: dict[str, Path]) -> Iterator[ServeRun]:
    with served_by_serve_run(tiny_config(checkpoints)) as running:
        yield running
