"""The service as a model of `mteb`.

Its tasks measure what callers get, prompts and truncation included.

    import mteb
    from deployments.mteb_encoder import ServiceEncoder

    encoder = ServiceEncoder("multilingual-e5-small", base_url="http://localhost:8000")
    mteb.evaluate(encoder, mteb.get_tasks(["STS22.v2"]))

The class follows mteb's EncoderProtocol (2.x: batches of a data loader, `prompt_type` "query" or
"document"). Plain lists of texts and the older "passage" are accepted too. Only `mteb_model_meta`,
which mteb reads, imports mteb.
"""

import asyncio
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from deployments.tools.client import EmbeddingAnswer, ServiceClient
from router.arrays import Vectors

BASE_URL = "http://127.0.0.1:8000"
# Without a prompt type, both sides of a task get the same prompt: the model's default.
INPUT_TYPES = {"query": "query", "document": "document", "passage": "document", None: "clustering"}


class ServiceEncoder:
    """One model, or one size of its vectors, behind a running router.

    Requests are bulk requests, so that other callers go first.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        base_url: str = BASE_URL,
        api_key: str | None = None,
        dimensions: int | None = None,
        batch: int = 32,
        in_flight: int = 4,
        transport: Any = None,
        **_: Any,
    ) -> None:
        self.model_name, self.revision = model_name, revision
        self._base_url, self._api_key, self._transport = base_url, api_key, transport
        self._options: dict[str, Any] = {"model": model_name, "truncate": "end"}
        if dimensions is not None:
            self._options["dimensions"] = dimensions
        self._batch, self._in_flight = batch, in_flight
        self.space: str | None = None  # of the vectors so far
        self._meta: Any = None

    def encode(self, inputs: Iterable[Any], *, prompt_type: Any = None, **_: Any) -> Vectors:
        """Return (texts, dimensions) vectors of length 1, in order.

        `inputs` is mteb's data loader, whose batches have their texts under "text", or texts. All
        else that mteb passes about the task is ignored: the service has the prompts. Raises
        RequestRefused, RouterAway, and ValueError for other input than text.
        """
        side = getattr(prompt_type, "value", prompt_type)
        if side not in INPUT_TYPES:
            raise ValueError(f"prompt_type is {side!r}; it is one of query, document, passage")
        texts = list(_texts(inputs))
        if not texts:
            raise ValueError("there are no texts to encode")
        encoding = self._encode(texts, INPUT_TYPES[side])
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(encoding)
        with ThreadPoolExecutor(1) as beside:  # a notebook's loop already runs; it waits here
            return beside.submit(asyncio.run, encoding).result()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> npt.NDArray[np.float32]:
        """Return the cosine of each vector of the first with each of the second."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> npt.NDArray[np.float32]:
        """Return the cosines of vectors at the same position."""
        return np.asarray(np.einsum("ij,ij->i", _unit(embeddings1), _unit(embeddings2)), np.float32)

    @property
    def mteb_model_meta(self) -> Any:
        """The metadata under which mteb files the results; unknown fields are None."""
        if self._meta is None:
            from mteb.models.model_meta import ModelMeta  # type: ignore[import-not-found,unused-ignore]

            unknown = {
                name: None for name, field in ModelMeta.model_fields.items() if field.is_required()
            }
            self._meta = ModelMeta(
                **unknown
                | {
                    "name": f"embedding-router/{self.model_name}",
                    "revision": self.revision or "served",
                    "framework": [],
                    "similarity_fn_name": "cosine",
                    "embed_dim": self._options.get("dimensions"),
                }
            )
        return self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: Any) -> None:
        self._meta = meta

    async def _encode(self, texts: list[str], input_type: str) -> Vectors:
        gate = asyncio.Semaphore(self._in_flight)
        async with ServiceClient(
            self._base_url, self._api_key, self._transport, has_answered=self.space is not None
        ) as client:

            async def one(some: list[str]) -> EmbeddingAnswer:
                async with gate:
                    return await client.embed(some, input_type=input_type, **self._options)

            cuts = range(0, len(texts), self._batch)
            answers = await asyncio.gather(
                *(one(texts[start : start + self._batch]) for start in cuts)
            )
        if (
            len(
                spaces := {answer.space for answer in answers}
                | ({self.space} if self.space else set())
            )
            > 1
        ):
            raise ValueError(
                f"the service answered in {', '.join(sorted(spaces))}; name a model, not a tier "
                "that may change"
            )
        self.space = answers[0].space
        return np.concatenate([answer.vectors for answer in answers])


def _texts(inputs: Iterable[Any]) -> Iterable[str]:
    for item in inputs:
        found = item["text"] if isinstance(item, Mapping) else item
        for text in [found] if isinstance(found, str) else found:
            if not isinstance(text, str):
                raise ValueError(f"the service embeds text, not {type(text).__name__}")
            yield text or " "  # the service refuses an empty text, and some data sets have one


def _unit(vectors: Any) -> npt.NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(vectors, np.float32))
    return np.asarray(
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32
    )
