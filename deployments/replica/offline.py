"""One model's engine in this process, for tools that need vectors without a service.

Its input is prepared exactly as in the router.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal

import numpy as np

from deployments import engines
from deployments.engines.base import Batch, EngineError
from deployments.replica import cpu
from deployments.replica.first_vectors import OfThisProcess
from deployments.replica.identity import proof_of
from deployments.service.prepare import Preparer
from router.arrays import Vectors
from router.config import RouterArgs
from router.schema import Side

TEXTS_A_BATCH = 64


class Offline:
    """Async context manager around a running engine.

    A model that has a fingerprint must reproduce it first, as in a replica.
    """

    def __init__(self, args: RouterArgs, model: str, proves: bool = True) -> None:
        self.model, self.config, self._proves = model, args.models[model], proves
        self._args = args.model_copy(update={"models": {model: self.config}})
        self.preparer = Preparer(self._args)
        if self.config.environment == "cpu-vllm":
            cpu.prepare()
        self.engine = engines.create(self.config, args.base_dir)

    async def __aenter__(self) -> "Offline":
        identity = (
            proof_of(self.engine, self.model, self.config, self._args.base_dir, OfThisProcess())
            if self._proves
            else None
        )
        await self.engine.start()
        if identity is not None:
            await identity.prove()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.engine.stop()

    async def embed(
        self,
        texts: Sequence[str],
        side: Side,
        instruction: str | None = None,
        done: Callable[[int], object] = lambda texts: None,
        truncate: Literal["end", "start"] = "end",
    ) -> Vectors:
        """Return (texts, own size) vectors in order; texts that are too long are cut.

        `done` is called with the number of texts of each batch. Raises EngineError naming the text
        that cannot be embedded.
        """
        vectors = np.empty((len(texts), self.engine.dimensions), np.float32)
        # Texts of similar length share a batch. Otherwise engines that pad would spend most of
        # their time on padding.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), TEXTS_A_BATCH):
            places = order[start : start + TEXTS_A_BATCH]
            some = [texts[place] for place in places]
            prepared = self.preparer.prepare(some, side, instruction, [self.model])[self.model]
            prepared, _ = self.preparer.cut(prepared, some, self.model, truncate, instruction)
            made = await self.engine.embed(
                Batch(ids=prepared.ids, texts=prepared.texts, input_type=prepared.side)
            )
            for row, error in made.failed.items():
                raise EngineError(f"{self.model} cannot embed {some[row][:80]!r}: {error}")
            vectors[places] = made.vectors
            done(len(places))
        return vectors
