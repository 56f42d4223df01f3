"""Log messages of a router's start: missing switches, and what each model waits for.

Serve logs its whole status every 30 s; this logs one sentence per model, once.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from deployments.serve_internals import deployed
from router.config import RouterArgs
from router.resources import Node, bookings, node, waiting
from router.switches import missing

FIRST_S = 15.0  # a replica that fits has been placed long before this
EVERY_S = 30.0
GROWS = "where an autoscaler adds nodes, one may be on its way"

log = logging.getLogger("ray.serve")


def log_missing_switches() -> None:
    """Log one line if switches are missing that make the service faster or safer."""
    if (lacking := missing(os.environ)) is not None:
        log.info(lacking)


class StartupLog:
    """Logs a sentence for each model that waits for resources, once until it is ready again.

    `cluster` blocks; it returns the application as in a Serve config, and the nodes.
    """

    def __init__(
        self,
        args: RouterArgs,
        unready: Callable[[], list[str]],
        cluster: Callable[[], tuple[dict[str, Any], list[Node]]],
    ) -> None:
        self._args, self._unready, self._cluster = args, unready, cluster
        self._reported: dict[str, str] = {}  # by model

    async def run(self) -> None:
        """Check every EVERY_S until cancelled."""
        await asyncio.sleep(FIRST_S)
        while True:
            await self.look()
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """Check once."""
        names = self._unready()
        self._reported = {name: text for name, text in self._reported.items() if name in names}
        if not names:
            return
        try:
            application, nodes = await asyncio.to_thread(self._cluster)
            waits = list(waiting(bookings(self._args, application), nodes))
        except Exception as error:  # a controller being replaced, or another Ray's reply
            log.debug("what models wait for is not known: %s", type(error).__name__)
            return
        for wait in waits:
            name = wait.deployment
            if name in names and self._reported.get(name) != wait.sentence:
                self._reported[name] = wait.sentence
                log.warning("%s (%s)", wait.sentence, GROWS)


def cluster() -> tuple[dict[str, Any], list[Node]]:
    """This application as Serve runs it, and the nodes that are alive."""
    import ray
    from ray import serve

    name = serve.get_replica_context().app_name
    deployments = deployed(name)
    found = [{"name": key, **one["deployment_config"]} for key, one in deployments.items()]
    alive = [one for one in ray.nodes() if one["Alive"]]  # type: ignore[no-untyped-call]
    return {"deployments": found}, [node(one["Resources"]) for one in alive]
