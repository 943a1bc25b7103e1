"""Conversion of LaSAFT's PyTorch networks (all seven families) to the conditioned U-Net.

The tables list, for every tensor of the reference, its variable, the rule for its axes (see
``mapping``) and the sizes of these axes. Rule and sizes give the shapes of tensor and variable.

The sizes come from the checkpoint's hyper-parameters, the family from them and from the names of
the tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.checks import check_path
from spleeter_2.config.loading import FORMAT, WINDOW, parse_configuration
from spleeter_2.config.schema import Configuration, CUNet
from spleeter_2.errors import SeparationError
from spleeter_2.files import read_json

from .mapping import Conversion
from .placement import placed, refuse_faults, unexpected, value_of
from .prefixes import COUNTER, choose_network
from .torch_checkpoint import Checkpoint, Placeholder, read_checkpoint

INSTRUMENTS = ("vocals", "drums", "bass", "other")  # the reference's conditions 0 to 3
SAMPLE_RATE = 44100  # Hz, of MUSDB18
MARGIN = 5000  # smallest context on either side of a window in the reference, samples

# kind of module: its tensors, our variables, rules
CONV = (("weight", "kernel", "o i t f -> t f i o"), ("bias", "bias", "o -> o"))
UPCONV = (("weight", "kernel", "i o t f -> t f o i"), ("bias", "bias", "o -> o"))
LINEAR = (("weight", "kernel", "o i -> i o"), ("bias", "bias", "o -> o"))
LASAFT = (("weight", "kernel", "(o k) i -> k i o"), ("bias", "bias", "(o k) -> k o"))
LIGHTSAFT = (("weight", "kernel", "(k o) i -> k i o"), ("bias", "bias", "(k o) -> k o"))
STATISTICS = (
    ("running_mean", "moving_mean", "c -> c"),
    ("running_var", "moving_variance", "c -> c"),
)
NORM = (("weight", "gamma", "c -> c"), ("bias", "beta", "c -> c"), *STATISTICS)
EMBEDDING = (("weight", "embeddings", "i o -> i o"),)
KEYS = (("keys", "keys", "i k -> i k"),)

# module of the reference, our layer, kind, sizes: c channels, p planes, k kernel size, e embedding
ONCE = (
    ("first_conv.0", "first_conv", CONV, "t=1 f=2 i=p o=c"),
    ("first_conv.1", "first_conv/norm", NORM, "c=c"),
    ("last_conv.0", "last_conv", CONV, "t=1 f=2 i=c o=p"),
    ("embedding", "embedding", EMBEDDING, "i=conditions o=e"),
)
LEVEL = (  # i counts from 0, n from 1; t_down and t_up are strides in time
    ("downsamplings.{i}.0", "downsampling_{n}", CONV, "t=t_down f=2 i=c o=c"),
    ("downsamplings.{i}.1", "downsampling_{n}/norm", NORM, "c=c"),
    ("upsamplings.{i}.0", "upsampling_{n}", UPCONV, "t=t_up f=2 i=c o=c"),
    ("upsamplings.{i}.1", "upsampling_{n}/norm", NORM, "c=c"),
)
CONVOLUTION = (  # of every block; {tfc} is "tfc." or empty; seen: input channels
    ("{block}.{tfc}H.{i}.0", "{place}_conv_{n}", CONV, "t=k f=k i=seen o=c"),
    ("{block}.{tfc}H.{i}.1", "{place}_conv_{n}/norm", NORM, "c=c"),
)
ATTENTION = (
    ("{block}.linear_query", "{place}_frequency_attention", LINEAR, "i=e o=dk"),
    ("{block}", "{place}_frequency_attention", KEYS, "i=dk k=tdfs"),
)
FREQUENCY = {  # of every block; bins: of the block, u: bottleneck units
    None: (),
    "fc": (
        ("{block}.tdf.tdf.0", "{place}_frequency_linear_1", LINEAR, "i=bins o=u"),
        ("{block}.tdf.tdf.1", "{place}_frequency_linear_1/norm", NORM, "c=c"),
        ("{block}.tdf.tdf.3", "{place}_frequency_linear_2", LINEAR, "i=u o=bins"),
        ("{block}.tdf.tdf.4", "{place}_frequency_linear_2/norm", NORM, "c=c"),
    ),
    "lasaft": (
        ("{block}.tdfs.tdf.0", "{place}_frequency_linear_1", LINEAR, "i=bins o=u"),
        ("{block}.tdfs.tdf.1", "{place}_frequency_linear_1/norm", NORM, "c=c"),
        ("{block}.tdfs.tdf.3", "{place}_frequency_linear_2", LASAFT, "i=u o=bins k=tdfs"),
        ("{block}.tdfs.tdf.4", "{place}_frequency_linear_2/norm", NORM, "c=c"),
        *ATTENTION,
    ),
    "lightsaft": (
        ("{block}.LaSAFT_bn_layer.0", "{place}_frequency_linear_1", LIGHTSAFT, "i=bins o=u k=tdfs"),
        ("{block}.LaSAFT_bn_layer.1", "{place}_frequency_linear_1/norm", NORM, "c=c"),
        ("{block}.LaSIFT.0", "{place}_frequency_linear_2", LINEAR, "i=u o=bins"),
        ("{block}.LaSIFT.1", "{place}_frequency_linear_2/norm", NORM, "c=c"),
        *ATTENTION,
    ),
}
WITHOUT_BOTTLENECK = {  # bn_factor null
    "fc": (
        ("{block}.tdf.tdf.0", "{place}_frequency_linear_1", LINEAR, "i=bins o=bins"),
        ("{block}.tdf.tdf.1", "{place}_frequency_linear_1/norm", NORM, "c=c"),
    ),
    "lasaft": (
        ("{block}.tdfs.tdf.0", "{place}_frequency_linear_1", LASAFT, "i=bins o=bins k=tdfs"),
        ("{block}.tdfs.tdf.1", "{place}_frequency_linear_1/norm", NORM, "c=c"),
        *ATTENTION,
    ),
}
_CONTROL = "condition_generator.dense_control_block.linear"
CONTROL = (  # of every dense layer; linear and norm are PyTorch's module numbers
    (_CONTROL + ".{linear}", "control_{n}", LINEAR, "i=narrow o=wide"),
    (_CONTROL + ".{norm}", "control_{n}_norm", NORM, "c=wide"),
)
STEERING = (  # {name} is gamma or beta
    ("condition_generator.linear_{name}.0", "{name}", LINEAR, "i=wide o=size"),
    ("condition_generator.linear_{name}.2", "{name}_norm", STATISTICS, "c=size"),
)
FREQUENCY_MODULES = {"lasaft": ".tdfs.", "lightsaft": ".LaSAFT_bn_layer.", "fc": ".tdf."}
NUMBERS = (  # hyper-parameters and their exclusive upper bounds
    (("n_blocks", "n_internal_layers", "control_n_layer", "input_channels"), 100),
    (("n_fft", "hop_length", "num_frame"), 10**5),
)
ACCEPTED = {  # a missing one has the first value
    "control_vector_type": ("embedding",),
    "control_type": ("dense",),
    "control_input_dim": (len(INSTRUMENTS),),
    "film_type": ("complex",),
    "pocm_type": ("matmul", "naive"),
    "pocm_norm": (None, "batch_norm"),
}
NEEDED = (
    *("n_fft", "hop_length", "num_frame", "spec_type", "spec_est_mode", "n_blocks"),
    *("input_channels", "internal_channels", "first_conv_activation", "last_activation"),
    *("n_internal_layers", "kernel_size_t", "kernel_size_f", "t_down_layers", "condition_to"),
    *("embedding_dim", "control_n_layer"),
)
HANN = "stft.stft.window"  # window of the STFT, a part of the state dict
FIRST = "first_conv.0.weight"  # a tensor that every family has
MODULES = (
    *("first_conv", "last_conv", "embedding", "downsamplings", "upsamplings", "encoders"),
    *("decoders", "mid_block", "condition_generator", "stft"),
)


def read_lasaft(
    path: str | os.PathLike, hyper_parameters: str | os.PathLike | None = None
) -> Conversion:
    """Plan the conversion of a file.

    Args:
        path: a checkpoint of PyTorch Lightning, or a bare state dict; see ``choose_network`` for
            one that holds averaged weights as well.
        hyper_parameters: JSON file whose entries supplement and replace the checkpoint's own.

    Raises:
        SeparationError: a file cannot be read, or ``plan`` refuses the network.
    """
    path, given = Path(check_path("path", path)), {}
    if hyper_parameters is not None:
        file = Path(check_path("hyper_parameters", hyper_parameters))
        given = read_json(file, "hyper-parameters")
    checkpoint = read_checkpoint(path)
    conversion = plan(_weights(checkpoint), {**_own_hyper_parameters(checkpoint.metadata), **given})
    conversion.configuration["source"] = {
        "project": "LaSAFT",
        "file": path.name,
        "sha256": checkpoint.sha256,
    }
    return conversion


def _weights(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Return the tensors of the state dict, or of all state dicts that hold a network."""
    states = {checkpoint.place: checkpoint.arrays, **checkpoint.siblings}
    networks = {
        place: state
        for place, state in states.items()
        if any(name.endswith(FIRST) for name in state)
    }
    if len(networks) < 2:
        return next(iter(networks.values()), checkpoint.arrays)
    return {
        f"{place}.{name}" if place else name: array
        for place, state in networks.items()
        for name, array in state.items()
    }


def _own_hyper_parameters(metadata: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the hyper-parameters that PyTorch Lightning stores beside the weights."""
    keys = ("hyper_parameters", "hparams", "module_arguments")  # the newest first
    found = next((metadata[key] for key in keys if key in metadata), None)
    if isinstance(found, Placeholder):
        found = found.content
    return found if isinstance(found, dict) else {}


def plan(
    arrays: Mapping[str, np.ndarray], hyper_parameters: Mapping[str, Any] | None = None
) -> Conversion:
    """Map every tensor to its variable.

    Args:
        arrays: the state dict; its names may have a prefix, see ``choose_network``.
        hyper_parameters: of the reference's network.

    Raises:
        SeparationError: another network, or several; a missing hyper-parameter, or one that the
            reference cannot run; a table of tensors that are missing, unexpected or of a wrong
            shape.
    """
    chosen = choose_network(arrays, MODULES, FIRST, HANN)
    names = chosen.names
    state = {name: arrays[source] for name, source in names.items()}
    plain = {k: v for k, v in (hyper_parameters or {}).items() if not isinstance(v, np.ndarray)}
    family, options = _options(state, plain)
    notes = list(chosen.notes)
    configuration, data = _configuration(family, options, notes)
    expected = list(_expected(configuration))
    if HANN in state:
        expected.append((HANN, WINDOW, "n -> n", (configuration.stft.frame_length,)))
    else:
        notes.append("the checkpoint holds no STFT window: the Hann window is used")
    left_over = state.keys() - {name for name, *_ in expected}
    ignored = {name for name in left_over if COUNTER.search(name)}
    rows, faults = placed(state, names, expected)
    faults += [unexpected(names[name], state[name]) for name in left_over - ignored]
    refuse_faults(faults, f"a {family} network of these hyper-parameters")
    values = {row.variable: value_of(arrays[row.source], row) for row in rows}
    unused = sorted([*(names[name] for name in ignored), *chosen.unused])
    return Conversion(family, data, rows, unused, values, notes)


def _expected(
    configuration: Configuration,
) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yield every tensor of a network: name, variable, rule, shape of the variable."""
    model = configuration.model
    for section, names, sizes in _sections(configuration):
        for module, layer, kind, axes in section:
            size = {}
            for part in axes.split():
                axis, symbol = part.split("=")
                size[axis] = int(symbol) if symbol.isdigit() else sizes[symbol]
            for tensor, variable, rule in kind:
                if variable == "bias" and "_linear_" in layer and not model.frequency.bias:
                    continue
                shape = tuple(size[axis] for axis in rule.split(" -> ")[1].split())
                yield (
                    f"{module}.{tensor}".format(**names),
                    f"{layer}/{variable}".format(**names),
                    rule,
                    shape,
                )


def _sections(
    configuration: Configuration,
) -> Iterator[tuple[tuple, dict[str, Any], dict[str, int]]]:
    """Yield every table once per occurrence, with the values of its names and sizes."""
    model = configuration.model
    planes = configuration.nb_channels * (2 if model.spectrogram == "complex" else 1)
    sizes = {
        "c": model.channels,
        "p": planes,
        "k": model.kernel_size,
        "e": model.conditioning.embedding,
        "conditions": len(configuration.targets),
    }
    yield ONCE, {}, sizes
    for i, (frames, _) in enumerate(model.strides):
        up = model.strides[model.depth - 1 - i][0]
        yield LEVEL, {"i": i, "n": i + 1}, {**sizes, "t_down": frames, "t_up": up}
    for index, place in enumerate(model.places()):
        yield from _block(model, index, place, sizes)
    yield from _control(model, sizes)


def _block(
    model: CUNet, index: int, place: str, sizes: dict[str, int]
) -> Iterator[tuple[tuple, dict[str, Any], dict[str, int]]]:
    kind, _, number = place.partition("_")
    block = f"{kind}s.{int(number) - 1}" if number else "mid_block"
    seen = model.channels * (2 if kind == "decoder" else 1)
    names = {"block": block, "place": place, "tfc": "tfc." if model.frequency else ""}
    for i in range(model.layers):
        now = {**sizes, "seen": seen + i * model.channels}
        yield CONVOLUTION, {**names, "i": i, "n": i + 1}, now
    if model.frequency:
        options = model.frequency
        bins = (model.nb_bins - 1) >> min(index, 2 * model.depth - index)
        units = options.bottleneck(bins)
        table = (WITHOUT_BOTTLENECK if units is None else FREQUENCY)[options.type]
        now = {**sizes, "bins": bins, "u": units, "tdfs": options.num_tdfs, "dk": options.dk}
        yield table, names, now


def _control(
    model: CUNet, sizes: dict[str, int]
) -> Iterator[tuple[tuple, dict[str, Any], dict[str, int]]]:
    """Yield the dense layers (PyTorch's modules 0 | 2, 5 | 6, 9 | ...), then gamma and beta."""
    options = model.conditioning
    for n in range(1, options.control_layers):
        linear = 0 if n == 1 else 4 * n - 6
        names = {"n": n, "linear": linear, "norm": linear + 3}
        narrow = options.embedding * 2 ** (n - 1)
        now = {**sizes, "narrow": narrow, "wide": 2 * narrow}
        yield CONTROL[: 1 if n == 1 else 2], names, now
    square = 1 if options.type == "film" else model.channels
    for name, per_channel in (("gamma", square), ("beta", 1)):
        size = len(model.conditioned_blocks()) * model.channels * per_channel
        now = {**sizes, "wide": options.embedding * 2 ** (options.control_layers - 1), "size": size}
        yield STEERING[: 2 if options.norm else 1], {"name": name}, now


def _options(state: Mapping[str, np.ndarray], given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the family, and the hyper-parameters with ``film``, ``frequency``, ``activation``.

    Raises:
        SeparationError: a hyper-parameter is missing.
    """
    kinds = FREQUENCY_MODULES.items()
    frequency = next((kind for kind, mark in kinds if any(mark in name for name in state)), None)
    film = "film_type" in given
    activations = ("tfc_tdf_activation", "tfc_activation")  # the name depends on the family
    activation = next((name for name in activations if name in given), activations[not frequency])
    needed = [*NEEDED, activation]
    needed += ["gamma_activation", "beta_activation"] if film else ["pocm_type", "pocm_norm"]
    needed += ["bn_factor", "min_bn_units"] if frequency else []
    needed += ["num_tdfs", "dk"] if frequency in ("lasaft", "lightsaft") else []
    if missing := [name for name in needed if name not in given]:
        raise SeparationError(
            f"the checkpoint lacks the hyper-parameters {', '.join(missing)}: "
            "give them in a JSON file by --hyper-parameters"
        )
    derived = {"film": film, "frequency": frequency, "activation": given[activation]}
    suffix = {"fc": "_tdf", None: ""}.get(frequency, f"_{frequency}")
    return ("film" if film else "gpocm") + suffix, {**given, **derived}


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise SeparationError(sentence)


def _check(options: Mapping[str, Any]) -> None:
    """Refuse hyper-parameters that the reference cannot run or that are unknown."""
    for name, accepted in ACCEPTED.items():
        _require(
            options.get(name, accepted[0]) in accepted,
            f"{name} must be {' or '.join(map(json.dumps, accepted))}, not {options.get(name)!r}: "
            "the reference runs no other",
        )
    for names, limit in NUMBERS:
        for name in names:
            value = options[name]
            _require(
                type(value) is int and 0 < value < limit,
                f"{name} must be a number between 1 and {limit - 1}, not {value!r}",
            )
    _require(
        options["kernel_size_t"] == options["kernel_size_f"],
        f"kernel_size_t and kernel_size_f must be equal, not {options['kernel_size_t']} and "
        f"{options['kernel_size_f']}: the reference's dense block does not run otherwise",
    )
    _require(
        options["hop_length"] < MARGIN,
        f"hop_length must be below {MARGIN} samples, not {options['hop_length']}",
    )


def _time_levels(value: Any, levels: int) -> list[int] | None:
    """Parse the reference's ``t_down_layers``: null, or a list in a string."""
    if value is None:
        return None
    fault = f"t_down_layers must be null or a string such as '[0,2]', not {value!r}"
    _require(isinstance(value, str), fault)
    try:
        listed = json.loads(value)
    except ValueError as error:
        raise SeparationError(fault) from error
    _require(isinstance(listed, list) and all(type(i) is int for i in listed), fault)
    return sorted({i for i in listed if 0 <= i < levels})  # others match no layer


def _segment(options: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the reference's windows, with a shorter trim if hers covers a whole window."""
    hop = options["hop_length"]
    length = hop * (options["num_frame"] - 1)
    trim = -(-MARGIN // hop) * hop
    if length - 2 * trim <= options["n_fft"]:
        shorter = max(0, (length - options["n_fft"]) // 4 // hop * hop)
        notes.append(
            f"windows of {length} samples are too short for the reference's trim of {trim} "
            f"samples: {shorter} are trimmed"
        )
        trim = shorter
    return {"nb_frames": options["num_frame"], "trim": trim, "overlap": 0.5, "join": "equal"}


def _configuration(
    family: str, options: dict[str, Any], notes: list[str]
) -> tuple[Configuration, dict[str, Any]]:
    """Return a network's configuration, parsed and as JSON."""
    _check(options)
    film = options["film"]
    kind = options["frequency"]
    frequency = None
    if kind:
        names = ("bn_factor", "min_bn_units", "num_tdfs", "dk")
        frequency = {"type": kind, "bias": bool(options.get("tfc_tdf_bias", False))}
        frequency.update({name: options[name] for name in names if name in options})
    conditioning = {
        "type": "film" if film else "gpocm",
        "where": options["condition_to"],
        "transposed": not film and options["pocm_type"] == "naive",
        "norm": not film and options["pocm_norm"] is not None,
        "gamma_activation": options["gamma_activation"] if film else "identity",
        "beta_activation": options["beta_activation"] if film else "identity",
        "embedding": options["embedding_dim"],
        "control_layers": options["control_n_layer"],
    }
    model = {
        "type": "cunet",
        "nb_bins": options["n_fft"] // 2 + 1,
        "spectrogram": options["spec_type"],
        "estimate": options["spec_est_mode"],
        "blocks": options["n_blocks"],
        "channels": options["internal_channels"],
        "layers": options["n_internal_layers"],
        "kernel_size": options["kernel_size_t"],
        "time_levels": _time_levels(options["t_down_layers"], options["n_blocks"] // 2),
        "activation": options["activation"],
        "first_activation": options["first_conv_activation"],
        "last_activation": options["last_activation"],
        "frequency": frequency,
        "conditioning": conditioning,
    }
    per_channel = 2 if options["spec_type"] == "complex" else 1
    data = {
        "spleeter_2": FORMAT,
        "name": family,
        "description": f"LaSAFT's {family} network, converted from PyTorch",
        "sample_rate": SAMPLE_RATE,
        "nb_channels": options["input_channels"] // per_channel,
        "targets": list(INSTRUMENTS),
        "residual": None,
        "stft": {"frame_length": options["n_fft"], "frame_step": options["hop_length"]},
        "segment": _segment(options, notes),
        "model": model,
    }
    try:
        return parse_configuration(data), data
    except SeparationError as error:
        raise SeparationError(f"the hyper-parameters make no configuration: {error}") from error
