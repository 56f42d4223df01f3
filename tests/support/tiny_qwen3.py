"""Write small Qwen3-Embedding checkpoints with random weights: the real architecture, tokenizer and
vocabulary, few layers.

They run the code path of the real models (8 key-value heads of 128, tied bf16 embeddings,
last-token pooling) at the real widths without a download. Their vectors mean nothing, but every
token of a text moves them: projections keep the scale of what they carry, while embeddings are
small beside it, so that the last token's own does not drown the rest.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from tests.support.qwen_tokenizer import (
    END_OF_TEXT_ID,
    write_byte_tokenizer,
    write_qwen_tokenizer,
)

VOCABULARY = 151669
INTERMEDIATE = 512
KEY_VALUE_HEADS = 8
HEAD = 128


@cache
def quick_dtype() -> Literal["bfloat16", "float32"]:
    """bfloat16 if this processor multiplies it, else float32, which is then much faster."""
    import torch

    able = torch.cpu.get_capabilities()
    return (
        "bfloat16"
        if able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16")
        else "float32"
    )


def write_tiny_qwen3(
    folder: Path,
    hidden: int = 1024,
    layers: int = 1,
    max_tokens: int = 4096,
    seed: int = 0,
    heads: int | None = None,
    reads_bytes: bool = False,
) -> Path:
    """Write a checkpoint as the hub has it and return `folder`; one that is there already is kept.

    Args:
        folder: made if it is not there. hidden: width of the vectors: 1024, 2560 and 4096 are those
        of the 0.6B, 4B and 8B. The embedding table takes
            2 * 151,669 * hidden bytes on disk and in memory: 0.3, 0.8 and 1.2 GB.
        layers: transformer blocks, 512 wide between their projections. max_tokens: the longest
        text, max_position_embeddings. seed: of the weights. heads: attention heads, with half as
        many for keys and values; the real model's where not given. Two make a block so
            cheap that a CPU spends as little on a text as a GPU does on the real model: for
            measuring what is around it. reads_bytes: a token is a byte, so that nothing large is
            loaded.
    """
    vocabulary = write_byte_tokenizer(folder) if reads_bytes else VOCABULARY
    if not reads_bytes:
        write_qwen_tokenizer(folder)
    if (folder / "model.safetensors").exists():
        return folder
    key_value_heads = KEY_VALUE_HEADS if heads is None else heads // 2
    heads = heads or (16 if hidden <= 1024 else 32)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, content in {
        "config.json": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": INTERMEDIATE,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "head_dim": HEAD,
            "hidden_act": "silu",
            "max_position_embeddings": max_tokens,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000,
            "rope_scaling": None,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
            "bos_token_id": vocabulary - 1 if reads_bytes else END_OF_TEXT_ID,
            "eos_token_id": vocabulary - 1 if reads_bytes else END_OF_TEXT_ID,
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.models.Pooling",
            },
            {
                "idx": 2,
                "name": "2",
                "path": "2_Normalize",
                "type": "sentence_transformers.models.Normalize",
            },
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": hidden,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": False,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": True,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "prompts": {
                "query": "Instruct: Given a web search query, retrieve relevant passages that "
                "answer the query\nQuery:",
                "document": "",
            },
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }.items():
        (folder / name).write_text(json.dumps(content, indent=2))
    _write_weights(folder, (vocabulary, hidden), (heads, key_value_heads), layers, seed)
    return folder


def write_checkpoints(folder: Path, widths: Mapping[str, int], max_tokens: int) -> dict[str, Path]:
    """Write a checkpoint of each width into a folder of its name; return the folders."""
    return {
        name: write_tiny_qwen3(folder / name, hidden=width, max_tokens=max_tokens)
        for name, width in widths.items()
    }


def _write_weights(
    folder: Path, table: tuple[int, int], head_counts: tuple[int, int], layers: int, seed: int
) -> None:
    import torch
    from safetensors.torch import save_file

    (vocabulary, hidden), (heads, key_value_heads) = table, head_counts
    generator = torch.Generator().manual_seed(seed)

    def uniform(rows: int, columns: int, deviation: float) -> torch.Tensor:
        reach = deviation * 3**0.5
        return torch.empty(rows, columns, dtype=torch.bfloat16).uniform_(
            -reach, reach, generator=generator
        )

    def projection(rows: int, columns: int) -> torch.Tensor:
        return uniform(rows, columns, columns**-0.5)

    def ones(size: int) -> torch.Tensor:
        return torch.ones(size, dtype=torch.bfloat16)

    weights = {
        "embed_tokens.weight": uniform(vocabulary, hidden, 0.02),
        "norm.weight": ones(hidden),
    }
    for layer in range(layers):
        block = {
            "input_layernorm.weight": ones(hidden),
            "self_attn.q_proj.weight": projection(heads * HEAD, hidden),
            "self_attn.k_proj.weight": projection(key_value_heads * HEAD, hidden),
            "self_attn.v_proj.weight": projection(key_value_heads * HEAD, hidden),
            "self_attn.o_proj.weight": projection(hidden, heads * HEAD),
            "self_attn.q_norm.weight": ones(HEAD),
            "self_attn.k_norm.weight": ones(HEAD),
            "post_attention_layernorm.weight": ones(hidden),
            "mlp.gate_proj.weight": projection(INTERMEDIATE, hidden),
            "mlp.up_proj.weight": projection(INTERMEDIATE, hidden),
            "mlp.down_proj.weight": projection(hidden, INTERMEDIATE),
        }
        weights |= {f"layers.{layer}.{name}": weight for name, weight in block.items()}
    # Written aside and renamed, as the file's presence says that the checkpoint is whole.
    save_file(weights, folder / "model.safetensors.part", metadata={"format": "pt"})
    (folder / "model.safetensors.part").rename(folder / "model.safetensors")
