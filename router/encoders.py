"""Encoders of a space: the models that can make its vectors, and the recall that each one keeps.

    native    the model in the space's id
    same      the same weights elsewhere or in another precision, proven by probes (cosine >= 0.999)
              or by measured recall
    adapter   another model with a linear map (router/adapters.py)
    student   a small encoder of queries, distilled into the space (router/student.py)

Every encoder that is not native needs a proof with the fingerprints of the models that were
measured. Otherwise it is refused when the config is read (router/encoder_check.py).

A collection of several spaces has an index for each. The recall of every index relative to the best
one is measured too. An encoder's expected recall is the product of both shares.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

from router.adapters import Adapter
from router.arrays import Vectors
from router.domain import NO_WORK, Features, Model, Why, Work
from router.proof import Documents, Proof
from router.running_recall import Booking, RunningRecall
from router.space import Space, fit

EncoderKind = Literal["native", "same", "adapter", "student"]
Sides = Literal["queries", "both"]


@dataclass(frozen=True)
class Encoder:
    """One model that makes vectors of one space."""

    model: str
    space: Space
    kind: EncoderKind
    sides: Sides = "queries"
    proof: Proof | None = None  # of its recall in its space; None: it keeps all
    # of its space's recall relative to the collection's best space; None: `assumed`
    space_proof: Proof | None = None
    assumed: float | None = None  # if the space was not measured and another counts as the best
    documents: Documents = "growing"  # of the collection: selects the figure of a proof
    adapter: Adapter | None = None
    # of the queries that `proof` was measured with, for the same weights in another precision;
    # None: the model's default
    instruction: str | None = None

    @property
    def native(self) -> bool:
        """Whether it is the space's own model."""
        return self.kind == "native"

    @cached_property
    def proofs(self) -> tuple[Proof, ...]:
        """The measurements that its expected recall is made of."""
        return tuple(proof for proof in (self.proof, self.space_proof) if proof is not None)

    def makes(self, side: str | None) -> bool:
        """Whether it makes vectors of texts of this side; an unknown side is not a query."""
        return self.sides == "both" or side == "query"

    def expected_recall(self, language: str | None = None) -> float:
        """The share of the best search's recall that a query in this language keeps; that of all
        queries if the language was not measured.
        """
        kept = 1.0 if self.assumed is None else self.assumed
        for proof in self.proofs:
            kept *= proof.kept(self.documents, language).recall
        return min(1.0, kept)

    def reported(self, recall: float) -> float | None:
        """A recall of this encoder as callers see it: None if a part of it is assumed."""
        return recall if self.assumed is None else None

    def keeps(self, features: Features, floor: float) -> bool:
        """Whether it was measured to keep this share in the language of every text.

        An assumed share of a space does not count. A language that was not measured counts as all
        queries do.
        """
        languages = {kind.language for kind in features.kinds} or {features.language}
        return all(
            math.prod(proof.kept(self.documents, language).recall for proof in self.proofs) >= floor
            for language in languages
        )

    @cached_property
    def measured_for(self) -> tuple[str, ...]:
        """The languages with a figure of their own, in every proof."""
        languages = [set(proof.by_language(self.documents)) for proof in self.proofs]
        return tuple(sorted(set.intersection(*languages) - {"unknown"})) if languages else ()

    def measured(self, features: Features) -> bool:
        """Whether the expected recall was measured for the language of every text. Without a proof
        the encoder has the weights of its space, and loses nothing in any language.
        """
        if not self.proofs:
            return True
        languages = [kind.language for kind in features.kinds] or [features.language]
        return set(languages) <= set(self.measured_for)

    def recall_of(self, features: Features) -> float:
        """The expected recall of a request's texts, the mean for a list."""
        if not features.kinds:
            return self.expected_recall(features.language)
        texts = sum(kind.texts for kind in features.kinds)
        kept = sum(self.expected_recall(kind.language) * kind.texts for kind in features.kinds)
        return kept / texts

    def project(self, vectors: Vectors) -> Vectors:
        """Bring (n, own size) vectors of its model into its space."""
        if self.adapter is not None:
            vectors = self.adapter.map(vectors)
        return fit(vectors, self.space.dimensions)


@dataclass(frozen=True, slots=True)
class Encoders:
    """The encoders of a config, after their proofs were checked."""

    of_model: Mapping[str, Encoder] = field(default_factory=dict)  # models with `space_of`
    # by collection: native ones first, in the order of its spaces
    of_collection: Mapping[str, tuple[Encoder, ...]] = field(default_factory=dict)


@lru_cache(1024)
def native(space: Space) -> Encoder:
    """The space's own model as an encoder."""
    return Encoder(space.model, space, "native", "both")


def preference(encoder: Encoder, recall: float) -> tuple[float, bool, bool]:
    """The sort key of encoders: recall, then the space the proof measured against, then native.

    Recall is capped at 1.0, so a lesser space can tie.
    """
    measured_against = not encoder.proofs and encoder.assumed is None
    return recall, measured_against, encoder.native


def best_of_each(
    encoders: Iterable[Encoder],
    features: Features,
    floor: float = 0.0,
    reads: Callable[[Encoder], bool] = lambda _: True,
) -> dict[str, Encoder]:
    """The encoder of each model with the highest expected recall on these texts; one that `reads`
    the request's instruction and keeps `floor` is better than one that does not.

    A model's cost is the same in every space. The first of equals is taken.
    """
    best: dict[str, tuple[tuple[bool, bool, float, bool, bool], Encoder]] = {}
    for encoder in encoders:
        recall = encoder.recall_of(features)
        rank = reads(encoder), encoder.keeps(features, floor), *preference(encoder, recall)
        if encoder.model not in best or rank > best[encoder.model][0]:
            best[encoder.model] = rank, encoder
    return {model: encoder for model, (_, encoder) in best.items()}


def by_recall(encoders: Mapping[str, Encoder], recalls: Mapping[str, float]) -> list[str]:
    """The models, the best one first, by `preference`; equals keep their order."""
    return sorted(
        encoders, key=lambda name: preference(encoders[name], recalls[name]), reverse=True
    )


@dataclass(slots=True)
class EncoderChoice:
    """The encoders that can answer one request, and its booking in the collection's average."""

    encoders: Mapping[str, Encoder]  # by model
    # share of the best search that each keeps on these texts; empty if there is no choice
    recalls: Mapping[str, float] = field(default_factory=dict)
    nothing_read: frozenset[str] = frozenset()  # models that cannot read anything of some text
    queries: int = 0
    running: RunningRecall | None = None  # None: the caller left no choice
    permitted: frozenset[str] | None = None  # models allowed for the key; None: all
    # models that keep less than the collection's min_recall_each in the language of some text
    below_each: frozenset[str] = frozenset()
    # models that do not read the request's instruction, which their space's own model reads, or
    # whose proof was measured with another one
    other_instruction: frozenset[str] = frozenset()
    too_long: frozenset[str] = frozenset()  # models that the texts are too long for
    # the same weights elsewhere that would cut a text at another place than their space's own model
    other_cut: frozenset[str] = frozenset()
    _model: str | None = None
    _booking: Booking | None = None

    @property
    def able(self) -> frozenset[str]:
        """The encoders that the key permits."""
        names = frozenset(self.encoders)
        return names if self.permitted is None else names & self.permitted

    @property
    def fit(self) -> frozenset[str]:
        """Encoders that are able, read the instruction and all texts, or some of each if native."""
        blind = {name for name in self.nothing_read if not self.encoders[name].native}
        return self.able - self.other_instruction - self.too_long - self.other_cut - blind

    @property
    def dropped(self) -> frozenset[str]:
        """The models that keep too little in the language of some text.

        If no other model is permitted, native ones are used; if none of these is, the key left no
        choice.
        """
        if not self.below_each or self.fit - self.below_each:
            return self.below_each
        natives = frozenset(name for name in self.able if self.encoders[name].native)
        return self.below_each - natives if natives else frozenset()

    def unfit(self) -> dict[str, Why]:
        """The models that must not make the vectors now, and why.

        A model that cannot read anything of a text is used only if it is native and no other model
        is possible.
        """
        if not self.recalls:
            return {}
        dropped = self.dropped
        readable = self.fit - self.nothing_read - dropped
        low = self.running is not None and self.running.low
        floor = self.running.floor if low and self.running is not None else 0.0
        whys = {name: Why.BELOW_FLOOR for name, recall in self.recalls.items() if recall < floor}
        whys |= dict.fromkeys(dropped, Why.BELOW_EACH)
        for name in self.other_instruction:
            same = self.encoders[name].kind == "same"
            whys[name] = Why.OTHER_PROOF if same else Why.OTHER_INSTRUCTION
        whys |= dict.fromkeys(self.other_cut, Why.OTHER_CUT)
        for name in self.nothing_read:
            if readable or not self.encoders[name].native:
                whys[name] = Why.UNREAD
        return whys

    def decided(self, model: str) -> None:
        """Book the request for this model; an earlier booking for another one is taken back."""
        if self.running is None or model == self._model:
            return
        self._take_back()
        self._model = model
        self._booking = self.running.decided(self.recalls[model], self.queries)

    def ended(self, answered: bool) -> None:
        """Finish the request: count its recall if it was answered, else take the booking back."""
        if self.running is None or self._model is None:
            return
        if not answered:
            self._take_back()
        elif self._booking is None:
            self.running.answered(self.recalls[self._model], self.queries)
        else:
            self.running.keep(self._booking)
            self._booking = None

    def project(self, vectors: Vectors, model: str) -> tuple[Vectors, Space]:
        """Bring (n, own size) vectors of `model` into its space; returns them and the space.

        Every answer passes through here. Raises KeyError if the model is no encoder of the
        requested spaces.
        """
        encoder = self.encoders[model]
        return encoder.project(vectors), encoder.space

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
    """The models as `decide` receives them for one request of a collection.

    Encoders are ranked by recall; the quality of each is that of the best one times its recall.
    """
    order = by_recall(encoders, recalls)
    own = models[order[0]]
    points = own.quality_of(features, work.get(own.id, NO_WORK))
    ranked = dict(models)
    for rank, name in enumerate(reversed(order), len(models)):
        quality = {} if points is None else {"default": points * recalls[name]}
        ranked[name] = replace(models[name], rank=rank, quality=quality, long=None)
    return ranked
