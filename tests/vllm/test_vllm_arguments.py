"""The arguments for cards that docs/deploy.md names reach vLLM's own configuration."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.engines.vllm import vllm_config
from deployments.launch import vllm_source
from router import engine_config

pytestmark = pytest.mark.vllm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


def named() -> dict[str, Any]:
    part = PAGE.read_text().split("\n## Engine arguments for cards\n")[1]
    (block,) = re.findall(r"```yaml\n(.*?)```", part.split("\n## ")[0], re.DOTALL)
    args: dict[str, Any] = yaml.safe_load(block)["args"]
    return args


def test_nested_arguments_arrive(tiny_qwen3: Path) -> None:
    from vllm.engine.arg_utils import EngineArgs

    args = named()
    settings = engine_config.VllmEngineConfig(kind="vllm", source=str(tiny_qwen3), args=args)
    made = vllm_config(settings, 2048, None)
    assert made.kernel_config.enable_flashinfer_autotune is False
    assert made.attention_config.backend is not None
    assert made.attention_config.backend.name == args["attention_backend"]
    assert made.scheduler_config.max_num_seqs == args["max_num_seqs"]
    # a CPU has no graphs, so the size is read before vLLM fits it to this machine
    graphs = EngineArgs(model=str(tiny_qwen3), **args).compilation_config
    assert graphs.max_cudagraph_capture_size == 2048


def test_the_names_read_from_the_source_are_those_of_the_classes() -> None:
    from vllm import config
    from vllm.engine.arg_utils import EngineArgs

    assert vllm_source.arguments().keys() == {field.name for field in fields(EngineArgs)}
    checked = {vllm_source.config_class(types) for types in vllm_source.arguments().values()}
    assert {"PoolerConfig", "CompilationConfig", "KernelConfig", "AttentionConfig"} <= checked
    classes = vllm_source.config_classes()
    for name in checked & vars(config).keys():
        own = {field.name for field in fields(vars(config)[name]) if field.init}
        assert classes[name].keys() == own, name
