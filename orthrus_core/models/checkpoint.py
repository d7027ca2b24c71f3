"""What a checkpoint directory holds, read from its config and its tensor headers, without loading weights."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from orthrus_core.errors import CheckpointError
from orthrus_core.models.config import (
    DIFFUSION_SUFFIX,
    MIN_BLOCK_SIZE,
    MODEL_TYPE,
    PUBLISHED_BACKBONE,
    DualViewConfig,
    config_class,
)
from orthrus_core.models.quantised import refuse_quantised

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
IGNORED_SUFFIX = "rotary_emb.inv_freq"  # a constant that old checkpoints carry
TIED = {"lm_head.weight": "model.embed_tokens.weight"}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # endings of weights that run code when they are read
MAX_NAMED = 3
PLAIN_REPAIR = (
    "with decode.lookup_tokens > 0 it drafts by lookup, decode.mode: autoregressive never drafts (in Python "
    "load_model(..., needs_head=False)), and docs/training.md says how to train a head for it"
)

Shape = tuple[int, ...]


def load_config(path: str | Path, *, needs_head: bool = True) -> DualViewConfig:
    """Read config.json as a dual-view config and check its head.

    Args:
        path: local directory or hub id.
        needs_head: False: a plain backbone is fine too, and gets the smallest possible head, which drafts
            nothing (`has_head`).
    Raises:
        CheckpointError: config.json is missing or unreadable, of an unknown model type or of quantised
            weights, or its head cannot draft.
    """
    fields = _read_config(path)
    refuse_quantised(path, fields)
    plain = _is_plain(fields)
    if plain and needs_head:
        raise CheckpointError(
            f"{path}: config.json has neither block_size nor mask_token_id: this is a plain backbone without "
            f"a diffusion head; {PLAIN_REPAIR}"
        )
    if "block_size" not in fields and not plain:
        raise CheckpointError(
            f"{path}: config.block_size is missing: name the head's block size (published heads use 32)"
        )
    try:
        own_class = config_class(_backbone_type(fields))
        fields.pop("model_type", None)
        config = own_class(**fields)
        if plain:
            config.block_size, config.mask_token_id = MIN_BLOCK_SIZE, config.vocab_size - 1
            config.has_head = False
        config.check_head()
    except (CheckpointError, StrictDataclassError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {one_line(error)}") from error
    return config


def _backbone_type(fields: Mapping) -> str:
    """Return the backbone's own `model_type`: published checkpoints say that, or nothing but `orthrus`."""
    model_type = fields.get("model_type", MODEL_TYPE)
    backbone_type = fields.get(
        "backbone_type", PUBLISHED_BACKBONE if model_type == MODEL_TYPE else model_type
    )
    if model_type not in (MODEL_TYPE, backbone_type):
        raise CheckpointError(
            f"config.model_type must be {MODEL_TYPE} or the backbone's type {backbone_type}, got {model_type}"
        )
    return backbone_type


def is_plain_backbone(path: str | Path) -> bool:
    """Tell whether config.json describes a model without a diffusion head."""
    return _is_plain(_read_config(path))


def _is_plain(fields: Mapping) -> bool:
    return "block_size" not in fields and "mask_token_id" not in fields


def _read_config(path: str | Path) -> dict:
    if Path(path).is_dir() and not (Path(path) / CONFIG_FILE).is_file():
        raise CheckpointError(f"{path}: has no {CONFIG_FILE}; name a checkpoint directory")
    try:
        fields, _ = PreTrainedConfig.get_config_dict(str(path))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot read {CONFIG_FILE}: {one_line(error)}") from error
    if not fields:
        raise CheckpointError(f"{path}: {CONFIG_FILE} is empty; download or save the checkpoint again")
    return fields


def read_shapes(directory: str | Path) -> dict[str, Shape]:
    """Return the shape of every tensor in a directory's safetensors, read from the file headers.

    Raises:
        CheckpointError: no safetensors there, or a file that is missing, cut short or no safetensors.
    """
    shapes: dict[str, Shape] = {}
    for file in weight_files(Path(directory)):
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except FileNotFoundError as error:
            raise CheckpointError(f"{file}: is missing; download or save the checkpoint again") from error
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{file}: is no readable safetensors file ({one_line(error)}); "
                "download or save the checkpoint again"
            ) from error
    return shapes


def weight_files(directory: Path) -> list[Path]:
    """Return the files that transformers would load."""
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    index = directory / INDEX_FILE
    if not index.is_file():
        refuse_pickle(directory, [file.name for file in directory.iterdir()])
        raise CheckpointError(f"{directory}: has no weights, neither {WEIGHTS_FILE} nor {INDEX_FILE}")
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: is no safetensors index ({one_line(error)})") from error
    return [directory / name for name in sorted(names)]


def refuse_pickle(path: str | Path, names: Iterable[str]) -> None:
    """Refuse a checkpoint whose weights are pickles only: whoever wrote one runs code where it is read.

    Args:
        path: named in the error.
        names: of its files.
    Raises:
        CheckpointError: no safetensors among them, but pickles.
    """
    names = sorted(names)
    pickled = [name for name in names if name.endswith(PICKLED)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise CheckpointError(
            f"{path}: has its weights as pickles ({_first_few(pickled)}), which run code when they are read; "
            "only safetensors are loaded: convert it once where that does no harm (docs/security.md)"
        )


def check_directory(path: str | Path, skeleton: "PreTrainedModel") -> None:
    """Refuse a directory whose safetensors are not exactly the tensors of a model.

    Args:
        path: local directory.
        skeleton: the model that its config describes, on any device; its weights do not matter.
    Raises:
        CheckpointError: no readable safetensors, or tensors that are missing, surplus or of the wrong shape.
    """
    check_shapes(
        path,
        read_shapes(path),
        {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()},
        tied=TIED if skeleton.config.tie_word_embeddings else {},
    )


def check_shapes(
    path: str | Path, found: Mapping[str, Shape], expected: Mapping[str, Shape], *, tied: Mapping[str, str]
) -> None:
    """Refuse a checkpoint whose tensors are not exactly those of the model.

    Args:
        path: named in the error.
        found: shapes in the checkpoint.
        expected: shapes in the model, tied tensors included.
        tied: tensor names that are one tensor in the model; the checkpoint needs one of each pair.
    Raises:
        CheckpointError: naming the first few tensors and the repair.
    """
    names = {name for name in found if not name.endswith(IGNORED_SUFFIX)}
    for pair in tied.items():
        if names.intersection(pair):
            names |= set(pair)
    refuse_tensors(
        path,
        missing=expected.keys() - names,
        surplus=names - expected.keys(),
        misshaped={
            f"{name} {list(found[name])} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name] != shape
        },
    )


def refuse_tensors(
    path: str | Path, *, missing: Iterable[str], surplus: Iterable[str], misshaped: Iterable[str]
) -> None:
    """Raise if any tensor is missing, surplus or of the wrong shape.

    Raises:
        CheckpointError: naming the first few of each kind and the repair.
    """
    missing = sorted(missing)
    problems = {"missing": missing, "surplus": sorted(surplus), "wrongly shaped": sorted(misshaped)}
    found = [f"{len(names)} {what} ({_first_few(names)})" for what, names in problems.items() if names]
    if not found:
        return
    if len(missing) > 1 and all(DIFFUSION_SUFFIX in name for name in missing) and len(found) == 1:
        repair = f"download it again; or, if it is a plain backbone, {PLAIN_REPAIR}"
    else:
        repair = "config.json and weights do not belong together: download or save the checkpoint again"
    raise CheckpointError(f"{path}: tensors do not fit the model: {', '.join(found)}; {repair}")


def one_line(error: Exception) -> str:
    """Return an error's message without line breaks, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _first_few(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
