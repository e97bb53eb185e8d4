"""Figures: niches and what can be said of them, maps of an embedding, labels, perturbations, and trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.pl._cells import confusion, perturbation, reliability
    from scjepa.pl._describe import compare, composition, interactions, markers
    from scjepa.pl._maps import confidence, embedding, niches, predictive_genes
    from scjepa.pl._study import differential_niches, niche_number
    from scjepa.pl._training import training
    from scjepa.pl._why import niche_drivers, surprise

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
