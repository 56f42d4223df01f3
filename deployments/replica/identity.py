"""A replica serves only after it has reproduced its model's fingerprint (router/fingerprint.py).

The router's half of the check runs once at its start. A replica's half runs before it is ready and
every `every_s` while it serves. After the engine failed as a whole, it also runs before the next
text is embedded, because a remote server can come back with other weights. While the replica
serves, the proof waits in the engine's queue like any text, so it does not count towards the time
limit of a health check.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np

from deployments.engines.base import Batch, Engine, EngineDead, EngineError
from deployments.replica.first_vectors import FirstVectors
from deployments.service.fingerprints import probes_of, probes_of_card
from deployments.service.prepare import Preparer
from router.arrays import Vectors
from router.config import RouterArgs
from router.fingerprint import CardProof, Fingerprint, Probe, digest_of_probes, load_of
from router.model_config import FingerprintConfig, ModelConfig
from router.schema import Side

log = logging.getLogger("ray.serve")


class WrongModel(EngineDead):
    """The engine's vectors are not those of the model that it should serve."""


class Identity:
    """The proof that one replica must give, and the time of its last proof."""

    def __init__(
        self,
        engine: Engine,
        fingerprint: Fingerprint,
        config: FingerprintConfig,
        clock: Callable[[], float],
    ) -> None:
        self._engine, self._fingerprint, self._config, self._clock = (
            engine,
            fingerprint,
            config,
            clock,
        )
        self._proved_s = clock()
        self._running: asyncio.Task[None] | None = None
        self.passed = self.failed = self.put_off = 0  # proofs
        # the engine failed since its last proof: texts must wait for a new one
        self.doubted = False
        self._doubts = 0
        self._proof: asyncio.Task[None] | None = None  # that texts wait for

    def doubt(self) -> None:
        """Record that the engine failed: earlier proofs, and one in progress, no longer count."""
        self.doubted, self._doubts = True, self._doubts + 1

    async def certain(self) -> None:
        """Return once nothing is doubted.

        All callers wait for the same proof. Raises as `prove` does.
        """
        while self.doubted:
            if self._proof is None or self._proof.done():
                self._proof = asyncio.create_task(self.prove())
                self._proof.add_done_callback(_seen)
            await asyncio.shield(self._proof)  # one caller must not cancel it for all

    async def prove(self) -> None:
        """Embed the probes and compare the vectors with the stored ones.

        Raises WrongModel when a vector differs, EngineError when there is none.
        """
        try:
            await self._prove()
        except WrongModel:
            self.failed += 1
            raise
        except EngineError:
            self.put_off += 1
            raise
        self.passed += 1

    async def _prove(self) -> None:
        doubts = self._doubts
        vectors = await embedded(self._engine, self._fingerprint.model, self._fingerprint.probes)
        if (wrong := self._fingerprint.mismatch(vectors, self._config.min_cosine)) is not None:
            raise WrongModel(f"{wrong} ({self._config.file})")
        self._proved_s, self.doubted = self._clock(), self._doubts != doubts

    def prove_in_time(self, failed: Callable[[WrongModel], None]) -> None:
        """Start a proof if one is due; a WrongModel is passed to `failed`."""
        if self._running is None and self._clock() - self._proved_s >= self._config.every_s:
            self._running = asyncio.create_task(self._prove_later(failed))

    async def _prove_later(self, failed: Callable[[WrongModel], None]) -> None:
        try:
            await self.prove()
        except WrongModel as error:
            log.error("%s; this replica answers no more", error)
            failed(error)
        except EngineError as error:
            log.warning("the proof is put off: %s", error)
        finally:
            self._running = None

    async def settled(self) -> None:
        """Wait for the proof that `prove_in_time` started, if it still runs."""
        if self._running is not None:
            await self._running

    def stop(self) -> None:
        """Cancel the running proofs."""
        for proof in (self._running, self._proof):
            if proof is not None:
                proof.cancel()


class CardIdentity(Identity):
    """A proof by the model's card, then by the vectors that the model's first replica made.

    The card's figures are rounded and come from another machine; vectors of equal weights differ by
    far less.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        model: ModelConfig,
        base_dir: str | None,
        first: FirstVectors,
        clock: Callable[[], float],
    ) -> None:
        config = model.fingerprint
        assert config is not None
        assert config.card is not None
        preparer = Preparer(RouterArgs.model_construct(models={name: model}, base_dir=base_dir))
        self._card, self._first = CardProof(name, config.card), first
        self._probes = [
            *probes_of_card(preparer, name, config.card),
            *probes_of(preparer, name, model.max_tokens),
        ]
        # no other settings, and not the node: replicas that differ in these must match too
        reads = [model.dimensions, model.engine.hub_source, model.revision]
        self._key = f"{name}/{digest_of_probes(self._probes, reads)}"
        nothing = np.zeros((len(self._probes), model.dimensions), np.float32)
        super().__init__(engine, Fingerprint(name, self._probes, nothing), config, clock)

    async def _prove(self) -> None:
        doubts, card = self._doubts, self._card
        if (wrong := card.otherwise_pooled(getattr(self._engine, "pooling", None))) is not None:
            raise WrongModel(wrong)
        made = await embedded(self._engine, card.model, self._probes)
        queries, documents = len(card.card.queries), len(card.card.documents)
        wrong = card.mismatch(made[:queries], made[queries : queries + documents])
        if wrong is not None:
            raise WrongModel(wrong)
        try:
            kept = await asyncio.to_thread(
                self._first.keep, self._key, made.astype("<f2").tobytes()
            )
        except Exception as error:  # Ray's store is away; its message is of no use to a caller
            raise EngineError(
                f"the first replica's vectors cannot be read: {type(error).__name__}"
            ) from error
        vectors = np.frombuffer(kept, "<f2").astype(np.float32).reshape(made.shape)
        first = Fingerprint(card.model, self._probes, vectors)
        if (wrong := first.mismatch(made, self._config.min_cosine)) is not None:
            raise WrongModel(
                f"{wrong} (the vectors of this model's first replica in this cluster; other "
                "weights or another precision need a model id of their own)"
            )
        self._proved_s, self.doubted = self._clock(), self._doubts != doubts


async def embedded(engine: Engine, model: str, probes: Sequence[Probe]) -> Vectors:
    """Return the vectors of probes in order. Raises EngineError naming a probe that has none."""
    vectors = np.zeros((len(probes), engine.dimensions), np.float32)
    for side in ("query", "document"):
        rows = [row for row, probe in enumerate(probes) if probe.side == side]
        if not rows:
            continue
        made = await engine.embed(_batch([probes[row] for row in rows], side))
        for row, error in made.failed.items():
            raise EngineError(f"{model}: it cannot embed {probes[rows[row]].text!r}: {error}")
        vectors[rows] = made.vectors
    return vectors


def _seen(proof: "asyncio.Task[None]") -> None:
    """Read the error of a proof, in case no caller waits for it any longer."""
    if not proof.cancelled():
        proof.exception()


def identity_of(
    engine: Engine,
    config: FingerprintConfig | None,
    base_dir: str | None,
    clock: Callable[[], float] = time.monotonic,
) -> Identity | None:
    """Return what `engine` must prove by a file; None if its config names none.

    Raises FileNotFoundError or ValueError for an unusable file.
    """
    if config is None or config.file is None:
        return None
    return Identity(engine, load_of(config, base_dir), config, clock)


def proof_of(
    engine: Engine,
    name: str,
    model: ModelConfig,
    base_dir: str | None,
    first: FirstVectors,
    clock: Callable[[], float] = time.monotonic,
) -> Identity | None:
    """Return what `engine` must prove, by a file or by a card, to serve as the model `name`.

    None if the config has no fingerprint. Raises as `identity_of` and the tokenizer do.
    """
    if model.fingerprint is not None and model.fingerprint.card is not None:
        return CardIdentity(engine, name, model, base_dir, first, clock)
    return identity_of(engine, model.fingerprint, base_dir, clock)


def _batch(probes: list[Probe], side: Side) -> Batch:
    ids = [probe.ids for probe in probes if probe.ids is not None]
    return Batch(
        ids=ids or None,
        texts=None if ids else [probe.prompted or "" for probe in probes],
        input_type=side,
    )
