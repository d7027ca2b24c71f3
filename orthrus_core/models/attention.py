"""Attention with two sets of projections over one cache: the AR view and the diffusion view."""

import copy
from typing import Literal, Protocol

from torch import Tensor, nn
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, apply_rotary_pos_emb

View = Literal["ar", "diffusion"]
VIEW_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")
DIFFUSION_SUFFIX = "_diff"


class Attend(Protocol):
    """Where the keys and values of a forward go, and what its queries see."""

    def __call__(self, layer: "DualViewAttention", q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with one layer's projections, after norm and rotary embedding.

        Args:
            layer: the attention module; `layer_idx`, `scaling` and `sliding_window` are read from it.
            q: (B, H, N, Dh).
            k: (B, Hkv, N, Dh).
            v: (B, Hkv, N, Dh).
        Returns:
            (B, N, H, Dh).
        """
        ...


class DualViewAttention(Qwen3Attention):
    """Qwen3 attention whose projections exist twice, the second set under `*_diff` names.

    Both views share everything else of the layer. `add_diffusion_head` and checkpoints set the weights.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        for name in VIEW_MODULES:
            self.add_module(name + DIFFUSION_SUFFIX, copy.deepcopy(getattr(self, name)))

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values=None,
        *,
        view: View = "ar",
        attend: Attend | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """Project with one view's weights and attend.

        Args:
            hidden_states: (B, N, D).
            position_embeddings: cosine and sine, (B, N, Dh) each.
            view: which projections to use.
            attend: receives q, k, v and returns (B, N, H, Dh). None: transformers' own causal attention over
                `past_key_values`, which only the AR view can use.
        Returns:
            (B, N, D), and the attention weights where transformers' attention returns them.
        """
        if attend is None:
            if view != "ar":
                raise ValueError("the diffusion view needs `attend`: it has no cache of its own")
            return super().forward(
                hidden_states, position_embeddings, attention_mask, past_key_values, **kwargs
            )
        q, k, v = self._project(hidden_states, position_embeddings, view)
        out = attend(self, q, k, v)
        return self._module("o_proj", view)(out.flatten(-2)), None

    def _module(self, name: str, view: View) -> nn.Module:
        return getattr(self, name if view == "ar" else name + DIFFUSION_SUFFIX)

    def _project(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], view: View
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return q (B, H, N, Dh), k and v (B, Hkv, N, Dh) of one view, normed and rotated."""
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q, k, v = (self._module(f"{name}_proj", view)(hidden_states).view(heads) for name in "qkv")
        q = self._module("q_norm", view)(q).transpose(1, 2)
        k = self._module("k_norm", view)(k).transpose(1, 2)
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        return q, k, v.transpose(1, 2)
