"""Sources of vectors for tools.

A source is one of three: engines of a config that are started here, a running router, or any other
server of `/v1/embeddings`.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from deployments.launch.serve_config import application
from deployments.replica.offline import Offline
from deployments.tools.align import AlignError
from deployments.tools.client import RequestRefused, ServiceClient
from deployments.tools.migrate import check_weights
from router.arrays import Vectors
from router.config import RouterArgs
from router.fingerprint import digest_of, load
from router.model_config import FingerprintConfig
from router.schema import Side
from router.space import Space
from router.spaces import Catalogue

TEXTS_A_REQUEST = 64
MIN_COSINE: float = FingerprintConfig.model_fields["min_cosine"].default

Cut = Literal["end", "start"]  # where texts that are too long are cut


async def parse_space(origin: "Origin", text: str) -> Space:
    """Resolve MODEL or MODEL/DIMENSIONS to a space.

    Raises AlignError or RequestRefused if there is no such model or size.
    """
    try:
        space = Space.parse(text)
    except ValueError:
        return Space(text, origin.dimensions(text))
    if origin.dimensions(space.model) != space.dimensions:
        await origin.check(space)
    return space


class Configured:
    """The models of a config; each engine is started here when it is first needed."""

    sends_prompts = True

    def __init__(
        self, args: RouterArgs, bar: "tqdm[None]", proves: bool = True, truncate: Cut = "end"
    ) -> None:
        """`proves`: a model that has a fingerprint must reproduce it."""
        self._args, self._bar, self._stack, self._proves = args, bar, AsyncExitStack(), proves
        self._truncate = truncate
        self._running: dict[str, Offline] = {}

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def dimensions(self, model: str) -> int:
        """Return the size of the model's own vectors. Raises AlignError for an unknown model."""
        if model not in self._args.models:
            raise AlignError(
                f"there is no model {model!r}; there are {', '.join(self._args.models)}"
            )
        return self._args.models[model].dimensions

    async def check(self, space: Space) -> None:
        """Raise AlignError if the model has no vectors of this size."""
        if not self._args.models[space.model].serves(space.dimensions):
            sizes = Catalogue(self._args).sizes(space.model)
            raise AlignError(
                f"{space.model} has no vectors of {space.dimensions} dimensions; it has {sizes}"
            )

    def fingerprint(self, model: str) -> str:
        """Return the digest of the model's fingerprint. Raises AlignError if it has none."""
        config = self._args.models[model]
        if config.fingerprint is None:
            raise _unknown(model)
        return digest_of(config.fingerprint, model, self._args.base_dir, config.revision)

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Return vectors of the model's own size."""
        if model not in self._running:
            offline = Offline(self._args, model, self._proves)
            self._running[model] = await self._stack.enter_async_context(offline)
        _expect(self._bar, model, len(texts))
        return await self._running[model].embed(
            texts, side, done=self._bar.update, truncate=self._truncate
        )


class Served:
    """The models of a running router."""

    sends_prompts = True

    def __init__(self, client: ServiceClient, bar: "tqdm[None]", truncate: Cut = "end") -> None:
        self._client, self._bar, self._truncate = client, bar, truncate
        self._rows: dict[str, dict[str, Any]] = {}

    async def __aenter__(self) -> None:
        self._rows = {row["model"]: row for row in (await self._client.tiers())["data"]}

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    def dimensions(self, model: str) -> int:
        """Return the size of the model's own vectors. Raises AlignError for an unknown model."""
        if model not in self._rows:
            raise AlignError(f"there is no model {model!r}; there are {', '.join(self._rows)}")
        return int(self._rows[model]["dimensions"])

    async def check(self, space: Space) -> None:
        """Raise RequestRefused if the model has no vectors of this size."""
        await self._client.embed(["ready?"], space=str(space))

    def fingerprint(self, model: str) -> str:
        """Return the digest of the model's fingerprint. Raises AlignError if it has none."""
        if (digest := self._rows[model]["fingerprint"]) is None:
            raise _unknown(model)
        return str(digest)

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Return vectors of the model's own size. Raises MigrationError if the router has other
        weights than at the start, as after a restart.
        """
        _expect(self._bar, model, len(texts))
        made = []
        for start in range(0, len(texts), TEXTS_A_REQUEST):
            some = texts[start : start + TEXTS_A_REQUEST]
            answer = await self._client.embed(
                some, model=model, input_type=side, truncate=self._truncate
            )
            made.append(answer.vectors)
            self._bar.update(len(some))
        await check_weights(self._client, {model: self._rows[model]["fingerprint"]})
        return np.concatenate(made)


class Hosted:
    """One model of any server of `/v1/embeddings`, which need not be a router.

    Texts are sent as they are, without a prompt and however long.
    """

    sends_prompts = False

    def __init__(
        self, client: ServiceClient, model: str, fingerprint_file: Path | None, bar: "tqdm[None]"
    ) -> None:
        self._client, self._model, self._bar = client, model, bar
        self._file, self._size = fingerprint_file, 0

    async def __aenter__(self) -> None:
        probe = await self._client.embed_plain(["How many dimensions?"], self._model)
        self._size = probe.shape[1]
        if self._file is not None:
            await self._prove(self._file)

    async def _prove(self, file: Path) -> None:
        """Raise AlignError unless the texts of a fingerprint get the vectors of the fingerprint."""
        stored = load(file)
        texts = [probe.text for probe in stored.probes]
        made = await self._client.embed_plain(texts, self._model)
        if (wrong := stored.mismatch(made, MIN_COSINE)) is not None:
            raise AlignError(
                f"{self._model}: its vectors are not those of {file} ({wrong}); if the model has "
                "prompts, distill through a router"
            )

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    def dimensions(self, model: str) -> int:
        """Return the size of the model's own vectors."""
        return self._size

    async def check(self, space: Space) -> None:
        """Raise AlignError if the vectors are too small to be cut to this size."""
        if space.dimensions > self._size:
            raise AlignError(
                f"{space.model} makes {self._size} dimensions, fewer than {space.dimensions}"
            )

    def fingerprint(self, model: str) -> str:
        """Return the digest of the given fingerprint file. Raises AlignError if none was given."""
        if self._file is None:
            raise AlignError(
                f"this server does not say what {model} is; make a fingerprint of it with "
                "`embedding-router fingerprint` and give it as --fingerprint"
            )
        return load(self._file).digest

    async def embed(self, model: str, texts: Sequence[str], side: Side) -> Vectors:
        """Return vectors of the model's own size; `side` is ignored, as the server has no sides."""
        _expect(self._bar, model, len(texts))
        made = []
        for start in range(0, len(texts), TEXTS_A_REQUEST):
            some = texts[start : start + TEXTS_A_REQUEST]
            rows = await self._client.embed_plain(some, model)
            made.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
            self._bar.update(len(some))
        return np.concatenate(made)


Origin = Configured | Served | Hosted


async def origin_of(
    path: Path | None,
    base_url: str | None,
    api_key: str | None,
    target: str,
    bar: "tqdm[None]",
    fingerprint_file: Path | None = None,
    proves: bool = True,
    truncate: Cut = "end",
    fresh: bool = False,
) -> Origin:
    """Return the source of vectors of `target`: engines started here, or a server.

    `proves`: an engine must reproduce its fingerprint. `truncate` holds for engines and routers.
    `fresh`: no vector may come from a server's cache.
    """
    if path is not None:
        return Configured(application(path)[0], bar, proves, truncate)
    client = ServiceClient(base_url or "", api_key, fresh=fresh)
    return await served_by(client, target, fingerprint_file, bar, truncate)


async def served_by(
    client: ServiceClient,
    target: str,
    fingerprint_file: Path | None,
    bar: "tqdm[None]",
    truncate: Cut = "end",
) -> Origin:
    """Return a router if the server is one, otherwise a plain server of embeddings."""
    try:
        await client.tiers()
    except RequestRefused:
        model = target.rpartition("/")[0] if target.rpartition("/")[2].isdecimal() else target
        return Hosted(client, model, fingerprint_file, bar)
    return Served(client, bar, truncate)


def _unknown(model: str) -> AlignError:
    return AlignError(
        f"{model} has no `fingerprint`, so a router cannot check later whether the adapter is "
        "for its weights; "
        "make one with `embedding-router fingerprint`"
    )


def _expect(bar: "tqdm[None]", model: str, texts: int) -> None:
    bar.set_description(model)
    bar.total = max(bar.total, bar.n + texts)
