"""Options of the optimization and its schedules, shared by all models."""

from __future__ import annotations

from dataclasses import dataclass

from scjepa._core.checks import NOT_NEGATIVE, POSITIVE, one_of, within
from scjepa._core.options import Config, option


@dataclass(frozen=True)
class TrainConfig(Config):
    """Optimization and its schedules (Appendix A); what ``train()`` uses where it is not told otherwise.

    Parameters
    ----------
    max_steps
        Optimizer steps; ``None``: ``max_epochs`` decides.
    max_epochs
        Epochs when ``max_steps`` is ``None`` or ``train(max_epochs=...)`` is called.
    batch_size
        Neighborhoods per step, of each device.
    batches
        ``"section"``: the neighborhoods of a batch come from one section, so that what is standardized over a batch
        is free of differences between sections. ``"mixed"``: from all.
    learning_rate, final_learning_rate
        Peak and end of the cosine.
    warmup
        Share of the steps in which the learning rate rises linearly to its peak.
    weight_decay, final_weight_decay
        Start and end of the weight-decay cosine; none on biases, norms and embeddings.
    ema_start, ema_end
        The target encoder's momentum, linear over the optimizer steps.
    clip
        Largest norm of the gradient; ``None`` for no clipping.
    precision
        Lightning's ``precision``. ``"bf16-mixed"`` falls back to 32 bits where the hardware has no bf16.
    validation_size
        Share of cells held out, as whole sections or spatial blocks; 0 for none.
    """

    max_steps: int | None = option(1500, POSITIVE)
    max_epochs: int | None = option(None, POSITIVE)
    batch_size: int = option(64, POSITIVE)
    batches: str = option("section", one_of("section", "mixed"))
    learning_rate: float = option(1e-3, POSITIVE)
    final_learning_rate: float = option(1e-6, NOT_NEGATIVE)
    warmup: float = option(0.1, within(0.0, 1.0))
    weight_decay: float = option(0.04, NOT_NEGATIVE)
    final_weight_decay: float = option(0.4, NOT_NEGATIVE)
    betas: tuple[float, float] = (0.9, 0.999)
    ema_start: float = option(0.99, within(0.0, 1.0))
    ema_end: float = option(1.0, within(0.0, 1.0))
    clip: float | None = option(2.0, POSITIVE)
    precision: str = "32-true"
    validation_size: float = option(0.1, within(0.0, 0.5))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("TrainConfig needs max_steps or max_epochs.")
