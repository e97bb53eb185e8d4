"""Options of the optimization and its schedules, shared by all models."""

from __future__ import annotations

from dataclasses import dataclass

from scjepa._core.checks import one_of, positive, within
from scjepa._core.plain import take_plain


@dataclass(frozen=True)
class TrainConfig:
    """Optimization and its schedules (Appendix A); what ``train()`` uses where it is not told otherwise.

    Parameters
    ----------
    max_steps
        Optimizer steps; ``None``: ``max_epochs`` decides.
    max_epochs
        Epochs when ``max_steps`` is ``None`` or ``train(max_epochs=...)`` is called.
    batch_size
        Neighborhoods per step.
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

    max_steps: int | None = 1500
    max_epochs: int | None = None
    batch_size: int = 64
    batches: str = "section"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-6
    warmup: float = 0.1
    weight_decay: float = 0.04
    final_weight_decay: float = 0.4
    betas: tuple[float, float] = (0.9, 0.999)
    ema_start: float = 0.99
    ema_end: float = 1.0
    clip: float | None = 2.0
    precision: str = "32-true"
    validation_size: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        take_plain(self)
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("TrainConfig needs max_steps or max_epochs.")
        for name in ("max_steps", "max_epochs", "clip"):
            if getattr(self, name) is not None:
                positive(self, name)
        one_of(self, "batches", ("section", "mixed"))
        positive(self, "batch_size", "learning_rate")
        within(self, 0.0, 1.0, "warmup", "ema_start", "ema_end")
        within(self, 0.0, 0.5, "validation_size")
        if self.weight_decay < 0 or self.final_weight_decay < 0 or self.final_learning_rate < 0:
            raise ValueError("TrainConfig: weight decay and final learning rate must not be negative.")
