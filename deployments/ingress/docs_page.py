"""/docs: the OpenAPI document as a page that needs nothing from elsewhere."""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping
from typing import Any

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem }
code, pre { font-family: ui-monospace, monospace }
pre { overflow: auto; padding: 1rem; border: 1px solid #8886; border-radius: 6px }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #8884;
  vertical-align: top }
.method { display: inline-block; min-width: 4rem; font-weight: 700 }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action "
        "'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def page(document: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document."""
    info = document["info"]
    body = "".join(_operations(document))
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width">'
        f"<title>{_text(info['title'])}</title><style>{STYLE}</style><main><h1>{_text(info['title'])}</h1>"
        f"<p>{_text(info.get('description', ''))}</p>"
        f'<p>Machine-readable: <a href="openapi.json">openapi.json</a></p>{body}</main></html>'
    )


def _operations(document: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield (
                f'<h2><span class="method">{_text(method.upper())}</span> '
                f"<code>{_text(path)}</code></h2>"
            )
            yield f"<p>{_text(operation.get('description') or operation.get('summary', ''))}</p>"
            content = (
                operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            )
            if content:
                yield _fields(document, _resolve(document, content.get("schema", {})))
                yield from _examples(content)
            rows = "".join(
                f"<tr><td>{_text(status)}</td><td>"
                f"{_text(_resolve(document, answer).get('description', ''))}</td></tr>"
                for status, answer in operation.get("responses", {}).items()
            )
            yield f"<table><tr><th>status</th><th>answer</th></tr>{rows}</table>"


def _fields(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{_text(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{_text(field.get('description', ''))}{_choices(document, field)}</td></tr>"
        for name, field in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>field (* required)</th><th></th></tr>{rows}</table>"


def _choices(document: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """The values that a field may have, where they are few words."""
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
        yield f"<p>{_text(example.get('summary', ''))}</p><pre>{_text(value)}</pre>"


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
