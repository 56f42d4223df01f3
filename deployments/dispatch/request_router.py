"""Serve's request router: a call goes to the replica that the router's ledger chose by tokens.

Serve pickles this module by value, so it holds no state. It reports replicas to
deployments/dispatch/replica_registry.py, which it imports at run time, inside the router's process.
Every call is sent from its own context (see dispatcher.py), so its internal request id is unique:
Serve's default matching by that id is right here, and would hang if two calls shared one.
"""

import random

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class ByOutstandingTokens(RequestRouter):
    """Ranks the replica named in the call's `to` first, the others in random order after it."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Report the current replicas to the router's process, at once and without a poll."""
        super().update_replicas(replicas)
        from deployments.dispatch.replica_registry import registry
        from deployments.serve_internals import deployment_of

        registry.replace(
            deployment_of(self), [replica.replica_id.unique_id for replica in replicas]
        )

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """Remove a dead replica from the registry before Serve's controller has noticed."""
        super().on_replica_actor_died(replica_id)
        from deployments.dispatch.replica_registry import registry
        from deployments.serve_internals import deployment_of

        registry.replace(deployment_of(self), [replica.unique_id for replica in self.curr_replicas])

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of replicas to try, the best first."""
        wanted = pending_request.kwargs.get("to") if pending_request is not None else None
        first = [
            replica for replica in candidate_replicas if replica.replica_id.unique_id == wanted
        ]
        others = [
            replica for replica in candidate_replicas if replica.replica_id.unique_id != wanted
        ]
        random.shuffle(others)
        return [rank for rank in (first, others) if rank]
