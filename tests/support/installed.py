"""Run beside an installed wheel: serve from it, open its pages, and print the findings as JSON.

python -m tests.support.installed
"""

import json
import re
from typing import Any

import httpx

import deployments
import router
from deployments.tools.advise.page import TEMPLATE
from tests.support.local_service import served

MODEL = {"engine": {"kind": "fake"}, "dimensions": 8, "max_tokens": 64}
ARGS: dict[str, Any] = {"models": {"small": MODEL}, "tiers": {"fast": "small"}}


def main() -> None:
    found: dict[str, Any] = {
        "packages": [*deployments.__path__, *router.__path__],
        "advise": TEMPLATE.read_text(encoding="utf-8"),
    }
    with served(ARGS) as (url, _), httpx.Client(base_url=url) as client:
        page = client.get("/").text
        # The page names its style and its first script; scripts import their neighbours.
        waiting = [f"/{path}" for path in re.findall(r'(?:href|src)="(console/[^"]+)"', page)]
        opened: dict[str, int] = {"/": client.get("/").status_code}
        while waiting:
            path = waiting.pop()
            if path not in opened:
                answer = client.get(path)
                opened[path] = answer.status_code
                imports = re.findall(r'from "\./([a-z]+\.js)"', answer.text)
                waiting += [f"/console/{name}" for name in imports]
    print(json.dumps(found | {"page": page, "opened": opened}))


if __name__ == "__main__":
    main()
