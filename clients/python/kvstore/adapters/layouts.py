# SPDX-License-Identifier: Apache-2.0
"""Fields of layout descriptions that say where each value of a chunk stands, for the codec.

docs/container-format.md, section 3, explains them. What is not known for sure is left out: a chunk
without them is packed as opaque bytes, one with wrong ones is compressed badly. Needs no engine.
"""
from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Union

Fields = dict[str, Union[str, int, float]]

# What torch calls the types that the codec knows.
_DTYPES = {
    "float16": "float16", "half": "float16", "bfloat16": "bfloat16", "float32": "float32",
    "float": "float32", "float8_e4m3fn": "float8_e4m3", "float8_e5m2": "float8_e5m2",
}  # fmt: skip

# Models of which every layer turns K the same way, channel i with channel i + rope_dim / 2.
_HALF_PAIRED = frozenset((
    "gemma", "gemma2", "llama", "mistral", "mixtral", "olmo", "olmo2", "phi3", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "starcoder2",
))  # fmt: skip


def lmcache_fields(
    memory_format: str, shape: Sequence[int], dtype: str, head_count: int, lead_byte_count: int = 0
) -> Fields:
    """Fields of a value of LMCache, from its format, shape, torch dtype and heads; {} where the
    codec has no words for it."""
    name = _DTYPES.get(dtype.removeprefix("torch."))
    if name is None or head_count < 1 or not shape or shape[-1] % head_count != 0:
        return {}
    if memory_format == "KV_2LTD" and len(shape) == 4 and shape[0] == 2:
        axes, layer_count = "kv,layer,token,head,channel", shape[1]
    elif memory_format == "KV_MLA_FMT" and len(shape) == 4 and shape[0] == 1 and head_count == 1:
        axes, layer_count = "layer,token,channel", shape[1]
    elif memory_format == "KV_T2D" and len(shape) == 3 and shape[1] == 2:
        axes, layer_count = "layer,token,kv,head,channel", 1
    else:
        return {}
    fields: Fields = {
        "axes": axes, "dtype": name, "layers": layer_count, "kv_heads": head_count,
        "head_dim": shape[-1] // head_count,
    }  # fmt: skip
    if lead_byte_count:
        fields["lead_bytes"] = lead_byte_count
    return fields


def model_configuration(model_name: str) -> Mapping[str, Any]:
    """`config.json` of a model that lies in a folder of this name or in Hugging Face's cache; {}
    where it does not. Reads no network."""
    path = Path(model_name, "config.json")
    try:
        if not path.is_file():
            from huggingface_hub import try_to_load_from_cache  # optional, and only here

            path = Path(str(try_to_load_from_cache(model_name, "config.json")))
        found = json.loads(path.read_text())
    except (ImportError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def rope_fields(configuration: Mapping[str, Any], head_dim: int) -> Fields:
    """How K is turned, from a Hugging Face configuration; {} where that does not tell, or layers
    differ."""
    parameters = configuration.get("rope_parameters") or {}
    theta = configuration.get("rope_theta", parameters.get("rope_theta"))
    if configuration.get("model_type") not in _HALF_PAIRED or not isinstance(theta, (int, float)):
        return {}
    scaling = configuration.get("rope_scaling") or parameters
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    part = configuration.get("partial_rotary_factor", parameters.get("partial_rotary_factor", 1.0))
    turning = int(head_dim * part)
    if not 2 <= turning <= head_dim or turning % 2 != 0:
        return {}
    fields: Fields = {"rope_theta": float(theta), "rope_pairing": "half"}
    if turning != head_dim:
        fields["rope_dim"] = turning
    if kind != "default":
        fields["rope_scaling"] = kind
    return fields
