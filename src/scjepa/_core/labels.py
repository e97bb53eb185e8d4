"""Moved: see scjepa._core.anndata."""

from scjepa._core.anndata import labels_of, means_none, text_of, warn_of_words  # noqa: F401
