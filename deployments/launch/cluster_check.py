"""Check a file for `ray up`."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from deployments.serve_internals import RAY_IMAGE, ray_images, validate_cluster

FIND_IMAGE = (
    "aws ssm get-parameter --region REGION --query Parameter.Value --output text --name "
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
)


def cluster_problems(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `ray up` would refuse, or would ask the cloud for; no cloud is called here."""
    types = data["available_node_types"]
    for name, node in types.items() if isinstance(types, Mapping) else ():
        if not (isinstance(node, Mapping) and node.get("resources")):
            yield (
                f"available_node_types.{name}.resources: write them, accelerator_type:... too; "
                "otherwise ray up asks the cloud"
            )
        if isinstance(node, Mapping) and _on_aws(data):
            yield from _image(node, f"available_node_types.{name}.node_config")
    if not data.get("cluster_name"):
        yield "cluster_name: required"
    try:
        validate_cluster(copy.deepcopy(dict(data)))
    except ImportError as error:
        yield f"cannot be checked here: {error}; install jsonschema"
    except Exception as error:  # jsonschema's own, and any other from Ray's helpers
        yield str(getattr(error, "message", error)).splitlines()[0]


def _on_aws(data: Mapping[str, Any]) -> bool:
    provider = data.get("provider")
    return isinstance(provider, Mapping) and provider.get("type") == "aws"


def _image(node: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield a problem if the image cannot hold vLLM: none, Ray's default, or not an id."""
    config = node.get("node_config")
    image = config.get("ImageId") if isinstance(config, Mapping) else None
    if isinstance(config, Mapping) and image is None and "LaunchTemplate" in config:
        return  # the template names it
    if image is None:
        problem = "is missing, and Ray's default is Ubuntu 18.04, which cannot install vLLM"
    elif str(image).lower() in {RAY_IMAGE, *ray_images()}:
        problem = f"{image} is Ray's image of Ubuntu 18.04, which cannot install vLLM"
    elif re.fullmatch(r"ami-([0-9a-f]{8}|[0-9a-f]{17})", str(image)):
        return
    else:
        problem = f"{image!r} is no id of an image"
    yield f"{where}.ImageId: {problem}; write one of your region: {FIND_IMAGE}"
