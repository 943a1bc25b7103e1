"""MDX-Net's ONNX files, of Ultimate Vocal Remover (UVR), as models for ``-p``.

The file is used as it is. The length of its STFT and the stem are not in it: they are known for the
published files (``mdx_models.tsv``), and parameters of the user for others.
"""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.checks import check_flag, check_number, check_text, check_whole
from spleeter_2.config.loading import ONNX_FILE, load_configuration, parse_configuration
from spleeter_2.errors import SeparationError
from spleeter_2.files import read_json
from spleeter_2.runtime import mdx
from spleeter_2.runtime.network import start_session
from spleeter_2.runtime.onnx_file import OnnxFile, read_onnx_file
from spleeter_2.separation.separator import Separator

from .mapping import Conversion, Row
from .verify import Difference, difference, read_arrays

KNOWN = Path(__file__).parent / "mdx_models.tsv"
HASHED = 10_240_000  # bytes at the end of a file, by whose MD5 UVR finds its parameters
SAMPLE_RATE, HOP = 44100, 1024  # of all published files
LARGEST = 1 << 20  # size that is accepted
# stems of UVR, and what remains of the mixture, by our names
STEMS = {"vocals": ("vocals", "accompaniment"), "instrumental": ("accompaniment", "vocals")}
ADVICE = "fetch the file again"
# an output of ``--expected`` and its input
EXPECTED = {
    "net_out": "net_in",
    "chunk_spec": "chunk_in",
    "chunk_spec_out": "chunk_in",
    "chunk_out": "chunk_in",
    "ov_default": "wave_in",
    "primary_uvr": "wave_in",
    "secondary_uvr": "wave_in",
    "short_ov_default": "short_wave_in",
}


@dataclass(frozen=True)
class Parameters:
    """Facts about a network that its file lacks; None: unknown.

    Attributes:
        nb_bins, nb_frames: of its input.
        n_fft, hop_length: of the STFT, in samples.
        compensate: factor of the estimate.
        stem: that it estimates, as UVR names it.
        is_karaoke: the vocals are the lead vocals; others belong to the accompaniment.
    """

    nb_bins: int | None = None
    nb_frames: int | None = None
    n_fft: int | None = None
    hop_length: int = HOP
    compensate: float | None = None
    stem: str | None = None
    is_karaoke: bool = False


@dataclass(frozen=True)
class OnnxConversion(Conversion):
    """A model whose weights are in an ONNX file, which is copied."""

    file: OnnxFile = field(kw_only=True)

    @property
    def nb_parameters(self) -> int:
        return self.file.nb_parameters

    @property
    def nb_arrays(self) -> int:
        return len(self.rows)

    def write_weights(self, folder: Path) -> None:
        path = folder / ONNX_FILE
        shutil.copyfile(self.file.path, path)
        for name in self.file.others:
            shutil.copyfile(self.file.path.parent / name, folder / name)
        if _sha256(path.read_bytes()) != self.configuration["source"]["sha256"]:
            raise SeparationError(f"{self.file.path} has changed while it was read: try again")


def read_mdx(
    path: Path,
    parameters: Path | None = None,
    n_fft: int | None = None,
    hop_length: int | None = None,
    nb_bins: int | None = None,
    nb_frames: int | None = None,
    stem: str | None = None,
    compensate: float | None = None,
) -> OnnxConversion:
    """Plan the conversion of an ONNX file.

    Args:
        parameters: JSON file of UVR's with the file's parameters: the entry, or a table of entries
            by hash. Default: the published ones.
        n_fft, hop_length, nb_bins, nb_frames, stem, compensate: replace those; see ``Parameters``.

    Raises:
        SeparationError: another kind of file or one that cannot be trusted (``read_onnx_file``); no
            parameters, or parameters that do not fit.
    """
    if not path.exists():
        raise SeparationError(f"{path} does not exist")
    file = read_onnx_file(path)
    _check_others(file)
    content = path.read_bytes()
    digest = hashlib.md5(content[-HASHED:], usedforsecurity=False).hexdigest()
    found, origin = _parameters(path, digest, parameters)
    given = (n_fft, hop_length, nb_bins, nb_frames, stem, compensate)
    found = replace(found, **_options(*given))
    session = start_session(path.absolute(), advice=ADVICE)
    bins, frames = mdx.check_contract(path, session)
    found = replace(
        found,
        nb_bins=_agreed(path, "bins", bins, found.nb_bins),
        nb_frames=_agreed(path, "frames", frames, found.nb_frames),
    )
    _require_known(path, digest, found)
    configuration = _configuration(path, found, file)
    configuration["source"] = {
        "project": "Ultimate Vocal Remover (MDX-Net)",
        "file": path.name,
        "sha256": _sha256(content),
    }
    parse_configuration(configuration)
    rows = [Row(name, shape, name, shape, "as it is") for name, shape in file.tensors.items()]
    operators = ", ".join(f"{number} {name}" for name, number in file.operators.most_common())
    family = f"MDX-Net, opset {file.opset}: {operators}"
    notes = _notes(digest, origin, found)
    return OnnxConversion(family, configuration, rows, [], {}, notes, file=file)


def known_models() -> dict[str, dict[str, str]]:
    """Rows of the table of published models, by hash."""
    lines = [line for line in KNOWN.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {row["hash"]: row for row in csv.DictReader(lines, delimiter="\t")}


def _check_others(file: OnnxFile) -> None:
    """Raise SeparationError if a file with tensors has the name of another one of the folder."""
    for name in file.others:
        if name == ONNX_FILE or re.fullmatch(r"checkpoint.*|.*\.(json|md|onnx)|\..*", name, re.I):
            raise SeparationError(
                f"{file.path} takes tensors from a file that is named {name}: pack them into one "
                "file"
            )


def _parameters(path: Path, digest: str, file: Path | None) -> tuple[Parameters, str]:
    """Parameters of a file of the user's or of the table, and a sentence about their origin."""
    if file is None:
        row = known_models().get(digest)
        if row is None:
            return Parameters(), "not one of the published files that are known"
        return Parameters(
            nb_bins=int(row["dim_f"]),
            nb_frames=2 ** int(row["log2_dim_t"]),
            n_fft=int(row["n_fft"]),
            compensate=float(row["compensate"]),
            stem=row["primary_stem"],
            is_karaoke=row["karaoke"] == "1",
        ), "a published file: parameters of UVR's table"
    data = read_json(file, "parameters")
    if not any(key.startswith("mdx_") or key == "config_yaml" for key in data):
        if not isinstance(data.get(digest), dict):
            raise SeparationError(f"{file} has no parameters for {path}, whose hash is {digest}")
        data = data[digest]
    return _from_json(file, data), f"parameters of {file.name}"


def _from_json(file: Path, data: Mapping[str, Any]) -> Parameters:
    """UVR's keys."""
    if "config_yaml" in data:
        raise SeparationError(
            f"{file} has parameters of another network, MDX23C, which is a PyTorch checkpoint"
        )

    def value(key: str, check, *bounds):
        return check(f"{key} in {file}", data[key], *bounds) if key in data else None

    log2 = value("mdx_dim_t_set", check_whole, 1, 16)
    return Parameters(
        nb_bins=value("mdx_dim_f_set", check_whole, 1, LARGEST),
        nb_frames=None if log2 is None else 2**log2,
        n_fft=value("mdx_n_fft_scale_set", check_whole, 1, LARGEST),
        compensate=value("compensate", check_number, 0.01, 10),
        stem=value("primary_stem", check_text),
        is_karaoke=value("is_karaoke", check_flag) or False,
    )


def _options(
    n_fft: int | None,
    hop_length: int | None,
    nb_bins: int | None,
    nb_frames: int | None,
    stem: str | None,
    compensate: float | None,
) -> dict[str, Any]:
    """The given ones of the fields of ``Parameters``, checked."""
    given: dict[str, Any] = {}
    numbers = {
        "n_fft": ("--n-fft", n_fft),
        "hop_length": ("--hop-length", hop_length),
        "nb_bins": ("--bins", nb_bins),
        "nb_frames": ("--frames", nb_frames),
    }
    for name, (option, value) in numbers.items():
        if value is not None:
            given[name] = check_whole(option, value, 1, LARGEST)
    if stem is not None:
        given["stem"] = check_text("--stem", stem)
    if compensate is not None:
        given["compensate"] = check_number("--compensate", compensate, 0.01, 10)
    return given


def _agreed(path: Path, name: str, graph: int | None, given: int | None) -> int:
    """Size of the graph and of the parameters, of which one may be unknown."""
    if graph is None and given is None:
        raise SeparationError(
            f"{path} takes any number of {name}: give it with --{name}, or UVR's parameters with "
            "--json"
        )
    if None not in (graph, given) and graph != given:
        raise SeparationError(
            f"{path} is a network of {graph} {name}, its parameters are those of one of {given}"
        )
    return given if graph is None else graph


def _require_known(path: Path, digest: str, found: Parameters) -> None:
    if found.n_fft is None or found.stem is None:
        raise SeparationError(
            f"{path} is not one of the published files that are known (hash {digest}): give UVR's "
            "parameters with --json, or --n-fft and --stem"
        )
    if found.n_fft % 2 or found.n_fft // 2 + 1 < found.nb_bins:
        raise SeparationError(
            f"an STFT of {found.n_fft} samples has not the {found.nb_bins} bins of {path}: give "
            "another --n-fft"
        )


def _configuration(path: Path, found: Parameters, file: OnnxFile) -> dict[str, Any]:
    stem = re.sub(r"[^a-z0-9.-]+", "_", found.stem.strip().lower())
    target, residual = STEMS.get(stem, (stem, f"no_{stem}"))
    stride = file.stride if 0 < file.stride <= found.nb_frames else 1
    return {
        "spleeter_2": 1,
        "name": re.sub(r"[^A-Za-z0-9.-]+", "_", path.stem).lstrip("_-") or "mdx",
        "description": f"MDX-Net for {target}",
        "sample_rate": SAMPLE_RATE,
        "nb_channels": 2,
        "targets": [target],
        "residual": residual,
        "stft": {"frame_length": found.n_fft, "frame_step": found.hop_length},
        "segment": {"nb_frames": found.nb_frames, "trim": 0, "overlap": None, "join": "hann"},
        "model": {
            "type": "mdx",
            "nb_bins": found.nb_bins,
            "compensate": 1.0 if found.compensate is None else found.compensate,
            "stride": stride if found.nb_frames % stride == 0 else 1,
        },
    }


def _notes(digest: str, origin: str, found: Parameters) -> list[str]:
    notes = [
        f"{origin} (hash {digest})",
        f"{found.nb_bins} of {found.n_fft // 2 + 1} bins, windows of {found.nb_frames} frames",
    ]
    if found.compensate is None:
        notes.append("no factor of compensation is known: 1.0; --compensate gives another")
    else:
        notes.append(f"the estimate is multiplied by {found.compensate} (compensation)")
    if found.is_karaoke:
        notes.append("a karaoke model: backing vocals belong to the accompaniment")
    return notes


def read_expected(path: Path) -> dict[str, np.ndarray]:
    """Arrays for ``differences``: outputs of ``EXPECTED`` with their inputs.

    ``net_in``, ``net_out`` ``[1, 4, F, T]``: the network alone. ``chunk_in``, ``chunk_out``
    ``[2, samples]``: a window; ``chunk_spec``, ``chunk_spec_out`` ``[4, F, T]``: its spectrogram
    before and behind the network. ``wave_in``, ``primary_uvr``, ``secondary_uvr``
    ``[2, samples]``: a song. ``ov_default``, ``short_ov_default``: before compensation.

    Raises:
        SeparationError: the file cannot be read or has none of them.
    """
    arrays = read_arrays(path)
    if not any({name, source} <= arrays.keys() for name, source in EXPECTED.items()):
        raise SeparationError(
            f"{path} holds no expected outputs: it needs net_in and net_out, chunk_in and "
            "chunk_out, or wave_in and primary_uvr"
        )
    return arrays


def differences(folder: Path, expected: Mapping[str, np.ndarray]) -> list[Difference]:
    """Compare a converted model with the outputs that ``read_expected`` returned.

    Raises:
        SeparationError: the shapes are those of another network.
    """
    wanted = [name for name, source in EXPECTED.items() if {name, source} <= expected.keys()]
    try:
        return [
            difference(name, found, expected[name])
            for name, found in _outputs(folder, expected)
            if name in wanted
        ]
    except (ValueError, IndexError) as error:
        raise SeparationError(
            f"the expected outputs are of another network: {str(error).splitlines()[0]}"
        ) from error


def _outputs(folder: Path, expected: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the outputs of a converted model for the inputs that there are."""
    configuration = load_configuration(str(folder))
    (target,), compensate = configuration.targets, configuration.model.compensate
    path = folder / ONNX_FILE
    session = start_session(path, advice=ADVICE)
    if "net_in" in expected:
        yield "net_out", mdx.run(path, session, expected["net_in"])
    if "chunk_in" in expected:
        transform = Transform(configuration.stft.frame_length, configuration.stft.frame_step)
        mixture = transform.forward(expected["chunk_in"].T, configuration.model.nb_bins)
        yield "chunk_spec", mdx.to_planes(mixture)[0]
        estimate = mdx.estimator(configuration, path, session)(mixture)[target] / compensate
        yield "chunk_spec_out", mdx.to_planes(estimate)[0]
        yield "chunk_out", transform.inverse(estimate, expected["chunk_in"].shape[1]).T
    separator = Separator(str(folder))
    if "wave_in" in expected:
        stems = separator.separate(expected["wave_in"].T)
        yield "primary_uvr", stems[target].T
        yield "secondary_uvr", stems[configuration.residual].T
        yield "ov_default", stems[target].T / compensate
    if "short_wave_in" in expected:
        estimate = separator.separate(expected["short_wave_in"].T)[target]
        yield "short_ov_default", estimate.T / compensate


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
