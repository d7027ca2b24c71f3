"""Quantised checkpoints: only floating-point weights are run, and that is said before any are loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orthrus_core.errors import CheckpointError

QUANTISED_FIELDS = ("quantization_config", "compression_config", "quantization")
# beside a config.json that does not tell; written by AutoGPTQ, AutoAWQ and ModelOpt
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
DTYPES = ("float64", "float32", "bfloat16", "float16")


def refuse_quantised(path: str | Path, fields: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose weights are no plain floating-point numbers.

    Args:
        path: of the checkpoint.
        fields: of its config.json.
    Raises:
        CheckpointError: naming how it says so, and what to take instead.
    """
    if (found := _sign_of(Path(path), fields)) is not None:
        raise CheckpointError(
            f"{path}: its weights are quantised ({found}), and only float32, bfloat16 and float16 ones are "
            "run: take the checkpoint that it was made from"
        )


def _sign_of(path: Path, fields: Mapping[str, Any]) -> str | None:
    for name in QUANTISED_FIELDS:
        if value := fields.get(name):
            method = value.get("quant_method") if isinstance(value, Mapping) else value
            return f"config.{name}: {method}" if method else f"config.{name}"
    dtype = fields.get("dtype") or fields.get("torch_dtype")
    if isinstance(dtype, str) and dtype not in DTYPES:
        return f"config.dtype: {dtype}"
    return next((name for name in QUANTISED_FILES if (path / name).is_file()), None)
