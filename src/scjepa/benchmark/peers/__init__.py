"""Adapters of other groups' methods: each file calls one package's public interface as its tutorial does.

They run under the peers' interpreter, which need not have scjepa, so they import nothing of it but
``scjepa_squidpy``, as the worker calls ``scjepa/_core/squidpy.py``. An adapter has ``PACKAGES``, the distributions
whose versions are reported, and ``run(adata, *, seed, settings, n_niches, **options)``, which returns a dict of
``embedding``, ``clusters`` (each optional) and ``info``.
"""
