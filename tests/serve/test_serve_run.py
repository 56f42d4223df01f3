"""`serve run configs/local.yaml`: the tests of `embedding-router run` on Serve's own front."""

from collections.abc import Iterator

import httpx
import pytest
import yaml

from router.switches import missing
from tests.support.launched import ROOT
from tests.support.local_contract import (  # noqa: F401  # run here with the fixture below
    test_a_client_that_leaves_takes_its_work_out_of_the_engine,
    test_a_list_of_2048_items_is_answered_in_order,
    test_bad_requests_are_the_contracts_errors_through_serve,
    test_documents_are_ranked_by_similarity_of_the_larger_models,
    test_each_text_goes_to_the_model_for_it,
    test_every_tier_answers_and_says_its_space,
    test_related_sentences_are_closer_than_unrelated_ones,
)
from tests.support.serve_run import ServeRun, served_by_serve_run

pytestmark = [pytest.mark.serve, pytest.mark.models, pytest.mark.long]


@pytest.fixture(scope="module")
def local() -> Iterator[ServeRun]:
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text())
    with served_by_serve_run(config) as running:
        yield running


def test_it_says_which_front_it_has_and_what_it_lacks(local: ServeRun) -> None:
    assert httpx.get(f"{local.url}/v1/tiers", timeout=60).json()["front"] == "serve"
    sentence = missing({})
    assert sentence is not None
    log = local.router_log()
    assert log.count("against `embedding-router run` this service lacks") == 1
    for name in ("RAY_SERVE_ENABLE_HA_PROXY=1", "RAY_SERVE_THROUGHPUT_OPTIMIZED=1"):
        assert name in sentence
        assert name in log
