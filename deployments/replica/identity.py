"""Nobody answers in a model's name who has not proved to be it: the fingerprint's two halves at
work (router/fingerprint.py).

The router's half runs once at its start. A replica's half runs before it is ready, again every
`every_s` while it serves, and, where the engine failed as a whole, before the next text is
embedded: a remote server may come back as something else. While it serves the proof waits its turn
in the engine's queue like any text, so it is no part of a health check's time limit.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from deployments.engines.base import Batch, Engine, EngineDead, EngineError
from router.fingerprint import Fingerprint, Probe, load
from router.model_config import FingerprintConfig, resolve_path
from router.schema import Side

log = logging.getLogger("ray.serve")


class WrongModel(EngineDead):
    """The engine does not make the vectors of the model in whose name it would answer."""


class Identity:
    """What one replica must prove, and when it last did."""

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
        # the engine failed since: no text may pass before it has proved itself again
        self.doubted = False
        self._doubts = 0
        self._proof: asyncio.Task[None] | None = None  # that texts wait for

    def doubt(self) -> None:
        """The engine failed: what it was before proves nothing any more, nor does a proof that was
        under way.
        """
        self.doubted, self._doubts = True, self._doubts + 1

    async def certain(self) -> None:
        """Return once nothing is doubted; raises as `prove` does. All who wait wait for the same
        proof.
        """
        while self.doubted:
            if self._proof is None or self._proof.done():
                self._proof = asyncio.create_task(self.prove())
                self._proof.add_done_callback(_seen)
            await asyncio.shield(self._proof)  # it is not one caller's to cancel

    async def prove(self) -> None:
        """Embed the probes; raises WrongModel when a vector is not the stored one's, EngineError
        when there is none.
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
        probes, doubts = self._fingerprint.probes, self._doubts
        vectors = self._fingerprint.vectors.copy()
        for side in ("query", "document"):
            rows = [row for row, probe in enumerate(probes) if probe.side == side]
            if not rows:
                continue
            made = await self._engine.embed(_batch([probes[row] for row in rows], side))
            for row, error in made.failed.items():
                raise EngineError(
                    f"{self._fingerprint.model}: it cannot embed {probes[rows[row]].text!r}: "
                    f"{error}"
                )
            vectors[rows] = made.vectors
        if (wrong := self._fingerprint.mismatch(vectors, self._config.min_cosine)) is not None:
            raise WrongModel(f"{wrong} ({self._config.file})")
        self._proved_s, self.doubted = self._clock(), self._doubts != doubts

    def prove_in_time(self, failed: Callable[[WrongModel], None]) -> None:
        """Start a proof where one is due; `failed` is told of a WrongModel."""
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

    def stop(self) -> None:
        """Give up the proofs that run."""
        for proof in (self._running, self._proof):
            if proof is not None:
                proof.cancel()


def _seen(proof: "asyncio.Task[None]") -> None:
    """Read the error that nobody waited for any longer."""
    if not proof.cancelled():
        proof.exception()


def identity_of(
    engine: Engine,
    config: FingerprintConfig | None,
    base_dir: str | None,
    clock: Callable[[], float] = time.monotonic,
) -> Identity | None:
    """What `engine` must prove, where its config says so; raises FileNotFoundError or ValueError
    for an unusable file.
    """
    return (
        None
        if config is None
        else Identity(engine, load(resolve_path(config.file, base_dir)), config, clock)
    )


def _batch(probes: list[Probe], side: Side) -> Batch:
    ids = [probe.ids for probe in probes if probe.ids is not None]
    return Batch(
        ids=ids or None,
        texts=None if ids else [probe.prompted or "" for probe in probes],
        input_type=side,
    )
