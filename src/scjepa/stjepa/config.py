"""Every option of ST-JEPA in frozen dataclasses, validated once, and the presets that bundle them.

A preset is a starting point: each part can be overridden by a mapping or by a dataclass of its own
(:func:`resolve`). What a model saves is the resolved values, never the preset's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from scjepa._core.checks import NOT_NEGATIVE, POSITIVE, above, at_least, between, one_of, within
from scjepa._core.options import AUTO, Config, Idle, Registry, imported, option, resolve_preset
from scjepa._core.plain import Facts
from scjepa.nn.config import TransformerConfig
from scjepa.tokens.config import TokenConfig
from scjepa.training.config import TrainConfig

if TYPE_CHECKING:
    from scjepa.stjepa.module import NeighborhoodObjective


def _has_no_bins(own: EncoderConfig, config: STJEPAConfig) -> bool:
    from scjepa.nn.encoder import VALUE_ENCODERS

    return not VALUE_ENCODERS[own.value].has_bins


@dataclass(frozen=True)
class EncoderConfig(TransformerConfig):
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

    value_scale: str = option("log1p", one_of("log1p", "identity"))
    rank: str = "sinusoidal"
    segment: str = "sinusoidal"
    position_weight: float = 0.3
    metatoken: bool = True
    n_bins: int = option(50, POSITIVE, idle=("{part}.value is {config.encoder.value!r}, without bins", _has_no_bins))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 2:
            raise ValueError(f"EncoderConfig.width must be even for sinusoidal encodings, found {self.width}.")

    @property
    def _reads_places(self) -> list[str]:
        """Names of the options whose encoder reads where neighbors lie."""
        from scjepa.stjepa.module import RANK_ENCODERS, SEGMENT_ENCODERS

        encoders = {"rank": RANK_ENCODERS[self.rank], "segment": SEGMENT_ENCODERS[self.segment]}
        return [name for name, encoder in encoders.items() if encoder.needs_places]


def _not_read(name: str) -> Idle:
    return "objective.name is {config.objective.name!r}", lambda own, config: name in config.objective.ignores


@dataclass(frozen=True)
class MaskingConfig(Config):
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
    ratio: float = option(0.6, between(0, 1))
    n_masks: int = option(1, POSITIVE, idle=_not_read("n_masks"))
    query_fraction: float = option(1.0, above(0, 1), idle=_not_read("query_fraction"))
    metatoken_dropout: float = option(
        0.15, within(0.0, 1.0), idle=("encoder.metatoken is False", lambda own, config: not config.encoder.metatoken)
    )

    @property
    def of_cells(self) -> bool:
        """Whether the scheme chooses among the cells of a neighborhood."""
        from scjepa.stjepa.objectives import MASKING_SCHEMES

        return MASKING_SCHEMES[self.scheme].of_cells


@dataclass(frozen=True)
class ObjectiveConfig(Config):
    """Base of the options of an objective: each in :data:`scjepa.stjepa.OBJECTIVES` has a dataclass of its own.

    Parameters
    ----------
    name
        Name of the objective, ``"ijepa"`` (:class:`~scjepa.stjepa.IJEPAConfig`) or ``"lejepa"``
        (:class:`~scjepa.stjepa.LeJEPAConfig`); with another name, options begin at that objective's defaults.
    """

    objective: ClassVar[str | type] = ""
    """The objective that reads these options: its class, or where that is (``"module:Class"``), for it needs torch."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Options of :class:`MaskingConfig` that it does not read."""

    name: str = field(default="", init=False)

    def check_tokens(self, tokens: TokenConfig) -> None:
        """Raise where what is predicted cannot be told from these tokens."""

    def changed(self, changes: object) -> Any:
        """Return these options with changes, or another objective's: options, a mapping with a name, or a name."""
        if isinstance(changes, ObjectiveConfig):
            return changes
        options = {"name": changes} if isinstance(changes, str) else changes
        if not isinstance(options, Mapping):
            return super().changed(options)
        name = options.get("name", self.name)
        own = self if name == self.name else OBJECTIVES[name]()
        others = [other for other in OBJECTIVES if other != name]
        for option_name in set(options) - {each.name for each in fields(own)}:
            for other in others:
                if option_name in OBJECTIVES[other].option_types():
                    raise ValueError(f"{option_name} is an option of the objective {other!r}, not of {name!r}.")
        return super(ObjectiveConfig, own).changed({n: value for n, value in options.items() if n != "name"})

    @classmethod
    def option_types(cls) -> Facts:
        """Return the types of the options by name; of the base those of all objectives."""
        if cls is not ObjectiveConfig:
            return super().option_types()
        return {name: kind for each in OBJECTIVES.values() for name, kind in each.option_types().items()}

    @classmethod
    def objective_class(cls) -> type[NeighborhoodObjective]:
        """Return the objective that reads these options."""
        found: type[NeighborhoodObjective] = (
            imported(cls.objective) if isinstance(cls.objective, str) else cls.objective
        )
        return found


_PREDICTED = ("token_weight", "cell_weight", "neighborhood_weight", "nearby_weight")
"""Weights of what is predicted."""


@dataclass(frozen=True)
class IJEPAConfig(ObjectiveConfig):
    """Options of ``"ijepa"`` (v2 of the paper): predict what a target encoder makes of masked tokens (Equations 1-3).

    Parameters
    ----------
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
        Weight of a further guard of ``ijepa``: SIGReg of the pooled context embeddings, the distance from an
        isotropic Gaussian of standard deviation 1.
    sigreg_projections
        Random directions along which SIGReg looks, drawn anew at each step.
    """

    objective = "scjepa.stjepa.objectives:IJEPA"

    name: str = field(default="ijepa", init=False)
    predictor_layers: int = option(1, POSITIVE)
    query: str = option("gene", one_of("gene", "rank"))
    target_view: str = option("all", one_of("all", "masked"))
    target_norm: str = option("layer", one_of("layer", "none"))
    token_weight: float = option(1.0, NOT_NEGATIVE)
    cell_weight: float = option(
        1.0, NOT_NEGATIVE, idle=("tokens.tokenizer is 'neighborhood'", lambda own, config: config.tokens.summed)
    )
    neighborhood_weight: float = option(1.0, NOT_NEGATIVE)
    nearby_weight: float = option(1.0, NOT_NEGATIVE)
    nearby_steps: int = option(
        3, POSITIVE, idle=("objective.nearby_weight is 0", lambda own, config: own.nearby_weight == 0)
    )
    pooled: str = option("predicted", one_of("predicted", "agreed"))
    variance_weight: float = option(1.0, NOT_NEGATIVE)
    covariance_weight: float = option(1.0, NOT_NEGATIVE)
    sigreg_weight: float = option(0.0, NOT_NEGATIVE)
    sigreg_projections: int = option(
        256, POSITIVE, idle=("objective.sigreg_weight is 0", lambda own, config: own.sigreg_weight == 0)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.predicts:
            raise ValueError(f"IJEPAConfig predicts nothing: make one of {', '.join(_PREDICTED)} positive.")

    @property
    def predicts(self) -> list[str]:
        """Names of the weights that are not 0, of what is predicted."""
        return [name for name in _PREDICTED if getattr(self, name) > 0]

    def check_tokens(self, tokens: TokenConfig) -> None:
        """Raise where only the index cell is predicted and the tokens do not tell it apart."""
        if tokens.summed and self.predicts == ["cell_weight"]:
            raise ValueError(
                f"IJEPAConfig.cell_weight alone predicts the index cell, and {tokens.apart}: pass "
                "objective={'neighborhood_weight': 1.0}."
            )


@dataclass(frozen=True)
class LeJEPAConfig(ObjectiveConfig):
    """Options of ``"lejepa"`` (v1 of the paper): embeddings of several maskings shall agree and be Gaussian.

    Parameters
    ----------
    sigreg_projections
        Random directions along which SIGReg looks, drawn anew at each step.
    n_views
        Maskings of a neighborhood that are compared, with the scheme and the ratio of :class:`MaskingConfig`.
    sigreg_share
        LeJEPA's λ: the loss is (1 - λ) · invariance + λ · SIGReg.
    adversarial_weight
        Weight of the reversed gradient of a classifier of technologies; 0: no classifier. It needs
        technologies in one batch: ``training={"batches": "mixed"}``.
    """

    objective = "scjepa.stjepa.objectives:LeJEPA"
    ignores = ("n_masks", "query_fraction")

    name: str = field(default="lejepa", init=False)
    sigreg_projections: int = option(256, POSITIVE)
    n_views: int = option(2, at_least(2))
    sigreg_share: float = option(0.05, within(0.0, 1.0))
    adversarial_weight: float = option(0.1, NOT_NEGATIVE)


OBJECTIVES: Registry[type[ObjectiveConfig]] = Registry("objective", {"ijepa": IJEPAConfig, "lejepa": LeJEPAConfig})
"""Options of the objectives by name; each says which class reads them (:attr:`ObjectiveConfig.objective`)."""


@dataclass(frozen=True)
class STJEPAConfig(Config):
    """The resolved configuration of an ST-JEPA model: one dataclass per part."""

    tokens: TokenConfig = field(default_factory=TokenConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveConfig = field(default_factory=IJEPAConfig)
    training: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        self.objective.check_tokens(self.tokens)
        if not self.tokens.summed:
            return
        if self.masking.of_cells:
            raise ValueError(
                f"MaskingConfig.scheme={self.masking.scheme!r} hides cells, and {self.tokens.apart}: pass "
                "masking={'scheme': 'stratified'}, 'uniform' or 'rank_span'."
            )
        for name in self.encoder._reads_places[:1]:
            raise ValueError(
                f"EncoderConfig.{name}={getattr(self.encoder, name)!r} tells where neighbors lie, and "
                f"{self.tokens.apart}: pass encoder={{{name!r}: 'none'}}."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from what :meth:`to_dict` gave."""
        objective = values.get("objective", {})
        if {"token_weight", "n_views"} <= set(objective):  # saved when one dataclass had the options of all objectives
            known = OBJECTIVES[objective["name"]].option_types()
            objective = {name: value for name, value in objective.items() if name in known}
        return super().from_dict({**values, "objective": objective})


_PAPER_ENCODER = EncoderConfig(width=768, n_layers=5, n_heads=8, value="mlp", position_weight=1.0, gene_std=0.02)
_PAPER_OBJECTIVE = IJEPAConfig(
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
    training=TrainConfig(max_steps=600),
)

PRESETS: Registry[STJEPAConfig] = Registry(
    "preset",
    {
        "demo": _SMALL.changed({"training": {"max_steps": 450}}),
        "base": _SMALL,
        "technologies": _SMALL.changed({"tokens": {"values": "nonzero_mean"}}),
        "paper_ablation": STJEPAConfig(
            encoder=replace(_PAPER_ENCODER, n_layers=3), objective=_PAPER_OBJECTIVE, training=_PAPER_TRAINING
        ),
        "paper": STJEPAConfig(encoder=_PAPER_ENCODER, objective=_PAPER_OBJECTIVE, training=_PAPER_TRAINING),
    },
)
"""``demo`` for a first look; ``base`` the recipe that docs/results.md measures; ``technologies`` the same for sections
of several technologies (counts relative to the gene's mean in its technology, so that one that counts deeper looks no
different); ``paper_ablation`` and ``paper`` the paper's models. ``demo`` and ``base`` are one encoder trained for a
shorter and a longer time."""


def resolve(preset: str | STJEPAConfig = "base", **parts: object) -> STJEPAConfig:
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
        If an option that is named does nothing with the others.
    """
    return resolve_preset(preset, PRESETS, parts)
