# The image of every pod with GPUs, of the routers and of the head (configs/kuberay.yaml). One stage: torch brings its own CUDA,
# so no CUDA image is needed, only a driver 580 or newer on the host.
#
#   docker build -t ghcr.io/your-organisation/embedding-router:0.2.0 .
#
# With weights inside, for nodes that should not download them (commits as in the config; HF_HOME is then /opt/models):
#   docker build --build-arg MODELS="Qwen/Qwen3-Embedding-0.6B@97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3" ...
#
# requirements/gpu.lock was solved for this Python. The image has its headers, and gcc below: Triton compiles with both at start.
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ wget && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray && mkdir --mode 0777 /cache
COPY requirements/gpu.lock /tmp/gpu.lock
RUN pip install --no-cache-dir --no-deps -r /tmp/gpu.lock
COPY . /opt/embedding-router
RUN pip install --no-cache-dir --no-deps /opt/embedding-router \
    && test -f "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" && python -c "import deployments.app"
ARG MODELS=""
RUN for model in $MODELS; do HF_HOME=/opt/models hf download "${model%@*}" --revision "${model#*@}" || exit 1; done
# What a volume at /cache keeps: weights and what Triton, torch and vLLM compiled for this card.
ENV HF_HOME=/cache/huggingface VLLM_CACHE_ROOT=/cache/vllm TRITON_CACHE_DIR=/cache/triton \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ray
WORKDIR /opt/embedding-router
EXPOSE 8000
# For one machine: docker run --gpus all --shm-size 4g -p 127.0.0.1:8000:8000 IMAGE. Whoever reaches the port is answered.
CMD ["embedding-router", "run", "--config", "configs/qwen3-one-gpu.yaml", "--host", "0.0.0.0", "--auth", "none"]
