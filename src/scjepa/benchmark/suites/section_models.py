"""The models of a comparison of sections: ST-JEPA and what shares its input as methods, and levels of an ablation."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from anndata import AnnData

from scjepa._core import keys as _keys
from scjepa._core.options import unknown_name
from scjepa._core.plain import plain
from scjepa.benchmark.controls import SECTION_CONTROLS
from scjepa.benchmark.method import REGISTRY, Arguments, Method, MethodError, Parts, peers_of
from scjepa.benchmark.store import Level
from scjepa.benchmark.study import Entry, Methods, Options, choose, word
from scjepa.stjepa.config import STJEPAConfig, resolve

OURS, UNTRAINED = "stjepa", "untrained"

Axes = Mapping[str | tuple[str, ...], Sequence[object]]
"""Values of an option such as ``"tokens.n_tokens"``; of several options at once, a tuple of names and of values."""

PARTS = ("tokens", "encoder", "masking", "objective", "training")

SETTINGS = "settings"
"""Option of every method: the one of its settings that takes part, where all would take too long."""

_UNTOLD = ("preset", "accelerator", "genes", "batch_size")
"""Options that are no part of a configuration's name: told otherwise, or without influence on the result."""

_PRODUCT = {"value": "bound", "value_scale": "log1p", "rank": "none", "segment": "none", "n_layers": 1}
"""An encoder that is given gene ⊙ log1p(count), without rank and segment."""


def _stjepa(
    adata: AnnData,
    *,
    seed: int,
    n_niches: int | None = None,
    preset: str | STJEPAConfig = "base",
    genes: Sequence[str] | None = None,
    accelerator: str = "auto",
    trained: bool = True,
    contextual: bool = True,
    **parts: Arguments,
) -> Parts:
    """Embed neighborhoods and cells, from some of the genes or from all, and let go of the data.

    Parameters
    ----------
    trained
        Whether ST-JEPA is trained on the data, rather than taken with its initial weights.
    contextual
        Whether by the transformer, rather than by the mean of what it is given.
    **parts
        Changes to the preset.
    """
    from scjepa.stjepa.model import STJEPA

    panel = _keys.PANEL if _keys.PANEL in adata.varm else None
    STJEPA.setup_anndata(adata, technology_key=_keys.TECHNOLOGY, library_key=_keys.SECTION, panel_key=panel)
    if not contextual:
        parts["encoder"] = {**(parts.get("encoder") or {}), **_PRODUCT}
    model = STJEPA(adata, preset, seed=seed, **parts)
    if trained:
        model.train(accelerator=accelerator, progress_bar=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This model is not trained")
        near = model.get_latent_representation(genes=genes, contextual=contextual)
        cells = model.get_latent_representation(genes=genes, scale="cell", contextual=contextual)
    # scvi-tools keeps the data of every model for as long as the session lasts; a comparison makes hundreds.
    model.deregister_manager(model.adata)
    config = {f"config.{name}": part for name, part in model.config.to_dict().items()}
    info = {"steps": model.n_steps_, "verdict": model.diagnose().verdict, **config}
    return {"embedding": near, "cell_embedding": cells, "info": info}


def _precomputed(
    adata: AnnData, *, seed: int, n_niches: int | None = None, obsm_key: str | None = None, obs_key: str | None = None
) -> Parts:
    """Take an embedding of ``obsm``, clusters of ``obs``, or both."""
    if obsm_key is None and obs_key is None:
        raise MethodError("Name what was computed: options={'obsm_key': ...} or {'obs_key': ...}.")
    return {
        "embedding": None if obsm_key is None else np.asarray(adata.obsm[obsm_key]),
        "clusters": None if obs_key is None else np.asarray(adata.obs[obs_key]),
        "info": {"obsm_key": obsm_key, "obs_key": obs_key},
    }


def _model(description: str, *more: str, group: str = "controls", **fixed: bool) -> Method:
    options = ("preset", "tokens", "encoder", "genes", *more)
    return Method(description, _stjepa, options=options, fixed=fixed, packages=("scjepa", "torch"), group=group)


REGISTRY["sections"].update(
    {
        OURS: _model(
            "ST-JEPA, trained on the data; its neighborhood embeddings",
            *("masking", "objective", "training", "accelerator"),
            group="models",
        ),
        UNTRAINED: _model("the same encoder with its random initial weights", trained=False),
        "linear": SECTION_CONTROLS["linear"],
        "pooled_input": _model(
            "mean over a neighborhood of gene vector ⊙ log1p(count), gene vectors at random: the encoder's input",
            trained=False,
            contextual=False,
        ),
        **SECTION_CONTROLS,
        "precomputed": Method(
            "an embedding or clusters that are in the data",
            _precomputed,
            "options={'obsm_key': ...} or {'obs_key': ...}",
            options=("obsm_key", "obs_key"),
            obs_options=("obs_key",),
            obsm_options=("obsm_key",),
            seeded=False,
            gives=("embedding", "clusters"),
            group="",
        ),
        **peers_of("sections"),
    }
)


def entries_of(methods: Methods, *, preset: str | STJEPAConfig = "base", options: Options | None = None) -> list[Entry]:
    """Return the methods that take part, each in all its settings; see :func:`~scjepa.benchmark.study.choose`."""
    entries: list[Entry] = []
    for name, what in choose(methods, REGISTRY["sections"], options, (SETTINGS,)):
        if callable(what):
            entries.append(Entry.of(name, what))
            continue
        method, given = REGISTRY["sections"][name], dict(what)
        wanted = given.pop(SETTINGS, None)
        if wanted is not None and wanted not in method.settings:
            raise ValueError(unknown_name(f"settings of {name!r}", str(wanted), method.settings))
        if "preset" in method.options:
            given.setdefault("preset", preset)
            configured(given)  # raises for what cannot be, before anything runs
        for settings in method.settings if wanted is None else (wanted,):
            entries.append(Entry(name, method, settings, told(given), given))
    return list({(e.name, e.settings, e.configuration): e for e in entries}.values())


# -- configurations, what they are called, and those of an ablation --------------------------------------------------


def told(options: Arguments) -> str:
    """Return options in words: the preset first, then ``part.option=value``."""
    preset = options.get("preset")
    words = [] if preset is None else [preset if isinstance(preset, str) else "own configuration"]
    for name, value in options.items():
        if name in _UNTOLD:
            continue
        if isinstance(value, Mapping):
            words += [f"{name}.{key}={word(part)}" for key, part in value.items()]
        else:
            words.append(f"{name}={word(value)}")
    return ", ".join(words) or "-"


def configured(options: Arguments) -> STJEPAConfig:
    """Return the configuration that options of ST-JEPA give; one that cannot be is a ``ValueError``."""
    return resolve(options["preset"], **{part: options[part] for part in PARTS if part in options})


def ablation(entries: Sequence[Entry], axes: Axes) -> tuple[list[Entry], list[Level]]:
    """Return the entries with ST-JEPA at every level of every axis beside them, and the levels.

    One axis is changed at a time, from the configuration that takes part anyway, the default: a level of every axis,
    named or not, and run once. The untrained encoder, where it takes part, is that of the level too.

    Raises
    ------
    ValueError
        If ST-JEPA takes no part, or an axis or a value is none that it can have.
    TypeError
        If an axis has no list of values.
    """
    if not isinstance(axes, Mapping):
        raise TypeError(f"axes is a {type(axes).__name__}; give values by option: {{'tokens.n_tokens': [16, 32]}}.")
    if not axes:
        return list(entries), []
    base = next((entry for entry in entries if entry.name == OURS), None)
    if base is None:
        raise ValueError(f"Axes are those of {OURS!r}: name it among the methods.")
    control = next((entry for entry in entries if entry.name == UNTRAINED), None)
    default = configured(base.options)
    found, levels = [base], []
    for axis, values in axes.items():
        names = (axis,) if isinstance(axis, str) else tuple(axis)
        changed = []
        if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
            raise TypeError(f"The axis {axis!r} needs a list of values, found {values!r}: {{{axis!r}: [{values!r}]}}.")
        for value in plain(list(values), arrays=True):
            own = (value,) if isinstance(axis, str) or not isinstance(value, list | tuple) else tuple(value)
            if len(own) != len(names):
                raise ValueError(f"The axis {names} needs {len(names)} values each, found {value!r}.")
            changed.append((own, _changed(base, dict(zip(names, own, strict=True)))))
        if all(entry is not base for _, entry in changed):
            changed.insert(0, (tuple(_value(default, name) for name in names), base))
        for own, entry in changed:
            beside = None if control is None else _untrained(control, entry)
            found += [entry] if beside is None else [entry, beside]
            words = (" × ".join(names), " × ".join(map(word, own)), entry.configuration, entry is base)
            levels.append(Level(*words, "" if beside is None else beside.configuration))
    every = {(e.name, e.settings, e.configuration): e for e in (*entries, *found)}
    return list(every.values()), levels


def _value(whole: STJEPAConfig, name: str) -> object:
    """Return the value of an option such as ``"tokens.n_tokens"``."""
    part, dot, option = name.partition(".")
    if part not in PARTS or not dot:
        raise ValueError(f"An axis is PART.OPTION, such as tokens.n_tokens, of {', '.join(PARTS)}; found {name!r}.")
    if not hasattr(getattr(whole, part), option):
        raise ValueError(unknown_name(f"option of {part!r}", option, vars(getattr(whole, part))))
    return getattr(getattr(whole, part), option)


def _untrained(control: Entry, entry: Entry) -> Entry:
    """Return the encoder of an entry, untrained: with its preset, tokens and encoder, without what training reads."""
    read = {part: entry.options[part] for part in PARTS if part in entry.options and part in control.method.options}
    rest = {name: value for name, value in control.options.items() if name not in PARTS}
    options = {**rest, "preset": entry.options["preset"], **read}
    return replace(control, configuration=told(options), options=options)


def _changed(base: Entry, changes: Arguments) -> Entry:
    """Return an entry with options changed; the entry itself where it has these values already."""
    whole = configured(base.options)
    options = {**base.options}
    for name, value in changes.items():
        _value(whole, name)  # raises where there is no such option
        part, _, option = name.partition(".")
        options[part] = {**dict(options.get(part) or {}), option: value}
    if configured(options) == whole:  # raises for a value that cannot be, before anything runs
        return base
    extra = ", ".join(f"{name}={word(value)}" for name, value in changes.items())
    rest = {name: value for name, value in base.options.items() if name not in PARTS}
    kept = told({**rest, **{p: base.options[p] for p in PARTS if p in base.options}})
    return replace(base, configuration=f"{kept}, {extra}", options=options)
