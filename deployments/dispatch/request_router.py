"""Which replica of a model takes a call: the one that the router's ledger chose by tokens.

Serve pickles this module by value, so it holds no state; what it learns goes to
deployments/dispatch/replica_registry.py, which it imports when it runs, inside the router's
process. Every call is sent from a context of its own (see dispatcher.py), so its internal request
id is unique: Serve's default matching by that id is right here, and would hang if two calls shared
one.
"""

import random

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class ByTokens(RequestRouter):
    """Ranks the replica named in the call's `to` first, the others in random order after it."""

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Tell the router's process which replicas there are, at once and without a poll."""
        super().update_replicas(replicas)
        from deployments.dispatch.replica_registry import board
        from deployments.serve_internals import deployment_of

        board.post(deployment_of(self), [replica.replica_id.unique_id for replica in replicas])

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A dead replica leaves the board before Serve's controller has noticed."""
        super().on_replica_actor_died(replica_id)
        from deployments.dispatch.replica_registry import board
        from deployments.serve_internals import deployment_of

        board.post(deployment_of(self), [replica.unique_id for replica in self.curr_replicas])

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
