"""Table of the features that each client library supports.

Unmodified clients of other projects against a running service (`make run`). Each embeds two texts
that httpx has also embedded, and must get the same vectors:

    texts     in one call, in their order
    query     different vectors for the names with `-query` and with `-document`
    tier      `fast` as the name of a model
    budget    `@60000ms` in the name
    size      a smaller vector, if the client has a field for it
    error     the service's message about an unknown name
    batch     the same vectors by files and batches, if the client has calls for them

`-` means that the client has no such field. The JavaScript clients need npm's registry once.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
import httpx
import numpy as np

from benchmarks.marks import to_file, write
from router.arrays import Vectors
from router.domain import Tier
from router.names import SIDES
from tests.support import node

TEXTS = ["Where is Paris?", "Paris lies on the Seine."]
FEATURES = ("texts", "query", "tier", "budget", "size", "error", "batch")
KEY = "unused"
NOWHERE = "no-such-model"
SCRIPT = Path(__file__).with_name("node") / "embed.mjs"
BATCH_S = 120.0  # for two texts


class Unsupported(Exception):
    """The client has no field for it."""


# address of the service, name, texts, size -> one vector for each text
Embed = Callable[[str, str, list[str], int | None], Any]


def with_httpx(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """The reference for all other clients."""
    body = {"model": model, "input": texts} | ({} if size is None else {"dimensions": size})
    answer = httpx.post(f"{url}/v1/embeddings", json=body, headers=_bearer(), timeout=60)
    if answer.is_error:
        raise RuntimeError(answer.text)
    return [row["embedding"] for row in answer.json()["data"]]


def with_openai(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """The client of OpenAI, which receives base64."""
    from openai import OpenAI, omit

    client = OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    dimensions = omit if size is None else size
    answer = client.embeddings.create(model=model, input=texts, dimensions=dimensions)
    return [row.embedding for row in answer.data]


def with_azure(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """OpenAI's client for Azure."""
    from openai import AzureOpenAI, omit

    client = AzureOpenAI(azure_endpoint=url, api_key=KEY, api_version="2024-10-21", max_retries=0)
    dimensions = omit if size is None else size
    answer = client.embeddings.create(model=model, input=texts, dimensions=dimensions)
    return [row.embedding for row in answer.data]


def with_node(client: str) -> Embed:
    """A client of embed.mjs."""

    def embed(url: str, model: str, texts: list[str], size: int | None) -> Any:
        call = {"client": client, "url": f"{url}/v1", "key": KEY, "model": model, "texts": texts}
        sized = call if size is None else {**call, "dimensions": size}
        answer = json.loads(node.run(SCRIPT.read_text(), json.dumps(sized)))
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["vectors"]

    return embed


def with_langchain(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """OpenAIEmbeddings of langchain-openai."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model=model,
        base_url=f"{url}/v1",
        api_key=lambda: KEY,
        dimensions=size,
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    return embeddings.embed_documents(texts)


def with_llama_index(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """OpenAILikeEmbedding of LlamaIndex."""
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding

    embeddings = OpenAILikeEmbedding(
        model_name=model, api_base=f"{url}/v1", api_key=KEY, dimensions=size, max_retries=0
    )
    return embeddings.get_text_embedding_batch(texts)


def with_haystack(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """OpenAIDocumentEmbedder of Haystack."""
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder
    from haystack.utils import Secret

    embedder = OpenAIDocumentEmbedder(
        api_key=Secret.from_token(KEY),
        model=model,
        api_base_url=f"{url}/v1",
        dimensions=size,
        max_retries=0,
        progress_bar=False,
        raise_on_failure=True,
    )
    made = embedder.run([Document(content=text) for text in texts])
    return [document.embedding for document in made["documents"]]


def with_chroma(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """OpenAIEmbeddingFunction of chromadb, which sends `dimensions` only for OpenAI's names."""
    from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction

    if size is not None:
        raise Unsupported
    return OpenAIEmbeddingFunction(api_key=KEY, model_name=model, api_base=f"{url}/v1")(texts)


def with_lancedb(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """The embedding registry of LanceDB, which takes a key from the environment alone. Its tables
    take only OpenAI's names; a call of its function takes any.
    """
    from lancedb.embeddings import get_registry

    os.environ["OPENAI_API_KEY"] = KEY
    openai = get_registry().get("openai")
    function = openai.create(name=model, base_url=f"{url}/v1", dim=size, max_retries=0)
    return function.generate_embeddings(texts)


def with_cohere(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """The client of Cohere. It must name a side, which the name may not contradict."""
    import cohere

    kind = "search_query" if "-query" in model else "search_document"
    with httpx.Client(timeout=60) as own:  # the client of Cohere closes none
        client = cohere.ClientV2(api_key=KEY, base_url=url, httpx_client=own)
        answer = client.embed(
            model=model,
            texts=texts,
            input_type=kind,
            embedding_types=["float"],
            output_dimension=size,
        )
    return answer.embeddings.float_


def with_ollama(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """The client of Ollama."""
    import ollama

    with closing(ollama.Client(url, headers=_bearer())) as client:
        return client.embed(model=model, input=texts, dimensions=size).embeddings


def with_tei(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """A request of Text Embeddings Inference, which has headers in place of a name."""
    name, _, budget = model.partition("@")
    bare, _, side = name.rpartition("-")
    body: dict[str, Any] = {"inputs": texts}
    if side in SIDES:
        name, body = bare, body | {"prompt_name": side}
    space = name if size is None else f"{name}/{size}"
    says = {"x-quality-tier": name} if name in list(Tier) else {"x-embedding-space": space}
    if budget:
        says["x-latency-budget-ms"] = budget.removesuffix("ms")
    answer = httpx.post(f"{url}/embed", json=body, headers=_bearer() | says, timeout=60)
    if answer.is_error:
        raise RuntimeError(answer.text)
    return answer.json()


CLIENTS: dict[str, Embed] = {
    "openai (Python)": with_openai,
    "openai (Node)": with_node("openai"),
    "Vercel AI SDK": with_node("ai"),
    "openai for Azure": with_azure,
    "LangChain": with_langchain,
    "LlamaIndex": with_llama_index,
    "Haystack": with_haystack,
    "chromadb": with_chroma,
    "LanceDB": with_lancedb,
    "cohere": with_cohere,
    "ollama": with_ollama,
    "TEI request": with_tei,
}


def batch_with_openai(url: str, model: str, texts: list[str], size: int | None) -> Any:
    """Files and batches of OpenAI's client."""
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        lines = [
            {
                "custom_id": str(number),
                "method": "POST",
                "url": "/v1/embeddings",
                "body": {"model": model, "input": text},
            }
            for number, text in enumerate(texts)
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = client.batches.create(
            input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
        )
        end_s = time.monotonic() + BATCH_S
        while batch.status in ("validating", "in_progress", "finalizing"):
            if time.monotonic() > end_s:
                raise TimeoutError(f"the batch is still {batch.status}")
            time.sleep(0.2)
            batch = client.batches.retrieve(batch.id)
        if batch.output_file_id is None:
            raise RuntimeError(f"the batch is {batch.status}: {batch.errors}")
        rows = [*map(json.loads, client.files.content(batch.output_file_id).iter_lines())]
        for id in (file.id, batch.output_file_id):
            client.files.delete(id)
    rows.sort(key=lambda row: int(row["custom_id"]))
    return [row["response"]["body"]["data"][0]["embedding"] for row in rows]


# by client: the same by a batch
BATCHES: dict[str, Embed] = {
    "openai (Python)": batch_with_openai,
    "openai (Node)": with_node("batch"),
}


class Names(NamedTuple):
    """Names of the service: a space whose model has another size, and a tier."""

    space: str  # MODEL/DIMENSIONS
    sized: str  # a model with several sizes
    size: int  # the smallest of them
    tier: str


def names_of(url: str) -> Names:
    """Find them in the service's model list."""
    rows = httpx.get(f"{url}/v1/tiers", headers=_bearer(), timeout=60).json()["data"]
    sized = next(row for row in rows if row["matryoshka"])
    space = next(row for row in rows if row is not sized and _has_sides(url, row["space"]))
    tier = next(row["tier"] for row in rows if row["tier"])
    return Names(
        f"{space['model']}/{space['dimensions']}",
        sized["model"],
        min(sized["matryoshka"]),
        tier,
    )


def _has_sides(url: str, space: str) -> bool:
    """Whether the model has different vectors for queries and documents."""
    query, document = (
        with_httpx(url, f"{space}-{side}", TEXTS, None) for side in ("query", "document")
    )
    return not np.allclose(query, document)


def checks(client: str, url: str, names: Names) -> Iterator[tuple[str, Callable[[], object]]]:
    """The features, each with its check, which raises if the client cannot do it."""
    document, query = f"{names.space}-document", f"{names.space}-query"
    embed = CLIENTS[client]

    def same(model: str, size: int | None = None, embed: Embed = embed) -> Vectors:
        made = np.array(embed(url, model, TEXTS, size), np.float32)
        np.testing.assert_allclose(made, with_httpx(url, model, TEXTS, size), atol=1e-5)
        return made

    def sides() -> None:
        assert not np.allclose(same(query), same(document)), "both sides have one vector"

    def error() -> None:
        try:
            embed(url, NOWHERE, TEXTS, None)
        except Unsupported:
            raise
        except Exception as raised:
            if NOWHERE in str(raised):
                return
            raise AssertionError(f"the message hides the sentence: {raised}") from raised
        raise AssertionError("no error was raised")

    def batch() -> None:
        if client not in BATCHES:
            raise Unsupported
        same(document, embed=BATCHES[client])

    yield "texts", lambda: same(document)
    yield "query", sides
    yield "tier", lambda: same(names.tier)
    yield "budget", lambda: same(f"{document}@60000ms")
    yield "size", lambda: same(names.sized, names.size)
    yield "error", error
    yield "batch", batch


def row(client: str, url: str, names: Names) -> dict[str, str]:
    """`yes`, `-`, or the error, by feature."""
    found: dict[str, str] = {}
    for feature, check in checks(client, url, names):
        try:
            check()
        except Unsupported:
            found[feature] = "-"
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            found[feature] = " ".join(lines)[:120]
        else:
            found[feature] = "yes"
    return found


def _bearer() -> dict[str, str]:
    return {"authorization": f"Bearer {KEY}"}


@click.command()
@click.option("--base-url", default="http://localhost:8000", show_default=True)
@to_file
def main(base_url: str, file: Path | None) -> None:
    """Try every client, and print the table."""
    names, rows = names_of(base_url), list[dict[str, Any]]()
    click.echo(f"{'client':18}" + "".join(f"{feature:>9}" for feature in FEATURES))
    for client in CLIENTS:
        found = dict.fromkeys(FEATURES, "npm's registry is out of reach")
        with suppress(node.Unreachable):
            found = row(client, base_url, names)
        short = {feature: one if one in ("yes", "-") else "no" for feature, one in found.items()}
        click.echo(f"{client:18}" + "".join(f"{short[feature]:>9}" for feature in FEATURES))
        for feature, one in found.items():
            if short[feature] == "no":
                click.echo(f"    {feature}: {one}", err=True)
            value = {"name": f"{client}: {feature}", "value": one, "mark": "yes or -"}
            rows.append(value | {"met": one in ("yes", "-")})
    write(rows, file)


if __name__ == "__main__":
    main()
