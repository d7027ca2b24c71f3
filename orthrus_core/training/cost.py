"""What one training step of a head costs: floating-point operations, counted by formula.

    AR pass         2 T P + 4 S C
    diffusion pass  2 U P + 4 S X
    its backward    2 U P - 2 U F + 2 U Q + 4 S X + 4 S Y
    loss            2 R V D (student) + 2 R V D (teacher, for KL) + 2 R V D (gradient)

T tokens of the text, padding included; U slots, R of them trained; P matrix parameters of all decoder layers,
Q of them those of the head, F the first layer's query, key and value matrices; S = H Dh L. C, X, Y are pairs
of a query and a key: of the text, of the slots with text and own block, of the slots with their own block.

A product of (m, k) and (k, n) counts 2 m k n. The backward makes the gradient of every product's input (not
of the first layer's projections, whose input is frozen), and weight gradients of the head alone. The recorded
keys and values of the text get no gradient, so a pair of slot and text counts half of what a pair of two
slots does. Not counted: all that is no matrix product, and what a kernel computes again; layers computed
again count as `recomputed`, apart.
"""

from dataclasses import dataclass

from orthrus_core.models.cost import ModelShape


@dataclass(frozen=True)
class StepSize:
    """What a step runs, summed over the packed rows of its batch.

    Attributes:
        tokens: T. slots: U. trained_slots: R.
        text_pairs: C. slot_pairs: X. own_pairs: Y, at most X.
    """

    tokens: int
    slots: int
    trained_slots: int
    text_pairs: int
    slot_pairs: int
    own_pairs: int


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of one step by part; `total` is what the step needs at least."""

    ar_forward: int
    forward: int
    backward: int
    loss: int
    recomputed: int

    @property
    def total(self) -> int:
        """Without what is computed a second time to save memory."""
        return self.ar_forward + self.forward + self.backward + self.loss


def step_flops(shape: ModelShape, size: StepSize, *, is_kl: bool = True) -> StepFlops:
    """Count a step of `HeadObjective`: loss and backward, without the optimiser."""
    D, Dh, L = shape.hidden_size, shape.head_dim, shape.num_layers
    head = 2 * D * Dh * (shape.num_heads + shape.num_kv_heads) * L
    matrices = head + 3 * D * shape.intermediate_size * L
    first = D * Dh * (shape.num_heads + 2 * shape.num_kv_heads)
    per_pair = shape.num_heads * Dh * L
    forward = 2 * size.slots * matrices + 4 * per_pair * size.slot_pairs
    return StepFlops(
        ar_forward=2 * size.tokens * matrices + 4 * per_pair * size.text_pairs,
        forward=forward,
        backward=2 * size.slots * (matrices - first + head)
        + 4 * per_pair * (size.slot_pairs + size.own_pairs),
        loss=2 * (3 if is_kl else 2) * size.trained_slots * shape.vocab_size * D,
        recomputed=forward,
    )
