"""What an engine on vLLM is given where its config says nothing."""

import pytest

from deployments.engines.vllm import engine_defaults
from router.engine_config import VllmEngineConfig


def defaults(on_cpu: bool, in_process: bool = True, **args: int) -> dict[str, object]:
    settings = VllmEngineConfig(kind="vllm", source="x/y", in_process=in_process, args=args)
    return engine_defaults(settings, 512, on_cpu)


def test_a_device_gets_its_next_step_while_one_runs_and_compiled_models() -> None:
    assert defaults(on_cpu=False) == {
        "max_model_len": 512,
        "enforce_eager": False,
        "use_tqdm_on_load": False,
        "async_scheduling": True,
    }


@pytest.mark.parametrize(("on_cpu", "in_process"), [(True, True), (False, False), (True, False)])
def test_elsewhere_vllm_schedules_as_it_does_by_itself(on_cpu: bool, in_process: bool) -> None:
    found = defaults(on_cpu, in_process)
    assert "async_scheduling" not in found
    assert found["enforce_eager"] is on_cpu


def test_several_cards_of_one_replica_are_driven_by_processes() -> None:
    wide = defaults(on_cpu=False, in_process=False, tensor_parallel_size=2)
    assert wide["distributed_executor_backend"] == "mp"
