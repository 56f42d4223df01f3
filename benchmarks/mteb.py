"""Run `mteb` itself against the service.

Two tasks of mteb's own types over local data, as its data sets come from a hub: the STS benchmark
in English and SciFact-mini. mteb's scores must equal those of `advise` for the same texts. Start
the service first (`make run`) and install mteb, which is not a dependency: `pip install mteb`. This
module also shows how to make a task of your own data.
"""

import csv
import json
from pathlib import Path
from typing import Any

import click

from benchmarks.public_data import require, whole
from deployments.mteb_encoder import ServiceEncoder
from deployments.tools.client import BASE_URL, BaseUrl


@click.command()
@whole
@click.option("--base-url", type=BaseUrl(), default=BASE_URL, show_default=True)
@click.option(
    "--api-key",
    envvar="EMBEDDING_ROUTER_API_KEY",
    help="API key of the service. [env: EMBEDDING_ROUTER_API_KEY]",
)
@click.option("--model", "models", multiple=True, default=["wordllama-256"], show_default=True)
def main(folder: Path, base_url: str, api_key: str | None, models: tuple[str, ...]) -> None:
    """Measure models of a running service with mteb itself."""
    require(folder, "scifact-mini.json", "stsb-en.csv")
    try:
        import mteb  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"the package {error.name!r} is not installed: pip install mteb"
        ) from None
    for model in models:
        encoder = ServiceEncoder(model, base_url=base_url, api_key=api_key)
        found = mteb.evaluate(encoder, tasks(folder), cache=None)
        scores = ", ".join(
            f"{one.task_name} {100 * one.get_score():.1f}" for one in found.task_results
        )
        click.echo(f"mteb {mteb.__version__}, {model}: {scores}")


def tasks(folder: Path) -> list[Any]:
    """mteb's similarity and retrieval tasks, with data from files."""
    from datasets import Dataset, DatasetDict  # type: ignore[import-not-found,unused-ignore]
    from mteb.abstasks.retrieval import AbsTaskRetrieval  # type: ignore[import-not-found,unused-ignore]
    from mteb.abstasks.sts import AbsTaskSTS  # type: ignore[import-not-found,unused-ignore]

    class Similarity(AbsTaskSTS):  # type: ignore[misc,unused-ignore]
        metadata = _metadata("STS benchmark", "STS", "cosine_spearman")
        min_score, max_score = 0, 5

        def load_data(self, **_: Any) -> None:
            with (folder / "stsb-en.csv").open(newline="") as file:
                one, other, scores = zip(*csv.reader(file), strict=True)
            rows = {
                "sentence1": list(one),
                "sentence2": list(other),
                "score": [float(score) for score in scores],
            }
            self.dataset, self.data_loaded = DatasetDict({"test": Dataset.from_dict(rows)}), True

    class Retrieval(AbsTaskRetrieval):  # type: ignore[misc,unused-ignore]
        metadata = _metadata("SciFact-mini", "Retrieval", "ndcg_at_10")

        def load_data(self, **_: Any) -> None:
            data = json.loads((folder / "scifact-mini.json").read_text())
            self.dataset, self.data_loaded = (
                {
                    "default": {
                        "test": {
                            "corpus": Dataset.from_list(
                                [{"id": id, **document} for id, document in data["corpus"].items()]
                            ),
                            "queries": Dataset.from_list(
                                [{"id": id, "text": text} for id, text in data["queries"].items()]
                            ),
                            "relevant_docs": {
                                query: dict.fromkeys(documents, 1)
                                for query, documents in data["qrels"].items()
                            },
                            "top_ranked": None,
                        }
                    }
                },
                True,
            )

    return [Similarity(), Retrieval()]


def _metadata(name: str, kind: str, main_score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata  # type: ignore[import-not-found,unused-ignore]

    unknown = {key: None for key, field in TaskMetadata.model_fields.items() if field.is_required()}
    return TaskMetadata(
        **unknown
        | {
            "name": name,
            "description": f"{name}, from files",
            "dataset": {"path": f"local/{name}", "revision": "1"},
            "type": kind,
            "eval_splits": ["test"],
            "eval_langs": ["eng-Latn"],
            "main_score": main_score,
        }
    )


if __name__ == "__main__":
    main()
