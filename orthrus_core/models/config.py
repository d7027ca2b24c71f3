"""Configuration of a dual-view model: a Qwen3 backbone plus the shape of its diffusion head."""

from transformers import Qwen3Config

from orthrus_core.errors import CheckpointError

MIN_BLOCK_SIZE = 2


class OrthrusConfig(Qwen3Config):
    """Qwen3's configuration with the two fields of the diffusion head.

    Attributes:
        block_size: K, the largest number of tokens drafted in one step (anchor and masks together).
        mask_token_id: vocabulary id of the token that stands in a block for what is to be drafted.
    """

    model_type = "orthrus"

    block_size: int = 32
    mask_token_id: int | None = None

    def check_head(self) -> None:
        """Refuse a head that cannot draft.

        Raises:
            CheckpointError: `mask_token_id` is missing or outside the vocabulary, or `block_size` < 2.
        """
        if self.mask_token_id is None:
            raise CheckpointError(
                "config.mask_token_id is missing: name the id of the mask token (published heads use 151669)"
            )
        for name in ("mask_token_id", "block_size"):
            value = getattr(self, name)
            if type(value) is not int:
                raise CheckpointError(f"config.{name} must be an integer, got {value!r}")
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise CheckpointError(
                f"config.mask_token_id must be inside the vocabulary of {self.vocab_size} entries, "
                f"got {self.mask_token_id}"
            )
        if self.block_size < MIN_BLOCK_SIZE:
            raise CheckpointError(f"config.block_size must be >= {MIN_BLOCK_SIZE}, got {self.block_size}")
