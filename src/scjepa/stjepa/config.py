"""Every option of ST-JEPA in frozen dataclasses, validated once, and the presets that bundle them.

A preset is a starting point: each part can be overridden by a mapping or by a dataclass of its own
(:func:`resolve`). What a model saves is the resolved values, never the preset's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scjepa._core.checks import number, one_of, positive, within
from scjepa._core.idle import IDLE, warn_of_idle
from scjepa._core.options import AUTO, override, unknown_name
from scjepa._core.plain import take_plain
from scjepa.tokens.config import TokenConfig
from scjepa.training.config import TrainConfig


@dataclass(frozen=True)
class EncoderConfig:
    """The token embedding and the transformer (Sections 2.2 and 2.3).

    Parameters
    ----------
    width
        Embedding width D, also ``n_latent``.
    n_layers, n_heads, mlp_ratio, dropout
        Pre-norm transformer blocks; ``width / n_heads`` of 16 or more is fastest on CPU.
    value
        How gene and value combine, a name in :data:`scjepa.nn.VALUE_ENCODERS`: ``"mlp"`` is the paper's sum of gene
        identity and a two-layer value MLP, ``"bins"`` that of gene identity and a mixture of ``n_bins`` learned
        vectors, ``"bound"`` the product gene × value, which pooling does not mix up, ``"none"`` gene identity alone.
    value_scale
        ``"log1p"`` or ``"identity"``: what the value encoder sees of a token's value. Of values that normalization
        made negative, ``"log1p"`` takes the logarithm of one plus its size and keeps the sign.
    rank
        Rank encoder, a name in :data:`scjepa.stjepa.RANK_ENCODERS`.
    segment
        Spatial encoder of the segment (index cell, first neighbor, ...), in :data:`scjepa.stjepa.SEGMENT_ENCODERS`:
        ``"sinusoidal"`` and ``"learned"`` tell who is nearer, ``"coordinate"`` where each neighbor lies from the index
        cell, in median neighbor distances of its section.
    position_weight
        Factor on rank and segment encodings (1 in the paper).
    gene_std
        Standard deviation of the gene embedding at initialization.
    metatoken
        Add a technology token to each neighborhood in training. It is never masked or pooled and is left out at
        inference.
    attention
        Attention back-end, a name in :data:`scjepa.nn.ATTENTION_BACKENDS`, or ``"auto"`` (a fixed rule of device
        and shape).
    n_bins
        Bins of the value encoder ``"bins"``.
    """

    width: int = 128
    n_layers: int = 3
    n_heads: int = 4
    mlp_ratio: float = 4.0
    dropout: float = 0.0
    value: str = "bound"
    value_scale: str = "log1p"
    rank: str = "sinusoidal"
    segment: str = "sinusoidal"
    position_weight: float = 0.3
    gene_std: float = 1.0
    metatoken: bool = True
    attention: str = "auto"
    n_bins: int = 50

    def __post_init__(self) -> None:
        take_plain(self)
        positive(self, "width", "n_layers", "n_heads", "mlp_ratio", "gene_std", "n_bins")
        within(self, 0.0, 1.0, "dropout")
        one_of(self, "value_scale", ("log1p", "identity"))
        if self.width % self.n_heads:
            raise ValueError(
                f"EncoderConfig.width ({self.width}) must be a multiple of n_heads ({self.n_heads}); "
                f"try n_heads={max(h for h in range(1, self.n_heads) if self.width % h == 0)}."
            )
        if self.width % 2:
            raise ValueError(f"EncoderConfig.width must be even for sinusoidal encodings, found {self.width}.")


@dataclass(frozen=True)
class MaskingConfig:
    """Which tokens the context encoder does not see (Section 2.3).

    Parameters
    ----------
    scheme
        A name in :data:`scjepa.stjepa.MASKING_SCHEMES`; ``"stratified"`` masks round(ratio · n) tokens of each cell,
        ``"whole_cell"`` all tokens of a share of the cells, ``"mixture"`` the one or the other by neighborhood.
    ratio
        Share of masked tokens, the paper's ρ.
    n_masks
        Masks drawn per neighborhood; they share one pass of the target encoder.
    query_fraction
        Share of the masked tokens that the predictor is asked for (1: all, as in the paper).
    metatoken_dropout
        Share of training neighborhoods without their technology token, so that inference without it is familiar.
    """

    scheme: str = "stratified"
    ratio: float = 0.6
    n_masks: int = 1
    query_fraction: float = 1.0
    metatoken_dropout: float = 0.15

    def __post_init__(self) -> None:
        take_plain(self)
        if not 0 < number(self, "ratio") < 1:
            raise ValueError(f"MaskingConfig.ratio must lie strictly between 0 and 1, found {self.ratio!r}.")
        if not 0 < number(self, "query_fraction") <= 1:
            raise ValueError(f"MaskingConfig.query_fraction must lie in (0, 1], found {self.query_fraction!r}.")
        positive(self, "n_masks")
        within(self, 0.0, 1.0, "metatoken_dropout")


_PREDICTED = ("token_weight", "cell_weight", "neighborhood_weight", "nearby_weight")
"""Weights of what the objective ``"ijepa"`` predicts."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is predicted and how the error is measured (Equations 1-3).

    Parameters
    ----------
    name
        A name in :data:`scjepa.stjepa.OBJECTIVES`: ``"ijepa"`` (v2 of the paper: predict what a target encoder makes of
        masked tokens) or ``"lejepa"`` (v1: one encoder, whose embeddings of several maskings of a neighborhood shall
        agree and be Gaussian). ``lejepa`` reads the last four options alone.
    predictor_layers
        Transformer blocks of the predictor, of the encoder's width.
    query
        What a mask token knows of its gene: ``"gene"`` (identity, segment and rank) or ``"rank"`` (segment and rank).
    target_view
        ``"all"``: the target encoder sees the whole neighborhood and its outputs at masked tokens are gathered
        (I-JEPA); ``"masked"``: it sees the masked tokens alone (the paper's Equation 2 taken literally).
    target_norm
        ``"layer"``: targets pass a layer norm without parameters; ``"none"``.
    token_weight
        Weight of the token objective: L1 at masked tokens (the paper's loss).
    cell_weight, neighborhood_weight
        Weights of the pooled objectives: from the visible tokens predict the target encoder's pooled index cell and
        pooled neighborhood (smooth L1, targets standardized over the batch). 0 in the paper. Where counts are summed
        (``tokenizer="neighborhood"``) no index cell is told apart, and ``cell_weight`` has no part.
    nearby_weight
        Weight of a further pooled objective: predict the target encoder's pooled neighborhood of another cell, where a
        random walk of ``nearby_steps`` over the neighbors ends. What two places share is their niche. 0 in the paper.
    nearby_steps
        Steps of that walk.
    pooled
        How the pooled objectives compare: ``"predicted"``, an MLP of the student's pooled vector with the target, as
        above; ``"agreed"``, the student's pooled vector itself with the target as it is, by the mean squared
        difference. What places cannot agree in is then driven out of the embedding, and the guards below keep the rest
        from collapsing.
    variance_weight, covariance_weight
        Guards against collapse on pooled context embeddings: a hinge on the standard deviation of each dimension,
        and squared off-diagonal covariance (VICReg). 0 in the paper.
    sigreg_weight
        Weight of a further guard beside ``ijepa``: SIGReg of the pooled context embeddings, the distance from an
        isotropic Gaussian of standard deviation 1.
    sigreg_projections
        Random directions along which SIGReg looks, drawn anew at each step.
    n_views
        Maskings of a neighborhood that ``lejepa`` compares, with the scheme and the ratio of :class:`MaskingConfig`.
    sigreg_share
        LeJEPA's λ: the loss is (1 - λ) · invariance + λ · SIGReg.
    adversarial_weight
        Weight of the reversed gradient of a classifier of technologies beside ``lejepa``; 0: no classifier. It needs
        technologies in one batch: ``training={"batches": "mixed"}``.
    """

    name: str = "ijepa"
    predictor_layers: int = 1
    query: str = "gene"
    target_view: str = "all"
    target_norm: str = "layer"
    token_weight: float = 1.0
    cell_weight: float = 1.0
    neighborhood_weight: float = 1.0
    nearby_weight: float = 1.0
    nearby_steps: int = 3
    pooled: str = "predicted"
    variance_weight: float = 1.0
    covariance_weight: float = 1.0
    sigreg_weight: float = 0.0
    sigreg_projections: int = 256
    n_views: int = 2
    sigreg_share: float = 0.05
    adversarial_weight: float = 0.1

    def __post_init__(self) -> None:
        take_plain(self)
        positive(self, "predictor_layers", "sigreg_projections")
        within(self, 0.0, 1.0, "sigreg_share")
        if self.n_views < 2:
            raise ValueError(f"ObjectiveConfig.n_views must be 2 or more, found {self.n_views!r}.")
        one_of(self, "query", ("gene", "rank"))
        one_of(self, "target_view", ("all", "masked"))
        one_of(self, "target_norm", ("layer", "none"))
        positive(self, "nearby_steps")
        one_of(self, "pooled", ("predicted", "agreed"))
        for name in (*_PREDICTED, "variance_weight", "covariance_weight", "sigreg_weight", "adversarial_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"ObjectiveConfig.{name} must not be negative, found {getattr(self, name)!r}.")
        if self.name == "ijepa" and not self.predicts:
            raise ValueError(f"ObjectiveConfig predicts nothing: make one of {', '.join(_PREDICTED)} positive.")

    @property
    def predicts(self) -> list[str]:
        """Names of the weights that are not 0, of what is predicted."""
        return [name for name in _PREDICTED if getattr(self, name) > 0]


_OF_CELLS = ("target_cell", "whole_cell", "mixture")
"""Masking schemes that choose among the cells of a neighborhood."""


@dataclass(frozen=True)
class STJEPAConfig:
    """The resolved configuration of an ST-JEPA model: one dataclass per part."""

    tokens: TokenConfig = field(default_factory=TokenConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if not self.tokens.summed:
            return
        sums = "TokenConfig.tokenizer='neighborhood' tells no cells of a neighborhood apart"
        if self.masking.scheme in _OF_CELLS:
            raise ValueError(
                f"MaskingConfig.scheme={self.masking.scheme!r} hides cells, and {sums}: pass "
                "masking={'scheme': 'stratified'}, 'uniform' or 'rank_span'."
            )
        if self.encoder.segment == "coordinate":
            raise ValueError(
                f"EncoderConfig.segment='coordinate' tells where neighbors lie, and {sums}: pass "
                "encoder={'segment': 'none'}."
            )
        if self.objective.name == "ijepa" and self.objective.predicts == ["cell_weight"]:
            raise ValueError(
                f"ObjectiveConfig.cell_weight alone predicts the index cell, and {sums}: pass "
                "objective={'neighborhood_weight': 1.0}."
            )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return nested plain dictionaries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> STJEPAConfig:
        """Build a configuration from what :meth:`to_dict` gave."""
        return override(cls(), values)


_PAPER_ENCODER = EncoderConfig(width=768, n_layers=5, n_heads=8, value="mlp", position_weight=1.0, gene_std=0.02)
_PAPER_OBJECTIVE = ObjectiveConfig(
    cell_weight=0.0, neighborhood_weight=0.0, nearby_weight=0.0, variance_weight=0.0, covariance_weight=0.0
)
_PAPER_TRAINING = TrainConfig(
    max_steps=None,
    max_epochs=800,
    batch_size=256,
    batches="mixed",
    learning_rate=6e-5,
    ema_start=0.995,
    warmup=0.05,
    precision="bf16-mixed",
)

_SMALL = STJEPAConfig(
    tokens=TokenConfig(n_tokens=16, ranks=AUTO, left_out=AUTO),
    encoder=EncoderConfig(width=64, n_layers=2, n_heads=4),
    masking=MaskingConfig(query_fraction=0.25),
)

PRESETS: dict[str, STJEPAConfig] = {
    "demo": replace(_SMALL, training=TrainConfig(max_steps=450)),
    "base": replace(_SMALL, training=TrainConfig(max_steps=600)),
    "technologies": replace(
        _SMALL,
        tokens=replace(_SMALL.tokens, values="nonzero_mean"),
        training=TrainConfig(max_steps=600),
    ),
    "paper_ablation": STJEPAConfig(
        encoder=replace(_PAPER_ENCODER, n_layers=3), objective=_PAPER_OBJECTIVE, training=_PAPER_TRAINING
    ),
    "paper": STJEPAConfig(encoder=_PAPER_ENCODER, objective=_PAPER_OBJECTIVE, training=_PAPER_TRAINING),
}
"""``demo`` for a first look; ``base`` the recipe that docs/results.md measures; ``technologies`` the same for sections
of several technologies (counts relative to the gene's mean in its technology, so that one that counts deeper looks no
different); ``paper_ablation`` and ``paper`` the paper's models. ``demo`` and ``base`` are one encoder trained for a
shorter and a longer time."""


def resolve(preset: str | STJEPAConfig = "base", **parts: Any) -> STJEPAConfig:
    """Return the configuration of ``preset`` with the given parts overridden.

    Parameters
    ----------
    preset
        A name in :data:`PRESETS`, or a whole configuration.
    **parts
        ``tokens``, ``encoder``, ``masking``, ``objective``, ``training``: each a dataclass, a mapping of the options
        to change, or ``None`` for no change. The name of an objective will do for ``objective``.

    Raises
    ------
    ValueError
        If the preset, a part or an option is not known, or a value is out of its range.

    Warns
    -----
    UserWarning
        If an option that is named does nothing beside the others.
    """
    if isinstance(preset, STJEPAConfig):
        config = preset
    elif preset in PRESETS:
        config = PRESETS[preset]
    else:
        raise ValueError(unknown_name("preset", preset, PRESETS))
    if isinstance(parts.get("objective"), str):
        parts["objective"] = {"name": parts["objective"]}
    changes = {name: part for name, part in parts.items() if part is not None}
    resolved = override(config, changes)
    warn_of_idle(resolved, changes, IDLE)
    return resolved
