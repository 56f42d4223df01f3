"""RMSNorm on a CPU with vLLM's own kernel, which vLLM uses only if it compiles the model.

In eager mode the norm is eight passes over memory in float32: four tenths of a step of many tokens
(docs/performance.md). vLLM accepts other providers of its operations by name; this is one of them.
Inputs that the kernel does not take go to vLLM's own code. Importing this imports torch.
"""

import logging

import torch
from torch import Tensor

PROVIDER = "cpu_kernel"

log = logging.getLogger("ray.serve")


def fast_norms() -> dict[str, list[str]]:
    """Register the provider; returns vLLM's `ir_op_priority` that prefers it, empty if this vLLM
    does not support it.
    """
    try:
        from vllm.ir import ops
        from vllm.platforms import current_platform

        current_platform.import_kernels()
        known = PROVIDER in ops.rms_norm.impls
        norm, add_and_norm = torch.ops._C.rms_norm.default, torch.ops._C.fused_add_rms_norm.default
    except (ImportError, AttributeError) as error:
        log.warning("vLLM's kernels for RMSNorm cannot be used, its slower way is taken: %s", error)
        return {}

    def takes(
        x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> bool:
        return variance_size is None and weight is not None and weight.dtype == x.dtype

    def takes_both(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> bool:
        alike = takes(x, weight, epsilon, variance_size) and x_residual.dtype == x.dtype
        return alike and x.is_contiguous() and x_residual.is_contiguous()

    def rms_norm(
        x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> Tensor:
        x = x.contiguous()  # heads are views of a wider array
        output = torch.empty_like(x)
        norm(output, x, weight, epsilon)
        return output

    def fused_add_rms_norm(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        add_and_norm(x, x_residual, weight, epsilon)
        return x, x_residual

    if not known:
        ops.rms_norm.register_impl(PROVIDER, supports_args=takes)(rms_norm)
        ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=takes_both, inplace=True)(
            fused_add_rms_norm
        )
    return {"rms_norm": [PROVIDER], "fused_add_rms_norm": [PROVIDER]}
