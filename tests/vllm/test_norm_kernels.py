"""RMSNorm by vLLM's own kernel gives what vLLM's other way gives, takes only what it can, and is
what an engine here uses.
"""

from pathlib import Path

import pytest
import torch

from deployments.engines.vllm import vllm_config
from router import engine_config

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def names() -> dict[str, list[str]]:
    from deployments.engines.vllm_kernels import fast_norms

    return fast_norms()


@pytest.mark.parametrize("shape", [(1, 1024), (12, 1024), (2000, 1024), (7, 2, 128), (3, 4096)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_kernel_gives_what_vllms_own_way_gives(
    names: dict[str, list[str]], shape: tuple[int, ...], dtype: str
) -> None:
    from vllm.ir import ops

    torch.manual_seed(0)
    (provider,) = names["rms_norm"]
    x, residual, weight = (
        torch.randn(one, dtype=getattr(torch, dtype)) for one in (shape, shape, shape[-1:])
    )
    close = {"rtol": 2**-6, "atol": 2**-6} if dtype == "bfloat16" else {"rtol": 1e-5, "atol": 1e-5}
    one, other = (
        ops.rms_norm.impls[each].impl_fn(x, weight, 1e-6) for each in (provider, "native")
    )
    torch.testing.assert_close(one, other, **close)
    both, others = (
        ops.fused_add_rms_norm.impls[each].impl_fn(x.clone(), residual.clone(), weight, 1e-6)
        for each in (provider, "native")
    )
    for mine, theirs in zip(both, others, strict=True):
        torch.testing.assert_close(mine, theirs, **close)


def test_heads_that_are_views_of_a_wider_array_are_normed_alone(
    names: dict[str, list[str]],
) -> None:
    from vllm.ir import ops

    (provider,) = names["rms_norm"]
    heads = torch.randn(9, 512).split([256, 128, 128], dim=-1)[0].view(9, 2, 128)
    assert not heads.is_contiguous()
    weight = torch.randn(128)
    torch.testing.assert_close(
        ops.rms_norm.impls[provider].impl_fn(heads, weight, 1e-6),
        ops.rms_norm.impls["native"].impl_fn(heads, weight, 1e-6),
    )


def test_what_the_kernel_does_not_take_goes_vllms_own_way(names: dict[str, list[str]]) -> None:
    from vllm.ir import ops

    (provider,) = names["rms_norm"]
    norm, add = ops.rms_norm.impls[provider], ops.fused_add_rms_norm.impls[provider]
    x, weight = torch.randn(4, 64), torch.randn(64)
    assert norm.supports_args(x, weight, 1e-6)
    assert not norm.supports_args(x, None, 1e-6)
    assert not norm.supports_args(x, weight.bfloat16(), 1e-6)
    assert not norm.supports_args(x, weight, 1e-6, 32)
    assert add.supports_args(x, x.clone(), weight, 1e-6)
    assert not add.supports_args(x, x.bfloat16(), weight, 1e-6)
    assert not add.supports_args(x, torch.randn(64, 4).t(), weight, 1e-6)


def test_an_engine_on_a_cpu_prefers_the_kernel(
    tiny_qwen3: Path, names: dict[str, list[str]]
) -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("there are other kernels on a GPU")
    made = vllm_config(
        engine_config.VllmEngineConfig(kind="vllm", source=str(tiny_qwen3)), 2048, None
    )
    assert made.kernel_config.ir_op_priority.rms_norm == [*names["rms_norm"], "native"]
    assert made.kernel_config.ir_op_priority.fused_add_rms_norm == [
        *names["fused_add_rms_norm"],
        "native",
    ]
    assert not made.cache_config.enable_prefix_caching
