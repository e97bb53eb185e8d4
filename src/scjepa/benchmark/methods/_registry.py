"""The methods, by name: what each does, what it needs, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from anndata import AnnData

from scjepa.benchmark.methods import _controls, _ours

TUTORIAL, SAME_GRAPH = "tutorial", "same graph"

_OWN_AND_SAME = (TUTORIAL, SAME_GRAPH)

Run = Callable[..., dict[str, Any]]
"""``(adata, *, seed, n_niches, **options)`` -> a dict of ``embedding``, ``clusters`` and ``info``."""


@dataclass(frozen=True)
class Method:
    """One method of a comparison.

    Attributes
    ----------
    description
        What it does, in a line.
    needs
        What has to be there beside the data: packages, a file, an option.
    run
        What runs in this session, or the name of the adapter that runs in a process of its own.
    settings
        ``"tutorial"`` and ``"same graph"``, where they differ; the first is the default.
    options
        Names of its options.
    required
        Those that must be given.
    fixed
        Arguments it is always called with.
    obs_options, obsm_options
        Options that name a column of ``obs``, or a key of ``obsm``, which the method is given.
    seeded
        Whether the result depends on the seed.
    gives
        ``"embedding"``, ``"clusters"``, or both where a number of niches is given.
    packages
        Distributions whose versions are reported, for methods of this session.
    before
        What is computed in this session for a method in a process of its own, and added to its data.
    """

    description: str
    needs: str
    run: Run | str
    settings: tuple[str, ...] = (SAME_GRAPH,)
    options: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    obs_options: tuple[str, ...] = ()
    obsm_options: tuple[str, ...] = ()
    seeded: bool = True
    gives: tuple[str, ...] = ("embedding",)
    packages: tuple[str, ...] = ("scjepa", "torch")
    before: Callable[[AnnData, int], None] | None = None

    @property
    def in_session(self) -> bool:
        """Whether it runs in this session rather than in a process of its own."""
        return callable(self.run)


_NOTHING = "nothing beside the data"
_PEERS = "benchmarks/peers/setup.sh (an environment of its own)"
_SCANPY = ("scjepa", "scanpy", "scikit-learn")
_LINEAR = ("scjepa", "scikit-learn")
_MODEL_OPTIONS = ("preset", "tokens", "encoder", "genes")


def _squidpy(flavor: str, description: str, **more: Any) -> Method:
    return Method(
        f"squidpy's niches, flavor {flavor!r}: {description}",
        more.pop("needs", "squidpy 1.8 or newer, which scjepa brings"),
        "squidpy_niche.py",
        fixed={"flavor": flavor},
        gives=("clusters",),
        **more,
    )


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "stjepa": Method(
            "ST-JEPA, trained on the data; its neighborhood embeddings",
            _NOTHING,
            _ours.stjepa,
            options=(*_MODEL_OPTIONS, "masking", "objective", "training", "accelerator"),
        ),
        "untrained": Method(
            "the same encoder with its random initial weights",
            _NOTHING,
            _ours.untrained,
            options=_MODEL_OPTIONS,
        ),
        "linear": Method(
            "the linear method: predictive components of expression, of a cell and of the rings around it",
            _NOTHING,
            _controls.linear,
            options=("n_comps", "n_rings", "own_weight", "align"),
            seeded=False,
            packages=_LINEAR,
        ),
        "pooled_input": Method(
            "mean over a neighborhood of gene vector ⊙ log1p(count), gene vectors at random: the encoder's input",
            _NOTHING,
            _ours.pooled_input,
            options=_MODEL_OPTIONS,
        ),
        "neighborhood_pca": Method(
            "principal components of neighborhood means of log-normalized counts",
            _NOTHING,
            _controls.neighborhood_pca,
            options=("n_comps",),
            seeded=False,
            packages=_SCANPY,
        ),
        "section_zscored_pca": Method(
            "the same, each gene z-scored within sections first",
            _NOTHING,
            _controls.section_zscored_pca,
            options=("n_comps",),
            seeded=False,
            packages=_SCANPY,
        ),
        "harmony_pca": Method(
            "neighborhood PCA, corrected for the section by Harmony",
            "harmonypy, in this or the peers' environment",
            "harmony_pca.py",
            before=_controls.add_neighborhood_pca,
        ),
        "precomputed": Method(
            "an embedding or clusters that are in the data",
            "options={'obsm_key': ...} or {'obs_key': ...}",
            _ours.precomputed,
            options=("obsm_key", "obs_key"),
            obs_options=("obs_key",),
            obsm_options=("obsm_key",),
            seeded=False,
            gives=("embedding", "clusters"),
            packages=(),
        ),
        "cellcharter": Method(
            "CellCharter: scVI latent with the section as batch, neighbors aggregated over three hops, concatenated",
            _PEERS,
            "cellcharter.py",
            settings=_OWN_AND_SAME,
            options=("max_epochs",),
            gives=("embedding", "clusters"),
        ),
        "scvi_mean": Method(
            "scVI latent with the section as batch, mean over the neighborhood",
            "scvi-tools, which scjepa brings",
            "scvi_mean.py",
            options=("max_epochs",),
        ),
        "banksy": Method(
            "Banksy: expression beside the mean and the gradient of the neighbors', components",
            _PEERS,
            "banksy.py",
            settings=_OWN_AND_SAME,
            seeded=False,
        ),
        "banksy_harmony": Method(
            "Banksy, its components corrected for the section by Harmony",
            _PEERS,
            "banksy.py",
            settings=_OWN_AND_SAME,
            fixed={"harmony": True},
        ),
        "graphst": Method(
            "GraphST: a graph network trained to tell a cell's neighborhood from a shuffled one; dense cells × cells",
            _PEERS,
            "graphst.py",
            settings=_OWN_AND_SAME,
            options=("epochs",),
        ),
        "novae": Method(
            "Novae, trained from scratch on the data",
            _PEERS,
            "novae.py",
            settings=_OWN_AND_SAME,
            options=("microns_per_unit", "max_epochs"),
            gives=("embedding", "clusters"),
        ),
        "novae_zero_shot": Method(
            "Novae with pretrained weights as they are",
            f"{_PEERS}, and options={{'weights': folder of a pretrained model}}",
            "novae.py",
            settings=_OWN_AND_SAME,
            options=("weights", "microns_per_unit"),
            required=("weights",),
            gives=("embedding", "clusters"),
        ),
        "squidpy_neighborhood": _squidpy(
            "neighborhood",
            "shares of cell groups among the neighbors, Leiden",
            options=("resolution", "resolutions", "min_share", "cell_type_key"),
            obs_options=("cell_type_key",),
        ),
        "squidpy_utag": _squidpy(
            "utag",
            "expression averaged over the graph, Leiden",
            options=("resolution", "resolutions", "min_share"),
            seeded=False,
        ),
        "squidpy_cellcharter": _squidpy(
            "cellcharter", "components aggregated over three hops, Gaussian mixture of n_niches"
        ),
        "squidpy_spatialleiden": _squidpy(
            "spatialleiden",
            "Leiden on the graphs of expression and of space together",
            needs="squidpy 1.8 or newer and spatialleiden",
            options=("resolution", "resolutions", "min_share"),
        ),
        "nicheformer": Method(
            "Nicheformer's cell embeddings from a local checkpoint; with the same graph, their neighborhood means",
            "nicheformer (from its repository), and options 'checkpoint', 'reference', 'technology_mean', 'tokens'; "
            "embeddings made elsewhere: the method 'precomputed'",
            "nicheformer.py",
            settings=_OWN_AND_SAME,
            options=("checkpoint", "reference", "technology_mean", "tokens", "layer", "batch_size"),
            required=("checkpoint", "reference", "technology_mean", "tokens"),
            seeded=False,
        ),
    }
)
"""Methods by name."""
