"""Where tools take vectors from: engines of a config started here, or a running router."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import numpy as np
from tqdm import tqdm

from deployments.engines.base import Vectors
from deployments.replica.offline import Offline
from deployments.tools.align import AlignError
from deployments.tools.client import Client
from router.config import RouterArgs, resolve_path
from router.fingerprint import load
from router.schema import Side
from router.spaces import Catalogue, Space

TEXTS_A_REQUEST = 64


async def parse_space(origin: "Configured | Served", text: str) -> Space:
    """The space that MODEL or MODEL/DIMENSIONS means; raises AlignError or RequestRefused where
    there is no such model or size.
    """
    try:
        space = Space.parse(text)
    except ValueError:
        return Space(text, origin.dimensions(text))
    if origin.dimensions(space.model) != space.dimensions:
        await origin.check(space)
    return space


class Configured:
    """The models of a config, their engines started here as they are needed."""

    def __init__(self, args: RouterArgs, bar: "tqdm[None]") -> None:
        self._args, self._bar, self._stack = args, bar, AsyncExitStack()
        self._running: dict[str, Offline] = {}

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def dimensions(self, model: str) -> int:
        """Of the model's own vectors; raises AlignError for an unknown one."""
        if model not in self._args.models:
            raise AlignError(
                f"there is no model {model!r}; there are {', '.join(self._args.models)}"
            )
        return self._args.models[model].dimensions

    async def check(self, space: Space) -> None:
        """Raise AlignError where the model has no vectors of this size."""
        if not self._args.models[space.model].serves(space.dimensions):
            sizes = Catalogue(self._args).sizes(space.model)
            raise AlignError(
                f"{space.model} has no vectors of {space.dimensions} dimensions; it has {sizes}"
            )

    def fingerprint(self, model: str) -> str:
        """Digest of what the model proves to be; raises AlignError where it has none."""
        if (config := self._args.models[model].fingerprint) is None:
            raise _unknown(model)
        return load(resolve_path(config.file, self._args.base_dir)).digest

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Vectors of the model's own size."""
        if model not in self._running:
            self._running[model] = await self._stack.enter_async_context(Offline(self._args, model))
        _expect(self._bar, model, len(texts))
        return await self._running[model].embed(texts, side, done=self._bar.update)


class Served:
    """The models of a running router."""

    def __init__(self, client: Client, bar: "tqdm[None]") -> None:
        self._client, self._bar = client, bar
        self._rows: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> None:
        self._rows = {row["model"]: row for row in (await self._client.tiers())["data"]}

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    def dimensions(self, model: str) -> int:
        """Of the model's own vectors; raises AlignError for an unknown one."""
        if model not in self._rows:
            raise AlignError(f"there is no model {model!r}; there are {', '.join(self._rows)}")
        return int(self._rows[model]["dimensions"])

    async def check(self, space: Space) -> None:
        """Raise RequestRefused where the model has no vectors of this size."""
        await self._client.embed(["ready?"], space=str(space))

    def fingerprint(self, model: str) -> str:
        """Digest of what the model proves to be; raises AlignError where it has none."""
        if (digest := self._rows[model]["fingerprint"]) is None:
            raise _unknown(model)
        return str(digest)

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Vectors of the model's own size."""
        _expect(self._bar, model, len(texts))
        made = []
        for start in range(0, len(texts), TEXTS_A_REQUEST):
            some = texts[start : start + TEXTS_A_REQUEST]
            made.append(
                (
                    await self._client.embed(some, model=model, input_type=side, truncate="end")
                ).vectors
            )
            self._bar.update(len(some))
        return np.concatenate(made)


def _unknown(model: str) -> AlignError:
    return AlignError(
        f"{model} has no `fingerprint`, so nobody could tell later whether the adapter is for "
        "its weights; "
        "make one with `embedding-router fingerprint`"
    )


def _expect(bar: "tqdm[None]", model: str, texts: int) -> None:
    bar.set_description(model)
    bar.total = max(bar.total, bar.n + texts)
