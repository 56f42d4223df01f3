"""A good Serve config file, or one with a place changed."""

import copy
from pathlib import Path
from typing import Any

import yaml

from tests.support.config import ARGS, put


def serve_file(folder: Path, place: str | None = None, value: Any = None) -> Path:
    """A good file, or one with a place changed; `app` stands for the application, `args` for its
    args.
    """
    router: dict[str, Any] = {"name": "router"}
    large = {
        "name": "large",
        "autoscaling_config": {"max_replicas": 2},
        "ray_actor_options": {"num_gpus": 1},
    }
    app = {
        "name": "embed",
        "import_path": "deployments.app:build",
        "args": copy.deepcopy(ARGS),
        "deployments": [router, large],
    }
    data: dict[str, Any] = {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [app],
    }
    if place is not None:
        put(
            {"app": app, "args": app["args"], "router": router, "large": large, "file": data},
            place,
            value,
        )
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


APP = "applications[0]"
ROUTER, LARGE = f"{APP}.deployments[0]", f"{APP}.deployments[1]"
