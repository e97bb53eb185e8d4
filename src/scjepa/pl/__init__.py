"""Figures: niches and what can be said of them, maps of an embedding, labels, perturbations, and trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scjepa._core.renamed import lazy

if TYPE_CHECKING:
    from scjepa.pl._describe import compare, composition, interactions, markers
    from scjepa.pl._maps import confidence, embedding, niches, predictive_genes
    from scjepa.pl._models import confusion, perturbation, reliability, training
    from scjepa.pl._study import differential_niches, niche_drivers, niche_number, surprise

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
