"""Every option of Cell-JEPA in frozen dataclasses, validated once, and the presets that bundle them.

The same style, and the same overriding, as :mod:`scjepa.stjepa.config`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scjepa._core.checks import NOT_NEGATIVE, POSITIVE, above, between, one_of, within
from scjepa._core.options import Config, Idle, Registry, option, resolve_preset
from scjepa.nn.config import TransformerConfig
from scjepa.training.config import TrainConfig


@dataclass(frozen=True)
class CellTokenConfig(Config):
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

    n_tokens: int = option(600, POSITIVE)
    n_bins: int = option(51, within(2, 2**16))
    kept: str = option("top", one_of("top", "spread"))
    unit: str = option("gene", one_of("gene", "module"))
    n_embedded: int | None = option(None, POSITIVE)


@dataclass(frozen=True)
class CellEncoderConfig(TransformerConfig):
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

    n_layers: int = option(4, POSITIVE)
    value: str = "mlp"
    cls: str = option("learned", one_of("learned", "mean"))


@dataclass(frozen=True)
class CellMaskingConfig(Config):
    """Which values are hidden (Section 2.2.2).

    Parameters
    ----------
    ratio
        Share of a cell's genes whose values are hidden, or several shares, of which each step draws one. Where modules
        are tokens: of its modules, which are hidden whole.
    """

    ratio: float | tuple[float, ...] = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        for ratio in self.ratios or (0,):
            between(0, 1)("CellMaskingConfig.ratio", ratio)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The shares that a step draws from."""
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)


_GENE_WEIGHTS = ("reconstruction_weight", "jepa_weight", "cell_reconstruction_weight", "cell_prompt_weight")
"""Parts of the loss that need genes as tokens."""
_CELL_WEIGHTS = (*_GENE_WEIGHTS, "module_weight", "contrast_weight")
_GENE_OPTIONS = ("jepa_distance", "predictor", "target_view")
"""How the JEPA term of genes is computed; that of modules has one way."""


def _no_jepa(own: CellObjectiveConfig, config: CellJEPAConfig) -> bool:
    return config.tokens.unit == "gene" and own.jepa_weight == 0


_OF_JEPA: Idle = ("{part}.jepa_weight is 0", _no_jepa)
_OF_CONTRAST: Idle = ("{part}.contrast_weight is 0", lambda own, config: own.contrast_weight == 0)


def _of_contrast(names: tuple[str, ...]) -> Idle:
    """Return when an option of some forms of the contrast does nothing."""
    reason = f"{{part}} has no contrast of the form {' or '.join(map(repr, names))}"
    return reason, lambda own, config: own.contrast_weight == 0 or own.contrast not in names


@dataclass(frozen=True)
class CellObjectiveConfig(Config):
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
        Guards against collapse on the students' ``<cls>`` (VICReg), as in :class:`~scjepa.stjepa.IJEPAConfig`. They
        guard the JEPA term: where genes are tokens and ``jepa_weight`` is 0, they are not computed.
    """

    reconstruction_weight: float = option(1.0, NOT_NEGATIVE)
    jepa_weight: float = option(1000.0, NOT_NEGATIVE)
    jepa_distance: str = option("cosine", one_of("cosine", "squared"), idle=_OF_JEPA)
    predictor: str = option("mlp", one_of("mlp", "none"), idle=_OF_JEPA)
    module_weight: float = option(0.0, NOT_NEGATIVE)
    target_view: str = option("all", one_of("all", "masked"), idle=_OF_JEPA)
    target_norm: str = option("none", one_of("none", "batch"), idle=_OF_JEPA)
    cell_reconstruction_weight: float = option(0.0, NOT_NEGATIVE)
    cell_prompt_weight: float = option(0.0, NOT_NEGATIVE)
    contrast_weight: float = option(0.0, NOT_NEGATIVE)
    contrast: str = option("supervised", one_of("supervised", "original", "scgpt"), idle=_OF_CONTRAST)
    temperature: float = option(0.1, POSITIVE, idle=_of_contrast(("supervised",)))
    similarity: float = option(0.3, within(-1.0, 1.0), idle=_of_contrast(("original", "scgpt")))
    self_pairs: bool = option(False, idle=_OF_CONTRAST)
    variance_weight: float = option(0.0, NOT_NEGATIVE, idle=_OF_JEPA)
    covariance_weight: float = option(0.0, NOT_NEGATIVE, idle=_OF_JEPA)

    def __post_init__(self) -> None:
        super().__post_init__()
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

    batches: str = option("mixed", one_of("section", "mixed"))
    batch_size: int = option(32, POSITIVE)
    final_learning_rate: float = option(
        1e-6, NOT_NEGATIVE, idle=("{part}.schedule is 'steps'", lambda own, config: own.schedule == "steps")
    )
    ema_start: float = option(0.996, within(0.0, 1.0))
    clip: float | None = option(1.0, POSITIVE)
    optimizer: str = option("adamw", one_of("adamw", "adam"))
    schedule: str = option("cosine", one_of("cosine", "steps"))
    decay: float = option(
        0.9, above(0, 1), idle=("{part}.schedule is not 'steps'", lambda own, config: own.schedule != "steps")
    )


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
class FinetuneConfig(Config):
    """What :meth:`scjepa.CellJEPA.finetune` does: GEP + GEPC + ECS + JEPA on labelled cells."""

    masking: CellMaskingConfig = CellMaskingConfig(ratio=0.4)
    objective: CellObjectiveConfig = _FINE_OBJECTIVE
    training: CellTrainConfig = _FINE_TRAINING


_PERTURBATION_OBJECTIVE = CellObjectiveConfig(jepa_weight=1.0, contrast_weight=0.8)
_PERTURBATION_TRAINING = replace(_FINE_TRAINING, max_epochs=15)


@dataclass(frozen=True)
class PerturbationConfig(Config):
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
    delta_weight: float = option(1.0, NOT_NEGATIVE)
    from_control: bool = True
    training: CellTrainConfig = _PERTURBATION_TRAINING
    n_tokens: int = option(600, POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
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


@dataclass(frozen=True)
class CellJEPAConfig(Config):
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
_BASE = CellJEPAConfig(
    tokens=CellTokenConfig(n_tokens=256, n_embedded=3000, kept="spread"),
    encoder=CellEncoderConfig(value="bound", gene_std=0.03, cls="mean"),
    masking=CellMaskingConfig(ratio=0.5),
    objective=CellObjectiveConfig(
        jepa_distance="squared", predictor="none", target_view="masked", variance_weight=1000.0, covariance_weight=200.0
    ),
    training=CellTrainConfig(batch_size=128, learning_rate=3e-3, ema_start=0.99, max_steps=3000),
)
_SMALL = {"encoder": {"width": 64, "n_layers": 2, "n_heads": 2}, "training": {"max_steps": 300}}
_SCREEN = {"max_steps": 300, "max_epochs": None, "learning_rate": 1e-3, "schedule": "cosine"}
_MODULE_FINE = FinetuneConfig(_BASE.masking, replace(_MODULE_OBJECTIVE, contrast_weight=1.0), _FINE_TRAINING)
_MODULE_TOKENS = CellTokenConfig(n_tokens=5000, unit="module")

CELL_PRESETS: Registry[CellJEPAConfig] = Registry(
    "preset",
    {
        "demo": _BASE.changed({**_SMALL, "tokens": {"n_tokens": 128}, "perturbation": {"training": _SCREEN}}),
        "base": _BASE,
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
        "modules": _BASE.changed(
            {**_SMALL, "tokens": _MODULE_TOKENS, "objective": _MODULE_OBJECTIVE, "finetuning": _MODULE_FINE}
        ),
    },
)
"""``demo`` for a laptop, ``base`` to begin with, ``paper`` the paper's model; ``modules``: gene modules as tokens."""


def resolve_cells(preset: str | CellJEPAConfig = "base", **parts: object) -> CellJEPAConfig:
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
    return resolve_preset(preset, CELL_PRESETS, parts)
