"""The handlers of the table of routes."""

from collections import Counter

import pytest

from deployments.ingress.application import Application
from deployments.ingress.inference import Inference
from deployments.ingress.routes import FILES
from router.routes import ROUTES
from router.strict import parse_args
from tests.support.local_service import ARGS, LocalRouter


@pytest.fixture(scope="module")
def router() -> LocalRouter:
    return LocalRouter(parse_args(ARGS))


def test_each_handler_is_in_exactly_one_table(router: LocalRouter) -> None:
    application = Application(router)  # type: ignore[arg-type]
    found = Counter(name for table in (*application.tables, router.views.fixed) for name in table)
    assert found == dict.fromkeys((route.handler for route in (*ROUTES, *FILES)), 1)


def test_the_routes_that_models_serve_are_those_of_the_handlers_that_call_models(
    router: LocalRouter,
) -> None:
    only_decide = {"explain"}
    served = {route.handler for route in ROUTES if route.model_serves}
    assert served == Inference(router).handlers.keys() - only_decide
    assert not {route.handler for route in ROUTES if not route.model_serves} & served
