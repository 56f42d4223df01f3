"""The work of models that share a device, for predictions: each is slower while another works."""

import random
from collections.abc import Callable, Mapping

from router.cards import Cards
from router.domain import Load
from router.feedback import Feedback
from router.ledger import Ledger
from router.policy import busy_s


class Neighbours:
    """What every model of this router has to do, rerankers included, and on which devices."""

    def __init__(
        self,
        cards: Cards,
        feedback: Mapping[str, Feedback],
        ledger: Ledger,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._cards, self._feedback, self._ledger = cards, feedback, ledger
        self._clock, self._rng = clock, rng

    def beside(self, loads: dict[str, Load], feedback: Mapping[str, Feedback]) -> dict[str, Load]:
        """The loads with the work of the models on the same devices.

        `feedback` has a model of each load, perhaps under another name.
        """
        neighbours = self._cards.neighbours
        if not neighbours:
            return loads
        now, known = self._clock(), {feedback[name].model.id: loads[name] for name in loads}
        busy = dict[str, float]()
        for model in neighbours:
            if (own := self._feedback.get(model)) is not None:
                load = known.get(model) or own.load(self._ledger, now, self._rng)
                busy[model] = busy_s(own.model, load)
        return {
            name: load._replace(
                beside_s=tuple(
                    share * busy[other]
                    for other, share in neighbours.get(feedback[name].model.id, {}).items()
                    if busy.get(other)
                )
            )
            for name, load in loads.items()
        }

    def work(self, model: str) -> bool:
        """Whether another model on a device of this one works now."""
        return any(
            self._ledger.backlog_tokens(other)
            for other in self._cards.neighbours.get(model, ())
            if other in self._feedback
        )
