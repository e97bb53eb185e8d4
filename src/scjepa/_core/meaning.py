"""What is meant by a name that is not known: one of the same meaning, which other packages use, or of like spelling."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_SAME = (
    *(
        "library_key batch_key batch sample_key sample slide_key slide section_key section library library_id "
        "sample_col donor_key fov core by groups_key standardize_by",
    ),
    "technology_key technology platform assay panel_key",
    "max_epochs n_epochs epochs num_epochs nb_epoch",
    "max_steps n_steps steps num_steps",
    "width encoder n_latent latent_dim n_hidden hidden_dim embedding_dim latent_size d_model n_dims",
    "n_niches n_clusters num_clusters n_domains niches clusters k",
    "random_state seed random_seed rng",
    "niche_key color cluster_key groupby cluster key hue domain_key labels",
    "by groupby cell_type_key labels_key label_key celltype_key",
    "labels_key label label_key label_col cell_type_key",
    "n_neighbors n_neighs knn k n_neighbours",
    "neighbors_key connectivity_key graph_key adjacency key",
    "connectivities adjacency graph",
    "use_rep basis obsm_key embedding rep emb_key representation",
    "key_added added_key out_key output_key result_key",
    "reference groundtruth annotation labels region",
    "n_genes n_top_genes top_genes n_markers",
    "n_comps n_components n_pcs",
    "n_permutations n_perms perms",
    "batch_size minibatch_size",
    "learning_rate lr",
    "accelerator device use_gpu gpu",
    "n_rings n_hops hops n_layers rings",
    "spatial_key coordinates coords obsm",
    "layer counts_layer count_layer raw_layer",
    "size point_size spot_size marker_size s",
    "palette colors cmap color_map colormap",
    "ncols n_cols columns",
    "save out path filename",
)
"""Words of one meaning: ours, and what other packages, or people, call it."""

_WRITTEN = {"encoder": "encoder={'width': ...}"}
"""How an argument is written that has what is meant inside."""


def nearest(name: object, known: Iterable[str]) -> str | None:
    """Return the name among those ``known`` that is meant by another; ``None`` where none is like it.

    Parameters
    ----------
    name
        Such as ``"n_clusters"`` or ``"n-clusters"``; of two that mean the same, the one that is known is found.
    """
    names, word = list(known), str(name).strip("-").replace("-", "_").lower()
    plain = {each.strip("-").replace("-", "_").lower(): each for each in names}
    if f"{word}_key" in plain:
        return plain[f"{word}_key"]
    for words in (line.split() for line in _SAME if word in line.split()):
        there = [each for each in words if each in plain]
        if there:
            return plain[there[0]]
    near = get_close_matches(word, list(plain), n=1)
    return plain[near[0]] if near else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the question whether another name is meant, after a space; nothing where none is like it."""
    found = nearest(name, known)
    if found is None:
        return ""
    by_meaning = found in _WRITTEN and not get_close_matches(str(name), [found])
    return f" Did you mean {_WRITTEN[found] if by_meaning else repr(found)}?"
