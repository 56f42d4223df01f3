"""`embedding-router route`: print POST /v1/route as a table."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from deployments.launch.serve_config import application
from deployments.tools.client import BASE_URL, BaseUrl, send_request
from router.config import RouterArgs
from router.domain import OnMiss, Tier
from router.errors import RouterError

NO_ROUTER = (
    "start one with `embedding-router run`, name another with --base-url, or decide by a "
    "file with --config"
)


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "--base-url",
    type=BaseUrl(),
    help=f"A running router; {BASE_URL} where neither this nor --config is given.",
)
@click.option(
    "--config",
    "path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A config instead of a running router: one idle replica of every model, with the curves "
    "of the file.",
)
@click.option(
    "--api-key",
    envvar="EMBEDDING_ROUTER_API_KEY",
    help="Sent to the router; or EMBEDDING_ROUTER_API_KEY.",
)
@click.option("--json", "as_json", is_flag=True, help="The answer as it came.")
@click.option("--model", help="A model id or a tier.")
@click.option("--quality", type=click.Choice([tier.value for tier in Tier]))
@click.option("--latency-budget-ms", type=float)
@click.option("--on-budget-miss", type=click.Choice([miss.value for miss in OnMiss]))
@click.option("--space", help="MODEL/DIMENSIONS or a collection.")
@click.option("--dimensions", type=int)
@click.option("--input-type", help="query or document.")
@click.option("--instruction", help="The task sentence of a query.")
@click.option("--language", help="BCP-47 tag; replaces detection.")
@click.option("--truncate", type=click.Choice(["none", "end", "start"]))
@click.option("--priority", type=click.Choice(["interactive", "bulk"]))
def main(
    texts: tuple[str, ...],
    base_url: str | None,
    path: Path | None,
    api_key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show which model would answer TEXT, what each would take now, and why the others were not
    chosen.

    Nothing is embedded. Several TEXTs are one request. The options are those of the API.
    """
    if base_url is not None and path is not None:
        raise click.UsageError("give --base-url or --config, not both")
    given = {name: value for name, value in options.items() if value is not None}
    body = orjson.dumps({"input": texts[0] if len(texts) == 1 else list(texts), **given})
    if path is None:
        answer = send_request(base_url or BASE_URL, "/v1/route", api_key, body, NO_ROUTER)
    else:
        answer = decide(application(path)[0], body)
    if as_json:
        click.echo(orjson.dumps(orjson.loads(answer), option=orjson.OPT_INDENT_2))
    else:
        click.echo("\n".join(_table(orjson.loads(answer), given.get("latency_budget_ms"))))


def decide(args: RouterArgs, body: bytes) -> bytes:
    """Return the same explanation from the config alone; nothing is started."""
    from deployments.dispatch.wire import Call, Reply
    from deployments.ingress.views import Views
    from deployments.launch.model_check import hub_problems
    from deployments.service.reranking import Reranking
    from deployments.service.service import Service
    from router.schema import read
    from router.settings import Context, settled

    class Nowhere:
        async def send(self, model: str, call: Call, replica: str) -> Reply:
            raise AssertionError("a plan sends nothing")

        async def wake(self, model: str) -> None:
            raise AssertionError("no model is asleep")

    for name, model in args.models.items():
        for problem in hub_problems(model, args.base_dir, f"models.{name}"):
            raise click.ClickException(problem)

    async def explain() -> bytes:
        # a stopped clock, so that loading a tokenizer takes nothing from the budget
        service = Service(args, Nowhere(), clock=lambda: 0.0)
        for model in args.deployed:
            service.replicas_changed(model, ["idle"])
        context = Context(service.catalogue, {}, args.limits)
        request = settled(read(body, args.limits), context)
        plan = await service.plan(request)
        return Views(service, Reranking(service)).explanation(plan)

    try:
        return asyncio.run(explain())
    except RouterError as error:
        raise click.ClickException(error.message) from None


def _table(answer: dict[str, Any], budget_ms: float | None) -> Iterator[str]:
    features, decision = answer["features"], answer["decision"]
    marks = [word for word in ("mixed", "code") if features[word]]
    parts = [
        f"{features['tokens']} tokens",
        features["language"] or "language unknown",
        features["script"] or "no script",
        *marks,
    ]
    yield f"text      {', '.join(parts)}"
    if decision["model"] is None:
        yield f"decision  refused: {decision['reason']}"
    else:
        tier = "" if decision["tier"] is None else f" ({decision['tier']})"
        lower = ", below its target" if decision["degraded"] else ""
        yield (
            f"decision  {decision['model']}{tier} by {decision['reason']}{lower}; space "
            f"{decision['space']}"
        )
    if budget_ms is not None:
        gone = f", {gone_ms:g} ms gone" if (gone_ms := decision.get("elapsed_ms")) else ""
        yield f"budget    {budget_ms:g} ms{gone}; a model fits when its tail does"
    yield ""
    width = max(len(model["model"]) for model in answer["models"])
    yield (f"  {'':<{width}} {'wait':>9} {'work':>9} {'total':>9} {'tail':>9} {'margin':>7}  ")
    for model in answer["models"]:
        total, margin = model["predicted_ms"], model["margin"]
        tail = None if total is None else total * margin
        times = " ".join(
            f"{'-' if ms is None else f'{ms:.1f}':>9}"
            for ms in (model["wait_ms"], model["work_ms"], total, tail)
        )
        mark = ">" if model["chosen"] else " "
        yield (f"{mark} {model['model']:<{width}} {times} {margin:>7.2f}  {model['why']}")
    yield ""
    yield (
        "ms; wait + work = total, half of the answers are sooner; tail = total x margin, all "
        "but the declared share are sooner"
    )
