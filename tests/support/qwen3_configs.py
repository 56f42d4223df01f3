"""Qwen3's configs for this machine: only sources, resources and scaling are replaced."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.launched import ROOT
from tests.support.tiny_qwen3 import quick_dtype

# the curves are a GPU's: a slow CPU is at one step for longer than they let an engine say nothing
PATIENCE_S = 150.0


def tiny_config(
    checkpoints: Mapping[str, Path], name: str = "qwen3.yaml", cache_mib: int = 512
) -> dict[str, Any]:
    """configs/NAME with these checkpoints as sources and tokenizers; other models and rerankers use
    the fake engine.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    application = config["applications"][0]
    args = application["args"]
    for id, model in (args["models"] | args["rerankers"]).items():
        model.pop("fingerprint", None)  # random weights are on no card
        model.pop("revision", None)
        model["health_timeout_s"] = PATIENCE_S
        if id not in checkpoints:
            model["engine"], model["tokenizer"] = {"kind": "fake"}, None
            continue
        model["engine"]["source"] = model["tokenizer"] = str(checkpoints[id])
        model["engine"]["args"].pop("gpu_memory_utilization", None)
        model["engine"]["args"]["kv_cache_memory_bytes"] = cache_mib * 1024 * 1024
        model["engine"]["args"]["dtype"] = quick_dtype()
    for deployment in application["deployments"]:
        deployment["ray_actor_options"] = {"num_cpus": 0.1}
        # Serve's, which has to wait for ours
        deployment["health_check_timeout_s"] = PATIENCE_S + 10
        deployment["autoscaling_config"] = {"min_replicas": 1, "max_replicas": 1}
    return config
