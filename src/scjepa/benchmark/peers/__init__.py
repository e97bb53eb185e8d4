"""Other groups' methods, one file each. A new file is a new method; nothing else has to be changed.

A file has ``METHODS``: for each name of the method in tables the attributes of :class:`scjepa.benchmark.Method`. A peer
of sections has ``run(adata, *, seed, settings, n_niches, **options)``, which runs in a process of its own under the
interpreter of ``SCJEPA_PEERS_PYTHON``, and ``PACKAGES``, the distributions whose versions are reported. A peer of cells
(``"suite": "cells"``) has ``fit(adata, *, seed, batch_key, **options)``, which returns the function that embeds cells.
Packages are imported within functions, for the file is read where they are not installed, and nothing of scjepa is.
"""
