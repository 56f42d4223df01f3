"""/docs: the OpenAPI document as a self-contained page."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from deployments.ingress.asgi import HttpAnswer, HttpRequest

# the colours of the console (console/console.css)
STYLE = """
:root { color-scheme: light dark; --ground: #f4f6f8; --surface: #fff; --line: #d8dee5;
  --ink: #17212b; --soft: #55626f; --accent: #1d5fb4 }
@media (prefers-color-scheme: dark) { :root { --ground: #0e1318; --surface: #161d24;
  --line: #2c3742; --ink: #e6ebf0; --soft: #9dabb8; --accent: #6aaefc } }
* { box-sizing: border-box }
html { scroll-padding-top: 4rem }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "PingFang SC", sans-serif }
header { position: sticky; top: 0; display: flex; flex-wrap: wrap; align-items: center;
  gap: .4rem 1rem; padding: .6rem 1.25rem; background: var(--surface);
  border-bottom: 1px solid var(--line) }
header h1 { font-size: 1rem; margin: 0 auto 0 0 }
a { color: var(--accent) }
.page { display: grid; grid-template-columns: 15rem minmax(0, 1fr); gap: 1rem; max-width: 80rem;
  margin: 0 auto; padding: 1rem 1.25rem 3rem }
nav ol { list-style: none; margin: 0; padding: 0; position: sticky; top: 4rem;
  max-height: calc(100vh - 5rem); overflow: auto }
nav a { display: block; padding: .15rem 0; overflow-wrap: anywhere; text-decoration: none }
section { background: var(--surface); border: 1px solid var(--line); border-radius: 10px;
  padding: .2rem 1.1rem 1rem; margin-bottom: 1rem; min-width: 0 }
h2 { font-size: 1.05rem; overflow-wrap: anywhere } h3 { font-size: .9rem; color: var(--soft) }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .92em }
pre { overflow: auto; padding: .8rem; background: var(--ground); border: 1px solid var(--line);
  border-radius: 6px }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere }
td:first-child, th:first-child { overflow-wrap: normal; white-space: nowrap }
th, .method, small { color: var(--soft) }
.method { display: inline-block; min-width: 3.5rem; font-weight: 700 }
details { margin: .5rem 0 } summary { cursor: pointer }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
@media (max-width: 50rem) { .page { grid-template-columns: minmax(0, 1fr); padding: .7rem }
  nav ol { position: static; max-height: none; columns: 2 } }
"""
_HOST = re.compile(r"[\w.\-:\[\]]+", re.ASCII)
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action "
        "'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def answer(document: Mapping[str, Any], http_request: HttpRequest) -> HttpAnswer:
    """The page, with the address at which it was requested in its examples."""
    content = page(document, base_of(http_request)).encode()
    return HttpAnswer(200, content, "text/html; charset=utf-8", HEADERS)


def base_of(http_request: HttpRequest) -> str:
    """The URL of the service as the client wrote it."""
    headers, scope = http_request.headers, http_request.scope
    host, proxy = headers.get("host", ""), headers.get("x-forwarded-proto", "")
    scheme = proxy if proxy in ("http", "https") else scope.get("scheme", "http")
    at = host if _HOST.fullmatch(host) else "localhost:8000"
    return f"{scheme}://{at}{scope.get('root_path', '')}"


def page(document: Mapping[str, Any], base: str) -> str:
    """Render an OpenAPI document as HTML; `base` is the URL of the service."""
    title = _text(document["info"]["title"])
    entries = [
        (_anchor(method, path), method.upper(), path)
        for path, methods in document["paths"].items()
        for method in methods
    ]
    listed = "".join(
        f'<li><a href="#{anchor}"><span class="method">{method}</span> '
        f"<code>{_text(path)}</code></a></li>"
        for anchor, method, path in entries
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1">'
        f"<title>{title}: reference</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{title}: reference</h1><a href="./">Back to the console</a>'
        '<a href="openapi.json">openapi.json</a></header><div class="page">'
        f'<nav aria-label="Contents"><ol>{listed}</ol></nav><main>'
        f"<p>{_prose(document['info'].get('description', ''))}</p>"
        f"{''.join(_operations(document, base))}</main></div></body></html>"
    )


def _anchor(method: str, path: str) -> str:
    words = re.findall(r"[a-z0-9]+", f"{method} {path}".lower())
    return "-".join(words)


def _operations(document: Mapping[str, Any], base: str) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (
                f'<section id="{_anchor(method, path)}"><h2><span class="method">'
                f"{_text(method.upper())}</span> <code>{_text(path)}</code></h2>"
            )
            yield f"<p><b>{_prose(operation.get('summary', ''))}</b></p>"
            if description := operation.get("description"):
                yield f"<p>{_prose(description)}</p>"
            content = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            )
            if content:
                yield _fields(document, _resolve(document, content.get("schema", {})))
                yield from _examples(content)
            yield from _calls(method, base + _filled(path, operation), content)
            rows = "".join(
                f"<tr><td>{_text(status)}</td><td>"
                f"{_prose(_resolve(document, answer).get('description', ''))}</td></tr>"
                for status, answer in operation.get("responses", {}).items()
            )
            yield f"<table><tr><th>status</th><th>answer</th></tr>{rows}</table></section>"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{_prose(field.get('description', ''))}{_choices(document, field)}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>field (* required)</th><th></th></tr>{rows}</table>"


def _choices(document: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """The allowed values of a field, if it has a fixed set of them."""
    forms = [_resolve(document, form) for form in field.get("anyOf", [field])]
    words = [
        value
        for form in forms
        for value in form.get("enum", [form["const"]] if "const" in form else [])
    ]
    return (
        f" <small>One of {', '.join(f'<code>{_text(word)}</code>' for word in words)}.</small>"
        if words
        else ""
    )


def _examples(content: Mapping[str, Any]) -> Iterator[str]:
    for example in content.get("examples", {}).values():
        value = json.dumps(example["value"], ensure_ascii=False, indent=2)
        yield f"<p>{_prose(example.get('summary', ''))}</p><pre>{_text(value)}</pre>"


def _filled(path: str, operation: Mapping[str, Any]) -> str:
    """The path with an example of each of its parameters, or with the name in capitals."""
    for one in operation.get("parameters", ()):
        if one.get("in") == "path":
            value = str(one.get("example", one["name"].upper()))
            path = path.replace(f"{{{one['name']}}}", value)
    return path


def _calls(method: str, url: str, content: Mapping[str, Any]) -> Iterator[str]:
    """The first example as commands: curl, and Python with httpx."""
    examples = list(content.get("examples", {}).values())
    if method == "post" and not examples:
        return
    body = examples[0]["value"] if examples else None
    curl = [f"curl {url}", "-H 'authorization: Bearer KEY'"]
    python = ["import httpx", ""]
    more = ""
    if body is not None:
        sent = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
        curl += ["-H 'content-type: application/json'", f"-d '{sent}'"]
        more = f", json={body!r}"
    python += [
        f'answer = httpx.{method}("{url}"{more},',
        '    headers={"authorization": "Bearer KEY"}, timeout=60)',
        "print(answer.json())",
    ]
    joined = " \\\n  ".join(curl)
    yield f"<details><summary>curl</summary><pre>{_text(joined)}</pre></details>"
    lines = "\n".join(python)
    yield f"<details><summary>Python</summary><pre>{_text(lines)}</pre></details>"


def _resolve(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = value.get("$ref")
    if reference is None:
        return value
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


def _text(value: object) -> str:
    return html.escape(str(value))


def _prose(text: str) -> str:
    """Text in which `backticks` mark code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(text))
