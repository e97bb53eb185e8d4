"""What became of the sections of a collection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What :meth:`Collection.prepare` did.

    Attributes
    ----------
    made
        Names of the sections that were prepared.
    kept
        Names of those that were there.
    renewed
        Names of those that were prepared anew, and why: the file had changed, or the shard was damaged.
    refused
        What could not be prepared, and why, by file and section.
    warnings
        What was noticed in sections that were prepared, by their names.
    """

    made: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    renewed: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    warnings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counted = {"made": self.made, "there already": self.kept, "made anew": self.renewed, "refused": self.refused}
        lines = [", ".join(f"{len(names):,} {what}" for what, names in counted.items() if names) or "nothing to do"]
        lines += [f"made anew: {name}: {why}" for name, why in self.renewed.items()]
        lines += [f"refused: {why}" for why in self.refused.values()]
        return "\n".join(lines + [f"warning: {name}: {text}" for name, text in self.warnings.items()])
