"""The authors' implementation as a peer, one sequence at a time, from a checkout of their repository.

Two things are mended from outside so that it runs on a CPU with a recent transformers: `accept_positive_crop`
and `attend_like_flash`.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluate.peers.serving import main

SOURCE = Path("src", "model.py")  # in their repository, chiennv2000/orthrus
ATTENTION = "sdpa_last_rows"


class AuthorsPeer:
    """Their `OrthrusLM.generate` on a checkpoint with a head."""

    def __init__(self, options: Mapping[str, Any]):
        """Load.

        Args:
            options: model (directory), path (their checkout), dtype, threads.
        """
        import torch
        import transformers

        torch.set_num_threads(options["threads"])
        accept_positive_crop(transformers.DynamicCache)
        transformers.AttentionInterface.register(ATTENTION, attend_like_flash)
        fields = json.loads(Path(options["model"], "config.json").read_text(encoding="utf-8"))
        for key in ("model_type", "architectures"):
            fields.pop(key, None)
        module = load_source(Path(options["path"]))
        self.version = f"transformers {transformers.__version__}"
        self._model = module.OrthrusLM.from_pretrained(
            options["model"],
            config=transformers.Qwen3Config(**fields),
            dtype=getattr(torch, options["dtype"]),
            attn_implementation=ATTENTION,
            use_safetensors=True,
        ).eval()

    def reset(self) -> None:
        """Nothing outlives a call of their `generate`."""

    def complete(
        self, prompts: list[list[int]], *, in_flight: int, max_new_tokens: int, eos_ids: list[int]
    ) -> list[list[int]]:
        """Complete prompts one after the other, greedy; they know one EOS."""
        import torch

        if in_flight != 1 or len(eos_ids) > 1:
            raise ValueError(f"one sequence, at most one EOS; got {in_flight} sequences, EOS {eos_ids}")
        options = {"max_new_tokens": max_new_tokens, "eos_token_id": eos_ids[0] if eos_ids else None}
        outputs = []
        for prompt in prompts:
            ids = self._model.generate(torch.tensor([prompt]), use_diffusion_mode=True, **options)
            outputs.append(ids[0, len(prompt) :].tolist())
        return outputs


def load_source(path: Path) -> Any:
    """Import their model file from a checkout, or given itself."""
    file = path if path.is_file() else path / SOURCE
    spec = importlib.util.spec_from_file_location("orthrus_of_the_authors", file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"{path}: no {SOURCE} in there")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def accept_positive_crop(cache_class: Any) -> None:
    """Let `crop` take the length to keep, as their code calls it; transformers >= 5.2x takes none."""
    crop = cache_class.crop

    def crop_to(self: Any, length: int) -> None:
        surplus = self.get_seq_length() - length
        if length < 0 or surplus > 0:
            crop(self, length if length < 0 else -surplus)

    cache_class.crop = crop_to


def attend_like_flash(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    is_causal: bool | None = None,
    **options,
) -> Any:
    """Attend by SDPA with the query rows taken as the last ones of the keys.

    Their verify pass gives no mask and counts on flash attention, which does so. SDPA takes the rows as the
    first ones, so that a block would not see the text before it.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    rows, cells = query.shape[2], key.shape[2]
    causal = module.is_causal if is_causal is None else is_causal
    if attention_mask is None and causal:
        attention_mask = torch.ones(rows, cells, dtype=torch.bool).tril(cells - rows)[None, None]
    return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=False, **options)


if __name__ == "__main__":
    main(AuthorsPeer)
