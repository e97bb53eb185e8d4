"""Every option of Cell-JEPA in frozen dataclasses, validated once, and the presets that bundle them.

The same style, and the same overriding, as :mod:`scjepa.stjepa.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scjepa._core.checks import one_of, positive, within
from scjepa._core.idle import IDLE_OF_CELLS, warn_of_idle
from scjepa._core.options import override, unknown_name
from scjepa._core.plain import take_plain
from scjepa.training.config import TrainConfig


@dataclass(frozen=True)
class CellTokenConfig:
    """How a cell's counts become tokens.

    Parameters
    ----------
    n_tokens
        Expressed genes of a cell at most. Training draws them uniformly, anew each time a cell is seen.
    n_embedded
        Expressed genes of a cell at most where nothing is drawn, when embedding. ``None``: ``n_tokens``.
    n_bins
        Values are quantile bins of the cell's own non-zero counts: 0 is zero, 1 to ``n_bins - 1`` are the bins.
    kept
        Which genes of a cell with more than ``n_tokens`` are kept where nothing is drawn, when embedding: ``"top"``,
        those of the highest (-count, vocabulary id); ``"spread"``, those that come first in a fixed pseudo-random order
        of the vocabulary, as if drawn once for all cells.
    unit
        What a token is: ``"gene"``, or ``"module"``, a gene programme with the genes the cell expresses of it (preset
        ``"modules"``).
    """

    n_tokens: int = 600
    n_bins: int = 51
    kept: str = "top"
    unit: str = "gene"
    n_embedded: int | None = None

    def __post_init__(self) -> None:
        take_plain(self)
        positive(self, "n_tokens")
        if self.n_embedded is not None:
            positive(self, "n_embedded")
        one_of(self, "unit", ("gene", "module"))
        one_of(self, "kept", ("top", "spread"))
        if not 2 <= self.n_bins <= 2**16:
            raise ValueError(f"CellTokenConfig.n_bins must lie in [2, 65536], found {self.n_bins!r}.")


@dataclass(frozen=True)
class CellEncoderConfig:
    """The token embedding and the transformer.

    Parameters
    ----------
    width
        Embedding width D, also ``n_latent``.
    n_layers, n_heads, mlp_ratio, dropout
        Pre-norm transformer blocks; the paper's hidden width of 512 at D = 512 is an ``mlp_ratio`` of 1.
    value
        How gene and value combine, a name in :data:`scjepa.nn.VALUE_ENCODERS`: ``"mlp"`` is the paper's sum of gene
        identity and value MLP.
    gene_std
        Standard deviation of the gene embedding at initialization. The first layer norm takes its size away, so it says
        how fast gene vectors turn at a given learning rate: small ones fast.
    cls
        What ``<cls>`` begins as: ``"learned"``, a vector that all cells share (the paper's), or ``"mean"``, that vector
        plus the mean of the cell's visible tokens, brought to unit variance. Attention sees normed tokens alone, so
        with the first a ``<cls>`` cannot tell how much of a gene there is, and the blocks must learn what the mean has
        from the start.
    attention
        Attention back-end, a name in :data:`scjepa.nn.ATTENTION_BACKENDS`, or ``"auto"``.
    """

    width: int = 128
    n_layers: int = 4
    n_heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    value: str = "mlp"
    gene_std: float = 1.0
    cls: str = "learned"
    attention: str = "auto"

    def __post_init__(self) -> None:
        take_plain(self)
        positive(self, "width", "n_layers", "n_heads", "mlp_ratio", "gene_std")
        within(self, 0.0, 1.0, "dropout")
        one_of(self, "cls", ("learned", "mean"))
        if self.width % self.n_heads:
            raise ValueError(
                f"CellEncoderConfig.width ({self.width}) must be a multiple of n_heads ({self.n_heads}); "
                f"try n_heads={max(h for h in range(1, self.n_heads) if self.width % h == 0)}."
            )


@dataclass(frozen=True)
class CellMaskingConfig:
    """Which values are hidden (Section 2.2.2).

    Parameters
    ----------
    ratio
        Share of a cell's genes whose values are hidden, or several shares, of which each step draws one. Where modules
        are tokens: of its modules, which are hidden whole.
    """

    ratio: float | tuple[float, ...] = 0.15

    def __post_init__(self) -> None:
        take_plain(self)
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise ValueError(f"CellMaskingConfig.ratio must lie strictly between 0 and 1, found {self.ratio!r}.")

    @property
    def ratios(self) -> tuple[float, ...]:
        """The shares that a step draws from."""
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)


_CELL_WEIGHTS = (
    "reconstruction_weight",
    "jepa_weight",
    "cell_reconstruction_weight",
    "cell_prompt_weight",
    "module_weight",
    "contrast_weight",
)
_GENE_WEIGHTS = ("reconstruction_weight", "jepa_weight", "cell_reconstruction_weight", "cell_prompt_weight")
"""Parts of the loss that need genes as tokens."""
_GENE_OPTIONS = ("jepa_distance", "predictor", "target_view")
"""How the JEPA term of genes is computed; that of modules has one way."""


@dataclass(frozen=True)
class CellObjectiveConfig:
    """What is predicted, and what it weighs (the prompts are the baseline's, Appendix C).

    Parameters
    ----------
    reconstruction_weight
        Squared error of the hidden values, in bins, from their tokens (the paper's GEP).
    jepa_weight
        Distance of the teacher's ``<cls>``, which has seen all values, from what the student's, which has not, predicts
        of it. 0: the reconstruction-only baseline; the teacher is then not computed in a step.
    jepa_distance
        ``"cosine"`` (the paper's), or ``"squared"``, the mean squared difference.
    predictor
        ``"mlp"``, or ``"none"``: the student's ``<cls>`` is itself to be the teacher's, so that what student and
        teacher cannot agree in is driven out of it; with a predictor it may stay. Needs the guards below, or all cells
        become one point.
    module_weight
        Where modules are tokens, and there alone: squared L2 distance of what the student's ``<cls>`` and a module's
        identity predict of that hidden module from the teacher's vector of it.
    target_view
        What the teacher sees: ``"all"``, the whole cell (the paper's), or ``"masked"``, the hidden genes alone: what
        student and teacher then share is what the cell is, not which genes both were shown.
    target_norm
        What the teacher's ``<cls>`` (or module vector) is before it is compared: ``"none"``, as it is (the paper's), or
        ``"batch"``, standardized over the cells of the batch, so that what all cells share is no part of the task.
    cell_reconstruction_weight
        Squared error of the hidden values, predicted from the student's ``<cls>`` and the gene's identity alone (GEPC,
        scGPT's MVC).
    cell_prompt_weight
        Squared error of all values in a second pass, in which all are hidden and the student's cell embedding stands
        in the place of ``<cls>`` (scGPT's generative training).
    contrast_weight
        The ECS term on the students' ``<cls>``.
    contrast
        Its form, a name in :data:`scjepa.celljepa.CONTRASTS`: ``"supervised"`` (the paper's: cells of one label are
        positives), ``"original"`` ((cosine - similarity)², as scGPT prints it) or ``"scgpt"`` (as its code has it).
    temperature
        Of the supervised form.
    similarity
        Of the other two, the paper's 0.3.
    self_pairs
        Whether a cell counts as a pair with itself.
    variance_weight, covariance_weight
        Guards against collapse on the students' ``<cls>`` (VICReg), as in :class:`~scjepa.config.ObjectiveConfig`. They guard
        the JEPA term: where genes are tokens and ``jepa_weight`` is 0, they are not computed.
    """

    reconstruction_weight: float = 1.0
    jepa_weight: float = 1000.0
    jepa_distance: str = "cosine"
    predictor: str = "mlp"
    module_weight: float = 0.0
    target_view: str = "all"
    target_norm: str = "none"
    cell_reconstruction_weight: float = 0.0
    cell_prompt_weight: float = 0.0
    contrast_weight: float = 0.0
    contrast: str = "supervised"
    temperature: float = 0.1
    similarity: float = 0.3
    self_pairs: bool = False
    variance_weight: float = 0.0
    covariance_weight: float = 0.0

    def __post_init__(self) -> None:
        take_plain(self)
        one_of(self, "contrast", ("supervised", "original", "scgpt"))
        one_of(self, "target_view", ("all", "masked"))
        one_of(self, "target_norm", ("none", "batch"))
        one_of(self, "jepa_distance", ("cosine", "squared"))
        one_of(self, "predictor", ("mlp", "none"))
        positive(self, "temperature")
        within(self, -1.0, 1.0, "similarity")
        for name in (*_CELL_WEIGHTS, "variance_weight", "covariance_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"CellObjectiveConfig.{name} must not be negative, found {getattr(self, name)!r}.")
        if not any(getattr(self, name) > 0 for name in _CELL_WEIGHTS):
            raise ValueError(f"CellObjectiveConfig needs a positive weight among {', '.join(_CELL_WEIGHTS)}.")


@dataclass(frozen=True)
class CellTrainConfig(TrainConfig):
    """Optimization and its schedules; what is not named here is as in :class:`~scjepa.config.TrainConfig`.

    Parameters
    ----------
    optimizer
        ``"adamw"`` or ``"adam"``.
    schedule
        ``"cosine"``: warm-up, then a cosine to ``final_learning_rate``. ``"steps"``: warm-up, then the learning rate
        times ``decay`` at each epoch.
    decay
        Of the schedule ``"steps"``.
    batches
        ``"mixed"``, or ``"section"``: the cells of a batch have one ``batch_key``.
    """

    batches: str = "mixed"
    batch_size: int = 32
    ema_start: float = 0.996
    clip: float | None = 1.0
    optimizer: str = "adamw"
    schedule: str = "cosine"
    decay: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "optimizer", ("adamw", "adam"))
        one_of(self, "schedule", ("cosine", "steps"))
        if not 0 < self.decay <= 1:
            raise ValueError(f"CellTrainConfig.decay must lie in (0, 1], found {self.decay!r}.")


_FINE_OBJECTIVE = CellObjectiveConfig(cell_reconstruction_weight=1.0, contrast_weight=1.0)
_FINE_TRAINING = CellTrainConfig(
    max_steps=None,
    max_epochs=30,
    batch_size=64,
    learning_rate=1e-4,
    warmup=0.0,
    weight_decay=0.0,
    final_weight_decay=0.0,
    ema_start=0.99,
    optimizer="adam",
    schedule="steps",
)


@dataclass(frozen=True)
class FinetuneConfig:
    """What :meth:`scjepa.CellJEPA.finetune` does: GEP + GEPC + ECS + JEPA on labelled cells."""

    masking: CellMaskingConfig = CellMaskingConfig(ratio=0.4)
    objective: CellObjectiveConfig = _FINE_OBJECTIVE
    training: CellTrainConfig = _FINE_TRAINING


_PERTURBATION_OBJECTIVE = CellObjectiveConfig(jepa_weight=1.0, contrast_weight=0.8)
_PERTURBATION_TRAINING = replace(_FINE_TRAINING, max_epochs=15)


@dataclass(frozen=True)
class PerturbationConfig:
    """What :meth:`scjepa.CellJEPA.train_perturbation` does: reconstruction + JEPA + ECS on conditions, without a mask.

    Parameters
    ----------
    objective
        Weights of the squared error of expression, of the cosine distance of the perturbed cell's embedding by a frozen
        teacher, and of the ECS term with conditions as labels.
    delta_weight
        Weight of the loss on the change from control; with ``delta_aware=True``.
    n_tokens
        Genes of a control cell at most; more are drawn, the perturbed ones always among them.
    from_control
        Whether what is learned is added to control's mean expression, so that at first no change is predicted. False:
        expression is predicted from nothing, as in the paper.
    training
        Optimization.
    """

    objective: CellObjectiveConfig = _PERTURBATION_OBJECTIVE
    delta_weight: float = 1.0
    from_control: bool = True
    training: CellTrainConfig = _PERTURBATION_TRAINING
    n_tokens: int = 600

    def __post_init__(self) -> None:
        take_plain(self)
        guards = ("variance_weight", "covariance_weight")
        for name in ("cell_reconstruction_weight", "cell_prompt_weight", "module_weight", *guards):
            if getattr(self.objective, name) > 0:
                raise ValueError(f"PerturbationConfig.objective has no part {name}: nothing is hidden. Set it to 0.")
        if self.objective.target_view != "all":
            raise ValueError("PerturbationConfig.objective.target_view must be 'all': nothing is hidden.")
        if (self.objective.jepa_distance, self.objective.predictor) != ("cosine", "mlp"):
            raise ValueError(
                "PerturbationConfig.objective compares by cosine behind a predictor; leave both as they are."
            )
        if self.objective.reconstruction_weight <= 0:
            raise ValueError("PerturbationConfig.objective.reconstruction_weight must be positive.")
        positive(self, "n_tokens")
        if self.delta_weight < 0:
            raise ValueError(f"PerturbationConfig.delta_weight must not be negative, found {self.delta_weight!r}.")


@dataclass(frozen=True)
class CellJEPAConfig:
    """The resolved configuration of a Cell-JEPA model: one dataclass per part."""

    tokens: CellTokenConfig = field(default_factory=CellTokenConfig)
    encoder: CellEncoderConfig = field(default_factory=CellEncoderConfig)
    masking: CellMaskingConfig = field(default_factory=CellMaskingConfig)
    objective: CellObjectiveConfig = field(default_factory=CellObjectiveConfig)
    training: CellTrainConfig = field(default_factory=CellTrainConfig)
    finetuning: FinetuneConfig = field(default_factory=FinetuneConfig)
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)

    def __post_init__(self) -> None:
        modules = self.tokens.unit == "module"
        for stage, objective in (("objective", self.objective), ("finetuning.objective", self.finetuning.objective)):
            wrong = _GENE_WEIGHTS if modules else ("module_weight",)
            found = [name for name in wrong if getattr(objective, name) > 0]
            if found:
                what = "modules" if modules else "genes"
                raise ValueError(
                    f"Where {what} are tokens, {stage} has no part {found[0]}. Set it to 0, or "
                    + ("begin with preset='modules'." if modules else "take tokens={'unit': 'module'}.")
                )
            for name in _GENE_OPTIONS if modules else ():
                value, idle = getattr(objective, name), getattr(CellObjectiveConfig, name)
                if value != idle:
                    raise ValueError(
                        f"Where modules are tokens, {stage}.{name} does nothing: their loss is the squared distance "
                        f"of hidden modules' vectors. Found {value!r}; leave it at {idle!r}."
                    )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return nested plain dictionaries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> CellJEPAConfig:
        """Build a configuration from what :meth:`to_dict` gave."""
        return override(cls(), values)


_MODULE_OBJECTIVE = CellObjectiveConfig(
    reconstruction_weight=0.0,
    jepa_weight=0.0,
    module_weight=1.0,
    target_norm="batch",
    variance_weight=1.0,
    covariance_weight=0.2,
)

# Student and teacher see disjoint halves of a cell's genes, so that what they agree in is what the cell is; see
# docs/user_guide/celljepa.md for what each of these does on its own.
_TOKENS = CellTokenConfig(n_tokens=128, n_embedded=3000, kept="spread")
_OBJECTIVE = CellObjectiveConfig(
    jepa_distance="squared",
    predictor="none",
    target_view="masked",
    variance_weight=1000.0,
    covariance_weight=200.0,
)
_TRAINING = CellTrainConfig(batch_size=128, learning_rate=3e-3, ema_start=0.99)

CELL_PRESETS: dict[str, CellJEPAConfig] = {
    "demo": CellJEPAConfig(
        tokens=_TOKENS,
        encoder=CellEncoderConfig(width=64, n_layers=2, n_heads=2, value="bound", gene_std=0.03, cls="mean"),
        masking=CellMaskingConfig(ratio=0.5),
        objective=_OBJECTIVE,
        training=replace(_TRAINING, max_steps=300),
        perturbation=PerturbationConfig(
            training=replace(_FINE_TRAINING, max_steps=300, max_epochs=None, learning_rate=1e-3, schedule="cosine")
        ),
    ),
    "base": CellJEPAConfig(
        tokens=replace(_TOKENS, n_tokens=256),
        encoder=CellEncoderConfig(value="bound", gene_std=0.03, cls="mean"),
        masking=CellMaskingConfig(ratio=0.5),
        objective=_OBJECTIVE,
        training=replace(_TRAINING, max_steps=3000),
    ),
    "paper": CellJEPAConfig(
        encoder=CellEncoderConfig(width=512, n_layers=12, n_heads=8, mlp_ratio=1.0, dropout=0.2, gene_std=0.02),
        training=CellTrainConfig(
            max_steps=None,
            max_epochs=4,
            learning_rate=1e-4,
            warmup=0.0,
            weight_decay=2e-4,
            final_weight_decay=2e-4,
            schedule="steps",
            precision="bf16-mixed",
        ),
    ),
    "modules": CellJEPAConfig(
        tokens=CellTokenConfig(n_tokens=5000, unit="module"),
        encoder=CellEncoderConfig(width=64, n_layers=2, n_heads=2, value="bound", gene_std=0.03, cls="mean"),
        masking=CellMaskingConfig(ratio=0.5),
        objective=_MODULE_OBJECTIVE,
        training=replace(_TRAINING, max_steps=300),
        finetuning=FinetuneConfig(
            CellMaskingConfig(ratio=0.5), replace(_MODULE_OBJECTIVE, contrast_weight=1.0), _FINE_TRAINING
        ),
    ),
}
"""``demo`` for a laptop, ``base`` to begin with, ``paper`` the paper's model; ``modules``: gene modules as tokens."""


def resolve_cells(preset: str | CellJEPAConfig = "base", **parts: Any) -> CellJEPAConfig:
    """Return the configuration of ``preset`` with the given parts overridden.

    Parameters
    ----------
    preset
        A name in :data:`CELL_PRESETS`, or a whole configuration.
    **parts
        ``tokens``, ``encoder``, ``masking``, ``objective``, ``training``, ``finetuning``, ``perturbation``: each a
        dataclass, a mapping of the options to change, or ``None`` for no change.

    Raises
    ------
    ValueError
        If the preset, a part or an option is not known, or a value is out of its range.
    """
    if isinstance(preset, CellJEPAConfig):
        config = preset
    elif preset in CELL_PRESETS:
        config = CELL_PRESETS[preset]
    else:
        raise ValueError(unknown_name("preset", preset, CELL_PRESETS))
    changes = {name: part for name, part in parts.items() if part is not None}
    resolved = override(config, changes)
    warn_of_idle(resolved, changes, IDLE_OF_CELLS)
    return resolved
