"""Moved: see scjepa._core.anndata."""

from scjepa._core.anndata import *  # noqa: F403
from scjepa._core.anndata import (  # noqa: F401
    as_embedding,
    categories_of,
    column_of,
    embedding_of,
    groups_of,
    niches_of,
    record,
    record_of,
    refuse_users,
)
