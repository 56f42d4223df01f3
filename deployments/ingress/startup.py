"""What a router logs of its start: which switches it misses, and which model waits for what.

Serve logs a line every 30 s with everything that it knows; this is one sentence a model, once.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from router.config import RouterArgs
from router.resources import Node, bookings, node, waiting
from router.switches import missing

FIRST_S = 15.0  # a replica that fits has been placed long before
EVERY_S = 30.0
GROWS = "where an autoscaler adds nodes, one may be on its way"

log = logging.getLogger("ray.serve")


def say_switches() -> None:
    """One line where switches are missing that make the service faster or safer."""
    if (lacking := missing(os.environ)) is not None:
        log.info(lacking)


async def watch(
    args: RouterArgs,
    unready: Callable[[], list[str]],
    cluster: Callable[[], tuple[dict[str, Any], list[Node]]],
    first_s: float = FIRST_S,
    every_s: float = EVERY_S,
) -> None:
    """Log a sentence for each model that waits for resources, until all have been ready.

    `cluster` blocks; it gives the application as a Serve config has it, and the nodes.
    """
    said: set[str] = set()
    await asyncio.sleep(first_s)
    while names := unready():
        try:
            application, nodes = await asyncio.to_thread(cluster)
        except Exception as error:  # a controller that is being replaced, or another Ray's words
            log.debug("what models wait for is not known: %s", type(error).__name__)
            application, nodes = {}, []
        for wait in waiting(bookings(args, application), nodes) if nodes else ():
            if wait.deployment in names and wait.sentence not in said:
                said.add(wait.sentence)
                log.warning("%s (%s)", wait.sentence, GROWS)
        await asyncio.sleep(every_s)


def cluster() -> tuple[dict[str, Any], list[Node]]:
    """This application as Serve runs it, and the nodes that are there."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    name = serve.get_replica_context().app_name
    deployments = client.get_serve_details()["applications"][name]["deployments"]
    found = [{"name": key, **one["deployment_config"]} for key, one in deployments.items()]
    alive = [one for one in ray.nodes() if one["Alive"]]  # type: ignore[no-untyped-call]
    return {"deployments": found}, [node(one["Resources"]) for one in alive]
