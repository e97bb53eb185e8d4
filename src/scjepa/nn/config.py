"""Options that the encoders of all models have."""

from __future__ import annotations

from dataclasses import dataclass

from scjepa._core.checks import POSITIVE, within
from scjepa._core.options import Config, option


@dataclass(frozen=True)
class TransformerConfig(Config):
    """Token embedding and pre-norm transformer.

    Parameters
    ----------
    width
        Embedding width D, also ``n_latent``.
    n_layers, n_heads, mlp_ratio, dropout
        Blocks; ``width / n_heads`` of 16 or more is fastest on CPU.
    value
        How gene and value combine, a name in :data:`scjepa.nn.VALUE_ENCODERS`.
    gene_std
        Standard deviation of the gene embedding at initialization.
    attention
        Attention back-end, a name in :data:`scjepa.nn.ATTENTION_BACKENDS`, or ``"auto"`` (a fixed rule of device
        and shape).
    """

    width: int = option(128, POSITIVE)
    n_layers: int = option(3, POSITIVE)
    n_heads: int = option(4, POSITIVE)
    mlp_ratio: float = option(4.0, POSITIVE)
    dropout: float = option(0.0, within(0.0, 1.0))
    value: str = "bound"
    gene_std: float = option(1.0, POSITIVE)
    attention: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.n_heads:
            raise ValueError(
                f"{type(self).__name__}.width ({self.width}) must be a multiple of n_heads ({self.n_heads}); "
                f"try n_heads={max(h for h in range(1, self.n_heads) if self.width % h == 0)}."
            )
