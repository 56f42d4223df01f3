"""One config under fire: its replicas are lost, its collections change, and every answer is held to
the config alone.
"""

import asyncio
import base64
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deployments import engines
from deployments.dispatch.transport import ReplicaLost
from deployments.dispatch.wire import Call, Reply
from deployments.engines.base import Batch
from deployments.ingress.application import Application
from deployments.service.service import Service
from router import adapters, fingerprint, student
from router.encoder_check import load_encoders
from router.model_config import resolve_path
from router.spaces import Catalogue
from router.strict import ConfigError, changed, parse_args
from router.tokenizer import load
from tests.support.bridges import with_fingerprints, write_adapter, write_measured, write_student
from tests.support.local_service import LocalRouter, LocalTransport

NO_ANSWER = {400, 404, 409, 429, 503, 504}
COPY, STUDENT = "copy", "student"  # of one of the models each, where a config has them


class FlakyTransport(LocalTransport):
    """A replica that was killed answers nothing, not even what it had taken; a model at zero comes
    when it is called.
    """

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.lost: set[str] = set()
        self.service: Service | None = None
        self._counts = counts

    async def send(self, model: str, call: Call, replica: str) -> Reply:
        if model in self.lost:
            raise ReplicaLost(f"{model} is gone")
        reply = await super().send(model, call, replica)
        if model in self.lost:
            self._counts["calls killed on the way"] += 1
            raise ReplicaLost(f"{model} died on the way")
        return reply

    async def wake(self, model: str) -> None:
        await asyncio.sleep(0.01)
        assert self.service is not None
        self.lost.discard(model)
        self.service.replicas_changed(model, [model])
        self._counts["models woken"] += 1


@dataclass
class Attack:
    """One config under fire."""

    args: dict[str, Any]
    rng: random.Random
    counts: Counter[str]
    # all that held, the present ones last
    collections: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, waves: list[list[dict[str, Any]]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.args = self._with_encoders(
                await with_fingerprints(self.args, Path(folder)), Path(folder)
            )
            self.collections = [self._collections(Path(folder))]
            router = LocalRouter(parse_args({**self.args, "collections": self.collections[0]}))
            router.transport = transport = FlakyTransport(self.counts)
            transport.service = router.service
            for dispatcher in router.service.dispatchers.values():
                dispatcher.transport = router.transport
            await router.start()
            asgi = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=asgi, base_url="http://localhost") as client:
                for wave in waves:
                    asked = [asyncio.create_task(self._ask(client, body)) for body in wave]
                    # some before they are sent, some on their way
                    await asyncio.sleep(self.rng.choice((0.0, 0.003, 0.006)))
                    await self._strike(router, Path(folder))
                    await asyncio.gather(*asked)
            await router.stop()

    def _with_encoders(self, args: dict[str, Any], folder: Path) -> dict[str, Any]:
        """The args with a student of one model and the weights of one in another place."""
        models, more = args["models"], dict[str, Any]()
        teacher, copied = (self.rng.choice(list(models)) for _ in range(2))
        space, own = f"{teacher}/{models[teacher]['dimensions']}", models[copied]["dimensions"]
        if self.rng.random() < 0.6:
            weights = write_student(args, folder, space, self.rng.choice((0.8, 0.97)))
            engine = {"kind": "student", "weights": weights}
            more[STUDENT] = {"engine": engine, "space_of": space}
        if self.rng.random() < 0.6:
            more[COPY] = {**models[copied], "space_of": f"{copied}/{own}"}
        return {**args, "models": {**models, **more}}

    def _collections(self, folder: Path) -> dict[str, Any]:
        """Two names for one or two random spaces; each may be served by other encoders."""
        made = {}
        natives = [name for name, one in self.args["models"].items() if "space_of" not in one]
        for name in ("first", "second"):
            owners = self.rng.sample(natives, self.rng.choice((1, 1, 2)))
            spaces = [f"{own}/{self.args['models'][own]['dimensions']}" for own in owners]
            measured = (
                {"proof": write_measured(self.args, folder, spaces[1], {spaces[0]: 0.9})}
                if len(spaces) > 1 and self.rng.random() < 0.7
                else {}
            )
            pairs = [
                (source, space)
                for source in natives
                for own, space in zip(owners, spaces, strict=True)
                if source != own and self.rng.random() < 0.5
            ]
            others = [
                other
                for other in (STUDENT, COPY)
                if self.args["models"].get(other, {}).get("space_of") in spaces
            ]
            made[name] = {
                **({"space": spaces[0]} if len(spaces) == 1 else {"spaces": spaces}),
                **measured,
                "adapters": [write_adapter(self.args, folder, *pair) for pair in pairs],
                "encoders": others,
                "min_recall": self.rng.choice((0.5, 0.95)),
                "adapt": self.rng.choice(("queries", "queries", "all")),
                "input_type": self.rng.choice((None, "query", "document")),
                "instruction": self.rng.choice((None, "of the collection")),
                "truncate": self.rng.choice(("none", "end")),
            }
        return made

    async def _strike(self, router: LocalRouter, folder: Path) -> None:
        """Kill a model's replica, take it to zero in good order, bring it back, or change what the
        collections mean.
        """
        transport, service = router.transport, router.service
        assert isinstance(transport, FlakyTransport)
        for model in service.dispatchers:
            blow = self.rng.random()
            if blow < 0.2:
                transport.lost.add(model)
                self.counts["replicas killed"] += 1
            if 0.1 < blow < 0.3:  # what was killed may be on Serve's list for a while
                service.replicas_changed(model, [])
                self.counts["models at zero"] += 1
            elif blow > 0.5:
                transport.lost.discard(model)
                service.replicas_changed(model, [model])
        if self.rng.random() < 0.3:
            await asyncio.sleep(0)
            self._reload(service, folder)

    def _reload(self, service: Service, folder: Path) -> None:
        """Change the collections; sometimes while the files are those of other weights, which this
        router does not have.
        """
        restore = self._replace_file(folder) if self.rng.random() < 0.3 else None
        collections, problems = self._collections(folder), list[str]()
        args = changed(service.args.model_dump(mode="json"), {"collections": collections})
        try:
            encoders = load_encoders(args, service.digests)
        except ConfigError as error:
            problems = error.problems
        if restore is not None:
            restore()
        if problems:
            assert restore is not None, problems
            assert all("has changed since" in problem for problem in problems), problems
            self.counts["reloads refused"] += 1
            return
        for encoder in (one for row in encoders.of_collection.values() for one in row):
            if (adapter := encoder.adapter) is not None:
                assert adapter.source_fingerprint == service.digests[adapter.source.model]
                assert adapter.target_fingerprint == service.digests[adapter.target.model]
        self.collections.append(collections)
        service.reload(args, Catalogue(args, encoders))
        self.counts["reloads"] += 1

    def _replace_file(self, folder: Path) -> Callable[[], object]:
        """Give a model the fingerprint of other weights, or the student other rows; return what
        takes that back.
        """
        config = self.args["models"][self.rng.choice(list(self.args["models"]))]
        weights = config["engine"].get("weights")
        file = Path(weights or config["fingerprint"])
        before = file.read_bytes()
        if weights is None:
            stored = fingerprint.load(file)
            fingerprint.save(replace(stored, vectors=-stored.vectors), file)
        else:
            other = write_student(self.args, folder, config["space_of"])
            file.write_bytes(Path(other).read_bytes())
        return partial(file.write_bytes, before)

    async def _ask(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        since = len(self.collections) - 1
        answer = await client.post("/v1/embeddings", json=body)
        self.counts["requests"] += 1
        self.counts[str(answer.status_code)] += 1
        if answer.status_code != 200:
            assert answer.status_code in NO_ANSWER, answer.text
            return
        # It was answered by what held at one moment between then and now, and by that alone.
        failures = []
        for collections in self.collections[since:]:
            try:
                await self._check(body, answer, collections)
            except AssertionError as failure:
                failures.append(failure)
            else:
                return
        raise failures[-1]

    async def _check(
        self, body: dict[str, Any], answer: httpx.Response, collections: dict[str, Any]
    ) -> None:
        data = answer.json()
        routing = data["routing"]
        own, _, width = routing["space"].rpartition("/")
        made_by, vectors = routing["model"], decoded(data, body.get("encoding_format", "float"))
        assert vectors.shape == (len(body["input"]), int(width))
        assert answer.headers["x-embedding-space"] == routing["space"]
        assert answer.headers["x-embedding-model"] == data["model"] == made_by

        collection = collections.get(body.get("space", ""))
        pinned = [] if body.get("space") is None else [body["space"]]
        if collection is not None:
            pinned = collection.get("spaces") or [collection["space"]]
        assert not pinned or routing["space"] in pinned, (body, routing)
        side = side_of(body, collection or {})
        assert len(pinned) < 2 or side == "query", (body, routing)
        self.counts["vectors of several spaces"] += len(vectors) if len(pinned) > 1 else 0
        assert body.get("model") not in self.args["models"] or made_by == body["model"]
        assert "dimensions" not in body or int(width) == body["dimensions"]

        encoder, over, matrix = routing["encoder"], routing["adapter"], None
        assumed = self._assumed(routing["space"], collection)
        assert (routing["expected_recall"] is None) == (encoder == "native" or assumed), routing
        assert (over is not None) == (encoder == "adapter"), routing
        assert (made_by == own) == (encoder == "native"), (body, routing)
        if encoder in ("student", "same"):
            assert made_by == {"student": STUDENT, "same": COPY}[encoder], routing
            assert self.args["models"][made_by]["space_of"] == routing["space"], (body, routing)
            assert body.get("model") == made_by or made_by in (collection or {})["encoders"]
            assert encoder == "same" or side == "query", (body, routing)
        if over is not None:
            assert collection is not None
            assert side == "query" or collection["adapt"] == "all", (body, routing)
            candidates = [adapters.load(resolve_path(path)) for path in collection["adapters"]]
            adapter = next(
                (
                    one
                    for one in candidates
                    if one.source.model == made_by and str(one.target) == routing["space"]
                ),
                None,
            )
            assert adapter is not None, (body, routing)
            assert str(adapter.source) == over["source"]
            matrix = adapter.matrix
        for row, text in enumerate(body["input"]):
            cut = row in routing["truncated"]
            expected = await self._oracle(
                made_by, what_is_left(text, body, collection) if cut else [text], body, collection
            )
            if matrix is not None:
                expected = expected @ matrix
            cosines = unit(expected[:, : int(width)]) @ vectors[row]
            assert cosines.max() > 0.998, (body, routing, text, cosines.max())
            self.counts["vectors of cut texts"] += cut
        self.counts["vectors checked"] += len(vectors)
        self.counts[f"vectors by {encoder}"] += len(vectors)

    def _assumed(self, space: str, collection: dict[str, Any] | None) -> bool:
        """Whether nothing was measured of what this space keeps of a collection's best one."""
        spaces = (collection or {}).get("spaces") or [space]
        if len(spaces) == 1 or "proof" in (collection or {}):
            return False
        order = list(self.args["models"])
        return space != max(spaces, key=lambda one: order.index(one.rpartition("/")[0]))

    async def _oracle(
        self, model: str, texts: list[str], body: dict[str, Any], collection: dict[str, Any] | None
    ) -> np.ndarray:
        """What this model makes of these texts, from the config alone."""
        config = parse_args(self.args).models[model]
        if config.engine.in_router:
            return student.load(Path(config.engine.files["weights"])).encode(texts)
        given = {} if collection is None else collection
        instruction = (
            body.get("instruction") or given.get("instruction") or config.prompts.instruction
        )
        side = side_of(body, given) or config.prompts.default
        template = config.prompts.query if side == "query" else config.prompts.document
        prompted = [
            template.replace("{instruction}", instruction).replace("{text}", text) for text in texts
        ]
        engine = engines.create(config.model_copy(update={"max_tokens": 10**6}), None)
        batch = Batch(texts=prompted, input_type="query" if side == "query" else "document")
        if config.tokenizer is not None:
            batch = Batch(
                ids=load(config.tokenizer)(prompted, batch.input_type).ids,
                input_type=batch.input_type,
            )
        return (await engine.embed(batch)).vectors


def what_is_left(text: str, body: dict[str, Any], collection: dict[str, Any] | None) -> list[str]:
    """All that a text may be when it was cut: its beginnings, or its ends."""
    if (body.get("truncate") or (collection or {}).get("truncate")) == "end":
        return [text[:length] for length in range(1, len(text))]
    return [text[start:] for start in range(1, len(text))]


def side_of(body: dict[str, Any], collection: dict[str, Any]) -> str | None:
    """The side that the request gives, or else its collection; None leaves it to the model."""
    if "instruction" in body:
        return "query"
    if "input_type" in body:
        return None if body["input_type"] == "clustering" else body["input_type"]
    return collection.get("input_type")


def decoded(data: dict[str, Any], encoding_format: str) -> np.ndarray:
    """Rows of length 1."""
    if encoding_format == "float":
        return unit(np.array([row["embedding"] for row in data["data"]], np.float32))
    dtype = "<f4" if encoding_format == "base64" else "i1"
    return unit(
        np.stack(
            [
                np.frombuffer(base64.b64decode(row["embedding"]), dtype).astype(np.float32)
                for row in data["data"]
            ]
        )
    )


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
