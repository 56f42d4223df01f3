"""Run ray.serve.llm as a user would tune it: `python -m benchmarks.ray_llm PORT NAME=FOLDER ...`.

With HAProxy and throughput mode, which it does not enable by default, one CPU bundle per model, and
vLLM's pooling runner.
"""

import sys
import threading
from pathlib import Path

from tests.support.tiny_qwen3 import quick_dtype


def main() -> None:
    """Serve the models until the process is stopped."""
    port, models = int(sys.argv[1]), dict(argument.split("=", 1) for argument in sys.argv[2:])
    import ray
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    # each model books 1.25
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    configs = [
        LLMConfig(
            model_loading_config={"model_id": name, "model_source": str(Path(folder))},
            engine_kwargs={
                "runner": "pooling",
                "enforce_eager": True,
                "dtype": quick_dtype(),
                "max_model_len": 4096,
            },
            placement_group_config={"bundles": [{"CPU": 0.25}]},
            deployment_config={"num_replicas": 1, "max_ongoing_requests": 1000},
            log_engine_metrics=False,
        )
        for name, folder in models.items()
    ]
    serve.run(build_openai_app({"llm_configs": configs}), blocking=False)
    threading.Event().wait()


if __name__ == "__main__":
    main()
