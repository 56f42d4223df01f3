"""Fixtures that many modules of HTTP tests need, each made in one line of a module."""

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.support.local_service import LocalRouter, served


def service_of(args: Mapping[str, Any]) -> object:
    """A fixture: the URL and the router of a service with these arguments, one for a module."""

    @pytest.fixture(scope="module")
    def service() -> Iterator[tuple[str, LocalRouter]]:
        with served({**args}) as both:
            yield both

    return service


def client_of(service: str) -> object:
    """A fixture: a client of the service that another fixture of the module starts."""

    @pytest.fixture(scope="module")
    def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
        url, _ = request.getfixturevalue(service)
        with httpx.Client(base_url=url, timeout=60) as made:
            yield made

    return client


def client_with(args: Mapping[str, Any]) -> object:
    """A fixture: a client of a service with these arguments, one for a module."""

    @pytest.fixture(scope="module")
    def client() -> Iterator[httpx.Client]:
        with served({**args}) as (url, _), httpx.Client(base_url=url, timeout=60) as made:
            yield made

    return client
