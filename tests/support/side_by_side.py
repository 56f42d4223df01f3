"""A pytest plugin: with `-n`, tests of one file stay together, as they share fixtures, and those
that start services or real engines take turns.
"""

from typing import Any

import pytest

SERVICES = ("tests/cluster/", "tests/serve/", "tests/vllm/")


def scope_of(test: str) -> str:
    """What a test stays together with."""
    file = test.partition("::")[0]
    return "services" if file.startswith(SERVICES) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take whole scopes, those of most tests first."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    return ByScope(config, log)
