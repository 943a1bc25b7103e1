"""Conversion of Mel-Band RoFormer's and BS-RoFormer's checkpoints of PyTorch.

Checkpoints of Music-Source-Separation-Training (MSST), which most published models were trained
and are run with, and of Kim's code. The sizes are in a YAML file beside the checkpoint; those that
follow from the shapes are compared with it, or replace what it lacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from spleeter_2.checks import check_path
from spleeter_2.config.loading import WINDOW
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError

from .mapping import Conversion
from .placement import placed, refuse_faults, unexpected, value_of
from .prefixes import choose_network
from .roformer_options import Options, parse_configuration_of, published, read_options
from .roformer_sizes import FIRST, sizes_of
from .safetensors_file import is_safetensors, read_safetensors
from .torch_checkpoint import Checkpoint, read_checkpoint

MODULES = ("layers", "band_split", "mask_estimators", "final_norm")
ROTARY = ".rotary_embed."
# parts of names of networks that compute something else
REFUSED = {
    "value_residual": "value residuals",
    ".branch.": "hyper-connections",
    "hyper_conn": "hyper-connections",
    "residual_streams": "hyper-connections",
    "pope": "PoPE",
}
# caches of positions, which older versions of rotary-embedding-torch may have stored
CACHES = re.compile(r"\.rotary_embed\.(cached_freqs|cached_scales|scale|dummy)$")

# tensor, our variable, rule: a of queries, keys, values; h of heads; j of pairs; p in a pair
ATTENTION = (
    ("norm.gamma", "gamma", "i -> i"),
    ("to_qkv.weight", "qkv_kernel", "(a h j p) i -> i a h p j"),
    ("to_gates.weight", "gates_kernel", "h i -> i h"),
    ("to_gates.bias", "gates_bias", "h -> h"),
    ("to_out.0.weight", "output_kernel", "i (h j p) -> h p j i"),
)
LINEAR_ATTENTION = (
    ("norm.gamma", "gamma", "i -> i"),
    ("to_qkv.0.weight", "qkv_kernel", "o i -> i o"),
    ("temperature", "temperature", "h x y -> h x y"),
    ("to_out.1.weight", "output_kernel", "i o -> o i"),
)
FEED_FORWARD = (
    ("net.0.gamma", "gamma", "i -> i"),
    ("net.1.weight", "kernel_1", "o i -> i o"),
    ("net.1.bias", "bias_1", "o -> o"),
    ("net.4.weight", "kernel_2", "i o -> o i"),
    ("net.4.bias", "bias_2", "i -> i"),
)

Expected = tuple[str, str, str, tuple[int, ...]]  # name, variable, rule, shape of the variable


def read_roformer(
    path: str | os.PathLike, config: str | os.PathLike | None = None, keep_dc: bool = False
) -> Conversion:
    """Plan the conversion of a file.

    Args:
        path: a file of ``torch.save`` or of safetensors.
        config: its YAML file; None for the sizes of published models.
        keep_dc: do not set bin 0 of the estimates to zero, whatever the YAML file has.

    Raises:
        SeparationError: a file cannot be read, or ``plan`` refuses the network.
    """
    path = Path(check_path("path", path))
    checkpoint = read_weights(path)
    given = None if config is None else read_options(Path(check_path("config", config)))
    conversion = plan(checkpoint.arrays, given, keep_dc)
    conversion.configuration["source"] = {
        "project": conversion.family,
        "file": path.name,
        "sha256": checkpoint.sha256,
    }
    return conversion


def read_weights(path: Path) -> Checkpoint:
    """Read a checkpoint in any container.

    Raises:
        SeparationError: the file cannot be read.
    """
    return read_safetensors(path) if is_safetensors(path) else read_checkpoint(path)


def plan(
    arrays: dict[str, np.ndarray], given: Options | None = None, keep_dc: bool = False
) -> Conversion:
    """Map every tensor to its variable.

    Args:
        arrays: the state dict; its names may have a prefix. Emptied, since large networks would
            not fit into memory twice.
        given: contents of the YAML file.
        keep_dc: see ``read_roformer``.

    Raises:
        SeparationError: another network, or a variant that is not supported; sizes that do not
            agree; a table of tensors that are missing, unexpected or of a wrong shape.
    """
    chosen = choose_network(arrays, MODULES, FIRST, "", "RoFormer")
    state = {name: arrays[source] for name, source in chosen.names.items()}
    _refuse_variants(chosen.names)
    found = sizes_of(state)
    notes = list(chosen.notes)
    if given is None:
        given = published(found, notes)
    if keep_dc:
        given.model["zero_dc"] = False
    data = given.configuration(found, notes)
    configuration = parse_configuration_of(data)
    family = found.family
    expected = list(expected_tensors(configuration, state))
    used = {name for name, *_ in expected}
    ignored = {name for name in state if CACHES.search(name)} | _repeated(state, expected)
    rows, faults = placed(state, chosen.names, expected)
    faults += [
        unexpected(chosen.names[name], state[name]) for name in state.keys() - used - ignored
    ]
    refuse_faults(faults, f"a {family} of these sizes")
    unused = sorted([*(chosen.names[name] for name in ignored), *chosen.unused])
    del state
    for name in unused:
        del arrays[name]
    values = {row.variable: value_of(arrays.pop(row.source), row) for row in rows}
    if (window := given.window()) is not None:
        values[WINDOW] = window
    return Conversion(family, data, rows, unused, values, notes)


def _refuse_variants(names: Mapping[str, str]) -> None:
    """Raise SeparationError for tensors of a variant of the network."""
    for name in names.values():
        for mark, variant in REFUSED.items():
            if mark in name:
                raise SeparationError(
                    f"the checkpoint has {variant} ({name}), which spleeter-2 does not compute: "
                    "it takes networks of MSST's standard classes"
                )


def expected_tensors(
    configuration: Configuration, state: Mapping[str, np.ndarray]
) -> Iterator[Expected]:
    """Yield every tensor of a network once; of repeated tables of positions, one that is there."""
    model, nb_channels = configuration.model, configuration.nb_channels
    for band, (start, end) in enumerate(model.bands):
        size = 2 * nb_channels * (end - start)
        name, variable = f"band_split.to_features.{band}", f"band_split/band_{band + 1}"
        yield f"{name}.0.gamma", f"{variable}_gamma", "i -> i", (size,)
        yield f"{name}.1.weight", f"{variable}_kernel", "o i -> i o", (size, model.dim)
        yield f"{name}.1.bias", f"{variable}_bias", "o -> o", (model.dim,)
    yield from _transformers(configuration)
    for kind, number in _rotary_places(configuration).items():
        names = [name for name in state if _is_table(name, number)]
        first = f"layers.0.{number}.layers.0.0.rotary_embed.freqs"
        name = first if first in names else next(iter(names), first)
        yield name, f"{kind}_rotary/frequencies", "j -> j", (model.head_size // 2,)
    if not model.output_norm:
        yield "final_norm.gamma", "output_norm/gamma", "i -> i", (model.dim,)
    for stem, target in enumerate(configuration.targets):
        yield from _masks(configuration, stem, target)


def _transformers(configuration: Configuration) -> Iterator[Expected]:
    model = configuration.model
    depths = {
        "linear": model.linear_layers,
        "time": model.time_layers,
        "frequency": model.frequency_layers,
    }
    kinds = [kind for kind in depths if kind != "linear" or model.linear_layers]
    dim, inner, heads = model.dim, model.heads * model.head_size, model.heads
    half = (2, model.head_size // 2)
    shapes = {
        ("gamma",): (dim,),
        ("gates_kernel",): (dim, heads),
        ("gates_bias",): (heads,),
        ("temperature",): (heads, 1, 1),
        ("kernel_1",): (dim, 4 * dim),
        ("bias_1",): (4 * dim,),
        ("kernel_2",): (4 * dim, dim),
        ("bias_2",): (dim,),
        ("qkv_kernel", "linear"): (dim, 3 * inner),
        ("output_kernel", "linear"): (inner, dim),
        ("qkv_kernel", "rotary"): (dim, 3, heads, *half),
        ("output_kernel", "rotary"): (heads, *half, dim),
    }
    for block in range(model.depth):
        for number, kind in enumerate(kinds):
            where, layer = f"layers.{block}.{number}", f"block_{block + 1}_{kind}"
            is_linear = kind == "linear"
            for n in range(depths[kind]):
                parts = (
                    (0, "attention", LINEAR_ATTENTION if is_linear else ATTENTION),
                    (1, "feed_forward", FEED_FORWARD),
                )
                for part, ours, table in parts:
                    for tensor, variable, rule in table:
                        key = (variable, "linear" if is_linear else "rotary")
                        shape = shapes.get(key) or shapes[(variable,)]
                        yield (
                            f"{where}.layers.{n}.{part}.{tensor}",
                            f"{layer}_{n + 1}_{ours}/{variable}",
                            rule,
                            shape,
                        )
            if model.output_norm:
                yield f"{where}.norm.gamma", f"{layer}_norm/gamma", "i -> i", (dim,)


def _masks(configuration: Configuration, stem: int, target: str) -> Iterator[Expected]:
    model = configuration.model
    width = model.dim * model.mask_expansion
    for band, (start, end) in enumerate(model.bands):
        result = 2 * 2 * configuration.nb_channels * (end - start)
        sizes = [model.dim, *[width] * model.mask_layers, result]
        for n in range(len(sizes) - 1):
            name = f"mask_estimators.{stem}.to_freqs.{band}.0.{2 * n}"
            variable = f"{target}_mask/band_{band + 1}"
            yield (
                f"{name}.weight",
                f"{variable}_kernel_{n + 1}",
                "o i -> i o",
                (
                    sizes[n],
                    sizes[n + 1],
                ),
            )
            yield f"{name}.bias", f"{variable}_bias_{n + 1}", "o -> o", (sizes[n + 1],)


def _rotary_places(configuration: Configuration) -> dict[str, int]:
    """Numbers of the transformers with positions, along time and along frequency."""
    model = configuration.model
    first = 1 if model.linear_layers else 0
    layers = {"time": model.time_layers, "frequency": model.frequency_layers}
    return {kind: first + i for i, (kind, count) in enumerate(layers.items()) if count}


def _is_table(name: str, number: int) -> bool:
    """True for the name of a table of positions of the transformers of a number."""
    pattern = rf"layers\.\d+\.{number}\.layers\.\d+\.0\.rotary_embed\.freqs"
    return re.fullmatch(pattern, name) is not None


def _repeated(state: Mapping[str, np.ndarray], expected: list[Expected]) -> set[str]:
    """Names of further copies of the tables of positions.

    Raises:
        SeparationError: a copy differs.
    """
    repeated = set()
    for first, variable, *_ in expected:
        if ROTARY not in first or first not in state:
            continue
        number = int(first.split(".")[2])
        for name in state:
            if name == first or not _is_table(name, number):
                continue
            if not np.array_equal(state[name], state[first]):
                raise SeparationError(
                    f"{name} differs from {first}: the tables of positions must be equal in all "
                    f"layers ({variable})"
                )
            repeated.add(name)
    return repeated
