"""What a view of the model asks of attention: queries, keys and values of a layer in, one output out."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

View = Literal["ar", "diffusion"]
VIEWS: tuple[View, ...] = ("ar", "diffusion")


@dataclass(frozen=True)
class AttentionLayer:
    """What one layer's attention depends on beside queries, keys and values.

    Attributes:
        layer_idx: which layer.
        scaling: factor on the scores.
        sliding_window: cells up to its own position that a row sees; None: all. See `docs/backbones.md`.
        softcap: c in c * tanh(score / c), taken of scaled scores before the softmax; None: not taken.
    """

    layer_idx: int
    scaling: float
    sliding_window: int | None = None
    softcap: float | None = None


class Attend(Protocol):
    """Where the keys and values of a forward go, and what its queries see."""

    def __call__(self, layer: AttentionLayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with one layer's projections, after norm and rotary embedding.

        Args:
            layer: the layer.
            q: (B, H, N, Dh).
            k: (B, Hkv, N, Dh).
            v: (B, Hkv, N, Dh).
        Returns:
            (B, N, H, Dh).
        """
        ...


class BothViews(NamedTuple):
    """The attention of a forward whose first rows are the AR view's, its others the diffusion view's.

    In every layer the AR rows go first, so that the others find their keys and values written.

    Attributes:
        num_ar: rows of the AR view.
        ar: does the attention of those.
        diffusion: does that of the others.
    """

    num_ar: int
    ar: Attend
    diffusion: Attend
