"""MDX-Net's ONNX files through ``Separator``."""

import json

import numpy as np
import pytest
from support import mdx
from support.common import RATE, files_below

from evaluation.methods import Method
from spleeter_2 import SeparationError, Separator
from spleeter_2.cli.main import entrypoint

# whole tracks of the reference: overlap and other keys of the configuration
TRACKS = {
    "ov_default": (None, {}),
    "ov025": (0.25, {}),
    "ov0": (0.0, {}),
    "ov075": (0.75, {}),
    "ov_default_denoise": (None, {"denoise": True}),
    "primary_uvr": (None, {"compensate": True}),
}


def write(folder, name="mdx_b", content=None, **changes):
    """A model's folder: ``name``'s sizes, and its network unless ``content`` is another one."""
    sizes = mdx.sizes(name)
    model = {"type": "mdx", "nb_bins": sizes["dim_f"], "stride": 2 ** sizes["n"]}
    segment = {"nb_frames": sizes["dim_t"], "trim": 0, "overlap": None, "join": "hann"}
    for keys in (model, segment):
        keys.update({key: changes.pop(key) for key in list(changes) if key in (*keys, "denoise")})
    if changes.pop("compensate", False):
        model["compensate"] = sizes["compensate"]
    data = {
        "spleeter_2": 1, "name": name, "sample_rate": RATE, "nb_channels": 2,
        "targets": ["vocals"], "residual": "accompaniment", "weights": ".",
        "stft": {"frame_length": sizes["n_fft"], "frame_step": sizes["hop"]},
        "segment": segment, "model": model, **changes,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(data))
    content = mdx.golden(f"{name}.onnx").read_bytes() if content is None else content
    (folder / "model.onnx").write_bytes(content)
    return str(folder)


@pytest.fixture
def model(tmp_path):
    return write(tmp_path / "model")


@pytest.fixture(scope="module")
def song():
    """Float32 ``[S, 2]``, 3.3 windows of mdx_b."""
    return np.ascontiguousarray(mdx.arrays("mdx_b")["wave_in"].T)


def difference(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max()


@pytest.mark.parametrize("name", mdx.GOLDENS)
def test_goldens(tmp_path, name):
    arrays = mdx.arrays(name)
    tracks = {key: ("wave_in", *value) for key, value in TRACKS.items()}
    tracks["short_ov_default"] = ("short_wave_in", None, {})
    present = [key for key in tracks if key in arrays]
    assert "short_ov_default" in present
    for key in present:
        source, overlap, changes = tracks[key]
        folder = write(tmp_path / key, name, overlap=overlap, **changes)
        waveform = arrays[source].T
        stems = Separator(folder).separate(waveform)
        assert difference(stems["vocals"], arrays[key].T) < mdx.WAVE, key
        if overlap is not None:  # the same as an option
            folder = write(tmp_path / key, name, **changes)
            option = Separator(folder, overlap=overlap).separate(waveform)
            assert np.array_equal(option["vocals"], stems["vocals"])
    if "secondary_uvr" in arrays:
        stems = Separator(write(tmp_path / "uvr", name, compensate=True)).separate(
            arrays["wave_in"].T
        )
        assert difference(stems["accompaniment"], arrays["secondary_uvr"].T) < mdx.WAVE


def test_an_identity_is_the_filtered_mixture(tmp_path):
    """Without the lowest three bins and those above the network's, as UVR's "match mix"."""
    pytest.importorskip("onnx")
    arrays = mdx.arrays("mdx_b")
    identity = mdx.network().SerializeToString()
    folder = write(tmp_path / "model", content=identity, overlap=0.02)
    found = Separator(folder).separate(arrays["wave_in"].T)["vocals"]
    assert difference(found, arrays["match_mix"].T) < mdx.WAVE


def test_stems_sum_to_the_mixture(model, song):
    for nb_samples in (1, 100, len(song)):
        stems = Separator(model).separate(song[:nb_samples])
        assert difference(sum(stems.values()), song[:nb_samples]) < 1e-6
    (vocals,) = Separator(model, stems=["vocals"]).separate(song).values()
    (rest,) = Separator(model, stems=["accompaniment"]).separate(song).values()
    assert difference(vocals + rest, song) < 1e-6 and np.abs(vocals).max() > 0.05


def test_blocks_of_any_size_give_the_same(model, song):
    """Nor does memory grow: a part of the stems comes before the song has ended."""
    separator = Separator(model)
    expected = separator.separate(song)["vocals"]
    read = 0

    def blocks():
        nonlocal read
        for start in range(0, len(song), 100):
            read += 100
            yield song[start : start + 100]

    stream = separator.stream(blocks(), RATE)
    first = next(stream)["vocals"]
    assert 0 < len(first) < read
    parts = [first, *(stems["vocals"] for stems in stream)]
    assert difference(np.concatenate(parts), expected) < 1e-6


def test_other_options(model, song, tmp_path):
    plain = Separator(model).separate(song)
    shifted = Separator(model, shifts=2).separate(song)
    refined = Separator(model, mwf=True).separate(song)
    for stems in (shifted, refined):
        assert difference(sum(stems.values()), song) < 1e-6
        assert 1e-3 < difference(stems["vocals"], plain["vocals"]) < 0.3
    mono = Separator(model).separate(song[:, :1])["vocals"]
    doubled = Separator(model).separate(np.repeat(song[:, :1], 2, axis=1))["vocals"]
    assert difference(mono[:, 0], doubled.mean(axis=1)) < 1e-6
    assert Separator(model).separate(song, 48000)["vocals"].shape == song.shape
    with pytest.raises(SeparationError, match="between 0 and 0.99, not 1"):
        Separator(model, overlap=1)
    with pytest.raises(SeparationError, match="too short for 16 shifts"):
        Separator(write(tmp_path / "coarse", stride=16), shifts=16)
    with pytest.raises(SeparationError, match="there is no gpu"):
        Separator(model, device="gpu:7").separate(song)


def test_a_file_with_changes(model, song, tmp_path):
    """Options of the reference are keys of a configuration."""
    path = tmp_path / "denoised.json"
    changes = {"model": {"denoise": True}, "segment": {"overlap": 0.25}}
    path.write_text(json.dumps({"spleeter_2": 1, "base": "model", **changes}))
    found = Separator(path).separate(song)["vocals"]
    same = Separator(write(tmp_path / "same", denoise=True, overlap=0.25)).separate(song)
    assert np.array_equal(found, same["vocals"])
    assert difference(found, Separator(model).separate(song)["vocals"]) > 1e-3


def test_an_identity_returns_the_song_with_shifts(tmp_path):
    """Above the lowest bins, and with all of the STFT's bins."""
    pytest.importorskip("onnx")
    content = mdx.network(shape=(1, 4, "f", "t")).SerializeToString()
    folder = write(tmp_path / "model", content=content, nb_bins=193, stride=4)
    time = np.arange(5000) / RATE
    tone = np.stack([np.sin(2 * np.pi * f * time) for f in (4000, 9000)], axis=1).astype("f4")
    for shifts in (1, 3):
        found = Separator(folder, shifts=shifts).separate(tone)["vocals"]
        # the lowest bins have a little of a tone that a window cuts
        assert difference(found[1000:4000], tone[1000:4000]) < 3e-3


def test_the_command_separates_with_it(model, program, song_file, tmp_path):
    out = tmp_path / "stems"
    status, said = program(
        entrypoint, "separate", "-p", model, "-o", out, "--overlap", 0.75, song_file
    )
    assert status == 0, said
    assert files_below(out) == ["song/accompaniment.wav", "song/vocals.wav"]


@pytest.fixture
def song_file(song, tmp_path):
    import soundfile

    path = tmp_path / "song.wav"
    soundfile.write(path, song, RATE)
    return path


def test_the_weights_are_part_of_a_methods_identity(tmp_path, model):
    first = Method(model, 2).identity().weights
    other = write(tmp_path / "other", content=mdx.golden("mdx_a.onnx").read_bytes())
    assert len(first) == 64 and Method(other, 2).identity().weights != first


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"nb_bins": 120}, "is a network of 128 bins, the configuration mdx_b has 120"),
        ({"nb_frames": 18}, "is a network of 16 frames, the configuration mdx_b has 18"),
        ({"content": b""}, "is no ONNX file"),
        ({"content": b"\xff" * 100}, "is damaged"),
        ({"targets": ["vocals", "drums"]}, "targets must be one instrument"),
        ({"nb_channels": 1}, "nb_channels 2"),
        ({"nb_frames": 17, "stride": 2}, "must be a multiple of 2"),
        ({"join": "linear"}, 'overlap must be a number with join "linear", not null'),
        ({"overlap": 1.5}, "segment.overlap must be a number <= 0.99, not 1.5"),
        ({"nb_bins": 194}, "model.nb_bins is 194, but the STFT has only 193 bins"),
    ],
)
def test_models_that_do_not_fit(tmp_path, changes, words):
    with pytest.raises(SeparationError) as raised:
        Separator(write(tmp_path / "model", **changes)).load()
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_a_network_that_leads_elsewhere_is_not_loaded(tmp_path):
    """Also in a folder that the converter has not made."""
    pytest.importorskip("onnx")
    from onnx import helper

    (tmp_path / "secret").write_bytes(bytes(512))
    node = helper.make_node("Mul", ["input", "factor"], ["output"])
    network = mdx.network([node], tensors=[mdx.external("../secret")])
    with pytest.raises(SeparationError, match="which is not in its folder"):
        Separator(write(tmp_path / "model", content=network.SerializeToString())).load()


def test_missing_weights(tmp_path, model):
    (tmp_path / "model/model.onnx").unlink()
    with pytest.raises(SeparationError, match="the weights of .* are missing"):
        Separator(model)


def test_an_estimate_that_is_no_number(tmp_path, song):
    pytest.importorskip("onnx")
    from onnx import helper

    content = mdx.network([helper.make_node("Log", ["input"], ["output"])]).SerializeToString()
    with pytest.raises(SeparationError, match="estimates NaN or infinity"):
        Separator(write(tmp_path / "model", content=content)).separate(song)
