"""A pytest plugin: with `-n`, tests of one file run in one worker, and tests that start services or
real engines run one at a time.
"""

from typing import Any

import pytest

SERVICES = ("tests/cluster/", "tests/serve/", "tests/vllm/")


def scope_of(test: str) -> str:
    """The scope of tests that run in one worker."""
    file = test.partition("::")[0]
    return "services" if file.startswith(SERVICES) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Schedule whole scopes, the largest first."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByScope(config, log)
