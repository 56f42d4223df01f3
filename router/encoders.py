"""Encoders of a space: the models that may make its vectors, and what a search with each keeps.

    native    the model in the space's id
    same      the same weights in another place or precision, proven by probes (cosine >= 0.999) or
              by measured recall
    adapter   another model, over a linear map (router/adapters.py)
    student   a small encoder of queries, distilled into the space (router/student.py)

Whatever is not native has proof: with the fingerprints of the models that it was measured with, or
it is refused when the config is read (router/encoder_check.py).

A collection of several spaces has an index for each. What a search in another index keeps of the
best one is measured too, and an encoder is expected to keep both shares, one of the other.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from router.adapters import Adapter
from router.arrays import Vectors
from router.domain import NO_WORK, Features, Model, Why, Work
from router.proof import Documents, Proof
from router.running_recall import Booking, RunningRecall
from router.space import Space, fit

Kind = Literal["native", "same", "adapter", "student"]
Sides = Literal["queries", "both"]


@dataclass(frozen=True, slots=True)
class Encoder:
    """One model as a maker of one space's vectors."""

    model: str
    space: Space
    kind: Kind
    sides: Sides = "queries"
    proof: Proof | None = None  # of what it keeps in its space; None: all of it
    # of what its space's own model keeps of the collection's best space; None: all, or `assumed`
    space_proof: Proof | None = None
    assumed: float = 1.0  # where the space was not measured
    documents: Documents = "growing"  # of the collection: which figure of a proof counts
    adapter: Adapter | None = None

    @property
    def native(self) -> bool:
        """Whether it is the space's own model."""
        return self.kind == "native"

    def makes(self, side: str | None) -> bool:
        """Whether it makes vectors of texts of this side; a side that nobody gave is no query."""
        return self.sides == "both" or side == "query"

    def expected_recall(self, language: str | None = None) -> float:
        """What a query in this language keeps of the best search, where it was measured; else what
        queries keep overall.
        """
        kept = self.assumed
        for proof in (self.proof, self.space_proof):
            if proof is not None:
                kept *= proof.kept(self.documents, language).recall
        return min(1.0, kept)

    def recall_of(self, features: Features) -> float:
        """What the texts of a request keep, the mean of a list."""
        if not features.kinds:
            return self.expected_recall(features.language)
        texts = sum(kind.texts for kind in features.kinds)
        kept = sum(self.expected_recall(kind.language) * kind.texts for kind in features.kinds)
        return kept / texts

    def land(self, vectors: Vectors) -> Vectors:
        """(n, own size) vectors of its model in its space."""
        if self.adapter is not None:
            vectors = self.adapter.map(vectors)
        return fit(vectors, self.space.dimensions)


@dataclass(frozen=True, slots=True)
class Encoders:
    """All that is not native, as a config names it and its proofs allow it."""

    of_model: Mapping[str, Encoder] = field(default_factory=dict)  # models with `space_of`
    # by collection: native ones first, in the order of its spaces
    of_collection: Mapping[str, tuple[Encoder, ...]] = field(default_factory=dict)


def native(space: Space) -> Encoder:
    """The space's own model."""
    return Encoder(space.model, space, "native", "both")


def best_of_each(encoders: Iterable[Encoder], features: Features) -> dict[str, Encoder]:
    """For each model the space in which it is expected to keep most of these texts: what it costs
    is the same in all of them. The first of equals is taken.
    """
    best: dict[str, tuple[float, Encoder]] = {}
    for encoder in encoders:
        recall = encoder.recall_of(features)
        if encoder.model not in best or recall > best[encoder.model][0]:
            best[encoder.model] = recall, encoder
    return {model: encoder for model, (_, encoder) in best.items()}


def best_model(encoders: Mapping[str, Encoder], recalls: Mapping[str, float]) -> str:
    """The model that keeps most; of equals a native one, then the first."""
    return max(encoders, key=lambda name: (recalls[name], encoders[name].native))


@dataclass(slots=True)
class EncoderChoice:
    """The encoders that one request may be answered by, and its place in the average of its
    collection.
    """

    encoders: Mapping[str, Encoder]  # by model
    # what each keeps of the best search on these texts; empty where nothing is to be chosen
    recalls: Mapping[str, float] = field(default_factory=dict)
    nothing_read: frozenset[str] = frozenset()  # models that read nothing of one of the texts
    queries: int = 0
    running: RunningRecall | None = None  # None: the caller left no choice
    permitted: frozenset[str] | None = None  # models that the key may use; None: all
    _model: str | None = None
    _booking: Booking | None = None

    def unfit(self) -> dict[str, Why]:
        """The models that may not make the vectors now, and why.

        One that reads nothing of a text is taken where it is native and no other could be.
        """
        if not self.recalls:
            return {}
        permitted = self.encoders.keys() if self.permitted is None else self.permitted
        readable = self.encoders.keys() & (permitted - self.nothing_read)
        low = self.running is not None and self.running.low
        floor = self.running.floor if low and self.running is not None else 0.0
        whys = {name: Why.BELOW_FLOOR for name, recall in self.recalls.items() if recall < floor}
        for name in self.nothing_read:
            if readable or not self.encoders[name].native:
                whys[name] = Why.UNREAD
        return whys

    def decided(self, model: str) -> None:
        """The request goes to this model; where it went before does not count."""
        if self.running is None or model == self._model:
            return
        self._take_back()
        self._model = model
        self._booking = self.running.decided(self.recalls[model], self.queries)

    def ended(self, answered: bool) -> None:
        """The request is over."""
        if self.running is None or self._model is None:
            return
        if not answered:
            self._take_back()
        elif self._booking is None:
            self.running.answered(self.recalls[self._model], self.queries)

    def land(self, vectors: Vectors, model: str) -> tuple[Vectors, Space]:
        """(n, own size) vectors of `model` in the space that it makes, and which that is: every
        answer comes through here.

        A model that is no encoder of the spaces that were wanted is a KeyError, never an answer.
        """
        encoder = self.encoders[model]
        return encoder.land(vectors), encoder.space

    def _take_back(self) -> None:
        if self.running is not None and self._booking is not None:
            self.running.take_back(self._booking)
        self._booking = None


NOTHING_TO_CHOOSE = EncoderChoice({})


def as_ranked(
    models: Mapping[str, Model],
    encoders: Mapping[str, Encoder],
    recalls: Mapping[str, float],
    features: Features,
    work: Mapping[str, Work],
) -> dict[str, Model]:
    """The models as the decision sees them for one request of a collection: in the order of what
    they keep, and with the points of the best one times that share.
    """
    order = sorted(encoders, key=lambda name: (recalls[name], encoders[name].native))
    own = models[order[-1]]
    points = own.quality_of(features, work.get(own.id, NO_WORK))
    ranked = dict(models)
    for rank, name in enumerate(order, len(models)):
        quality = {} if points is None else {"default": points * recalls[name]}
        ranked[name] = replace(models[name], rank=rank, quality=quality, long=None)
    return ranked
