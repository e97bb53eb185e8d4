from __future__ import annotations

import torch

from scjepa.stjepa import STJEPAModule
from scjepa.stjepa.config import resolve
from scjepa.training import parameter_groups


def test_weight_decay_is_for_matrices_alone():
    model = STJEPAModule(50, 2, resolve("demo", encoder={"value": "mlp", "rank": "learned"}))
    decayed, kept = parameter_groups(model)
    names = {id(p): n for n, p in model.named_parameters()}
    assert decayed["decays"]
    assert not kept["decays"]
    assert kept["weight_decay"] == 0
    decayed_names = {names[id(p)] for p in decayed["params"]}
    kept_names = {names[id(p)] for p in kept["params"]}
    assert all(n.endswith("weight") for n in decayed_names)
    assert {"context.embedding.gene.weight", "context.embedding.rank.table.weight"} <= kept_names
    assert "objective.predictor.mask_token" in kept_names
    assert all("norm" not in n and not n.endswith("bias") for n in decayed_names)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert decayed_names | kept_names == trained
    assert not any(n.startswith("target.") for n in trained)


def test_every_trained_parameter_gets_a_gradient():
    """A parameter that never gets one would be dead weight in every table of counts."""
    from scjepa.stjepa import Batch

    model = STJEPAModule(6, 2, resolve("demo", tokens={"n_tokens": 4, "n_neighbors": 2}, encoder={"value": "mlp"}))
    genes = torch.arange(24) % 6
    segments = torch.tensor([0, 0, 0, 1, 1, 1, 2, 3]).repeat(3)
    batch = Batch(
        genes=genes,
        values=1.0 + genes,
        ranks=torch.tensor([0, 1, 2, 0, 1, 2, 0, 0]).repeat(3),
        segments=segments,
        sequences=torch.arange(3).repeat_interleave(8),
        technologies=torch.tensor([0, 1, 0]),
        n_segments=3,
        partners=torch.tensor([1, 2, 0]),
    )
    model.loss(batch, torch.Generator().manual_seed(0)).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
