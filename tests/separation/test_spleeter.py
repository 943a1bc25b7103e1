"""Spleeter's models: the samples of Spleeter's own code, its configurations and folders.

Most networks are small and random, with windows of 64 short frames: 0.4 s.
"""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.common import RATE, files_below
from support.spleeter_models import (
    unused_tensors,
    write_deezers_model,
    write_spleeter_model,
)
from support.upstream import Song

from evaluation.metrics import sdr
from spleeter_2 import Separator
from spleeter_2.audio.reader import AudioReader
from spleeter_2.config.loading import load_configuration
from spleeter_2.runtime import model_file
from spleeter_2.weights.bundle import read_bundle, write_bundle

DEMO = Path(__file__).parents[2] / "demo/lets-go-fishin.ogg"
TOLERANCE = 1e-4  # of full scale
STEP, LENGTH = 256, 1024
SEGMENT = 64 * STEP
BASE = {
    "train_csv": "path/to/train.csv",
    "validation_csv": "path/to/test.csv",
    "model_dir": "unet",
    "mix_name": "mix",
    "instrument_list": ["vocals", "accompaniment"],
    "sample_rate": RATE,
    "frame_length": LENGTH,
    "frame_step": STEP,
    "T": 64,
    "F": 256,
    "n_channels": 2,
    "separation_exponent": 2,
    "mask_extension": "zeros",
    "learning_rate": 1e-4,
    "batch_size": 4,
    "train_max_steps": 1000,
    "random_seed": 0,
    "save_checkpoints_steps": 150,
    "model": {"type": "unet.unet", "params": {}},
}
ELU = {"conv_activation": "ELU", "deconv_activation": "ELU"}
MIXED = {"conv_activation": "ReLU", "deconv_activation": "LeakyReLU"}
UNKNOWN = {"conv_activation": "Swish", "deconv_activation": None}
FILTERS = [2, 4, 4, 8, 8, 8]
FOUR = ["vocals", "drums", "bass", "other"]
FIVE = ["vocals", "piano", "drums", "bass", "other"]


def form(name, model_type="unet.unet", params=None, **changes):
    """A small configuration of Spleeter's."""
    params = {**(params or {}), "conv_n_filters": FILTERS}
    model = {"type": model_type, "params": params}
    return {**BASE, "model_dir": name, "model": model, **changes}


FORMS = {
    each["model_dir"]: each
    for each in (
        form("unet"),
        form("elu", params=ELU, instrument_list=FOUR, F=384),
        form("softmax", "unet.softmax_unet", ELU, instrument_list=FIVE),
        form("mixed", params=MIXED, F=384, separation_exponent=1, mask_extension="average"),
        form("own", params=UNKNOWN, separation_exponent=1.5, instrument_list=["Geige", "the.rest"]),
    )
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Networks are exported once for all tests here; nothing of the user's is found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MODEL_PATH", raising=False)
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


@pytest.fixture(scope="module")
def music() -> np.ndarray:
    """The demo song, float32 ``[S, 2]``, 30 s."""
    return soundfile.read(DEMO, dtype="float32")[0]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder of models of Spleeter's, each with its JSON file beside it."""
    folder = tmp_path_factory.mktemp("models")
    for name, configuration in FORMS.items():
        instruments = configuration["instrument_list"]
        more = unused_tensors(len(instruments), FILTERS)
        write_spleeter_model(folder / name, instruments, FILTERS, more)
        (folder / f"{name}.json").write_text(json.dumps(configuration))
    (folder / "elu/.probe").touch()
    return folder


@pytest.fixture
def found(models, monkeypatch):
    """The models, where ``MODEL_PATH`` names them."""
    monkeypatch.setenv("MODEL_PATH", str(models))
    return models


@pytest.fixture(scope="module")
def songs(music, tmp_path_factory):
    """``{name: Song}`` of every length, rate and number of channels."""
    folder = tmp_path_factory.mktemp("songs")
    whole = music[10 * RATE :]

    def write(name, waveform, rate=RATE, offset=0.0, duration=None):
        path = folder / f"{name}.wav"
        soundfile.write(path, waveform, rate, "FLOAT")
        return Song(path, offset, duration)

    found = {"music": write("music", whole[: 12 * RATE])}
    borders = (SEGMENT - LENGTH, SEGMENT, 2 * SEGMENT - LENGTH, 2 * SEGMENT)
    lengths = {border + more for border in borders for more in (-1, 0, 1)}
    for nb_samples in sorted({1, 100, STEP - 1, STEP, STEP + 1, LENGTH - 1, LENGTH} | lengths):
        found[f"{nb_samples}_samples"] = write(str(nb_samples), whole[:nb_samples])
    found["silence"] = write("silence", np.zeros((RATE // 2, 2)))
    pause = np.concatenate([whole[:RATE], np.zeros((RATE, 2)), whole[RATE : 2 * RATE]])
    found["pause"] = write("pause", pause)
    found["loud"] = write("loud", 1.5 * whole[:RATE])  # beyond full scale
    found["quiet"] = write("quiet", 1e-4 * whole[:RATE])
    found["mono"] = write("mono", whole[:RATE].mean(axis=1))
    found["48kHz"] = write("48kHz", whole[: 2 * RATE], 48000)
    found["mono_22kHz"] = write("mono_22kHz", whole[:RATE, 0], 22050)
    found["part"] = Song(found["music"].path, 0.7, 1.3)
    found["part_48kHz"] = Song(found["48kHz"].path, 0.333, 1.0)
    found["end"] = Song(found["music"].path, 11.5, 3.0)
    return found


def separated(configuration, song, folder, **options):
    """The stems in the files that we write, ``{instrument: float32 [S, 2]}``."""
    options = {"overlap": None, "shifts": 1, "mwf": False, "stems": None, **options}
    with Separator(configuration, **options) as separator:
        return written(separator, song, folder)


def written(separator, song, folder):
    """The stems in the files of a separator."""
    done = separator.separate_to_file(song.path, folder, song.offset, song.duration, bits="32f")
    stems = {}
    for name, path in done.outputs.items():
        stems[name], rate = soundfile.read(path, dtype="float32")
        assert rate == RATE
    return stems


def assert_same(ours, theirs):
    """The same stems: instruments in their order, lengths, channels and samples."""
    assert list(ours) == list(theirs)
    for name, stem in theirs.items():
        assert ours[name].shape == stem.shape, f"{name}: {ours[name].shape}, {stem.shape}"
        difference = np.abs(ours[name] - stem).max()
        assert difference <= TOLERANCE, f"{name}: {difference}"


def largest(theirs):
    return min(np.abs(stem).max() for stem in theirs.values())


# --- the samples of Spleeter ---


@pytest.fixture(scope="module")
def theirs(upstream, models, songs):
    """``{song: stems}`` by Spleeter's own code, of the form ``unet``."""
    found = upstream.separate(models / "unet.json", list(songs.values()), models)
    return dict(zip(songs, found, strict=True))


def test_songs_of_every_kind(theirs, found, songs, tmp_path):
    separator = Separator(found / "unet.json")
    for name, stems in theirs.items():
        ours = written(separator, songs[name], tmp_path)
        try:
            assert_same(ours, stems)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        if name != "silence":
            assert largest(stems) > 0.02 * np.abs(stems["vocals"] + stems["accompaniment"]).max()


@pytest.mark.parametrize("name", [name for name in FORMS if name != "unet"])
def test_networks_and_masks_of_every_form(upstream, found, songs, tmp_path, name):
    song = songs["music"]
    (stems,) = upstream.separate(found / f"{name}.json", [song], found)
    ours = separated(found / f"{name}.json", song, tmp_path)
    assert_same(ours, stems)
    assert list(ours) == FORMS[name]["instrument_list"]
    assert largest(stems) > 0.01


def test_wiener_filter_of_one_window(upstream, found, songs, tmp_path):
    """We filter each window, Spleeter the whole song."""
    one = songs[f"{SEGMENT - LENGTH}_samples"]
    short, long = upstream.separate(found / "elu.json", [one, songs["music"]], found, mwf=True)
    assert_same(separated(found / "elu.json", one, tmp_path, mwf=True), short)
    ours = separated(found / "elu.json", songs["music"], tmp_path, mwf=True)
    for name, stem in long.items():
        assert sdr(stem, ours[name]) > 10, name
    plain = separated(found / "elu.json", one, tmp_path)
    assert np.abs(plain["vocals"] - short["vocals"]).max() > 100 * TOLERANCE


def test_files_of_every_codec(upstream, found, songs, tmp_path):
    codecs = ["wav", "mp3", "ogg", "m4a", "wma", "flac"]
    song = songs["48kHz"]
    upstream.separate_to_file(found / "unet.json", song.path, found, tmp_path / "theirs", codecs)
    with Separator(found / "unet.json") as separator:
        for codec in codecs:
            separator.separate_to_file(song.path, tmp_path / "ours", codec=codec)
    names = files_below(tmp_path / "theirs")
    assert len(names) == 12 and files_below(tmp_path / "ours") == names
    for name in names:
        ours, expected = (decoded(tmp_path / who / name) for who in ("ours", "theirs"))
        if name.endswith("wma"):  # Spleeter's lack the start and the end of the song
            nb_samples = len(decoded(tmp_path / "ours" / name.replace("wma", "wav")))
            assert len(expected) + 1024 < nb_samples <= len(ours), name
            ours = ours[2048 : 2048 + len(expected)]
        assert ours.shape == expected.shape, name
        # lossy encoders may turn a difference of one step into another choice
        assert sdr(expected, ours) > (60 if name.endswith(("wav", "flac")) else 20), name


def decoded(path):
    with AudioReader(path) as reader:
        return np.concatenate(list(reader.blocks()))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """``MODEL_PATH`` of Deezer's weights."""
    folder = tmp_path_factory.mktemp("released")
    write_deezers_model(folder / "2stems")
    (folder / "2stems/.probe").touch()
    return folder


@pytest.mark.slow
def test_deezers_weights_on_music(upstream, released, music, tmp_path):
    """Offline, and by default of the descriptor; two minutes are eleven segments."""
    paths = {}
    for name, waveform in {"song": music, "long": np.tile(music, (4, 1))}.items():
        paths[name] = tmp_path / f"{name}.wav"
        soundfile.write(paths[name], waveform, RATE, "FLOAT")
    for descriptor, name in (("2stems", "song"), ("2stems", "long"), ("2stems-16kHz", "song")):
        (stems,) = upstream.separate(f"spleeter:{descriptor}", [Song(paths[name])], released)
        ours = separated(f"spleeter:{descriptor}", Song(paths[name]), tmp_path)
        assert_same(ours, stems)
        assert min(sdr(stems[each], ours[each]) for each in stems) > 80


@pytest.mark.slow
def test_a_released_form_at_its_size(upstream, music, tmp_path, monkeypatch):
    """The largest; ``benchmarks/parity.py`` compares all of them."""
    name = "5stems"
    upstream.write_model(upstream.configuration(f"spleeter:{name}"), tmp_path / name)
    monkeypatch.setenv("MODEL_PATH", str(tmp_path))
    song = Song(tmp_path / "song.wav")
    soundfile.write(song.path, music[: 15 * RATE], RATE, "FLOAT")
    for descriptor in (f"spleeter:{name}", f"spleeter:{name}-16kHz"):
        (stems,) = upstream.separate(descriptor, [song], tmp_path)
        assert_same(separated(descriptor, song, tmp_path), stems)
        assert largest(stems) > 0.01


@pytest.mark.slow
def test_embedded_configurations_are_spleeters(upstream, tmp_path):
    for name in ("2stems", "4stems", "5stems", "2stems-16kHz", "4stems-16kHz", "5stems-16kHz"):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(upstream.configuration(f"spleeter:{name}")))
        ours, theirs = load_configuration(f"spleeter:{name}"), load_configuration(path)
        for part in ("name", "sample_rate", "nb_channels", "targets", "residual", "stft"):
            assert getattr(ours, part) == getattr(theirs, part), (name, part)
        for part in ("segment", "model", "ratio_mask", "stem_format", "model_dir"):
            assert getattr(ours, part) == getattr(theirs, part), (name, part)


# --- what Spleeter does not have ---


def test_overlap_and_shifts(found, songs, tmp_path):
    song, path = songs["music"], found / "unet.json"
    plain = separated(path, song, tmp_path)
    for options in ({"overlap": 0.5}, {"shifts": 3}, {"overlap": 0.25, "shifts": 2}):
        stems = separated(path, song, tmp_path, **options)
        for name, stem in stems.items():
            assert stem.shape == plain[name].shape
            assert 10 < sdr(plain[name], stem) < 60, (options, name)


def test_stems_sum_to_the_mixture(found, songs, tmp_path):
    """Masks sum to one, also above the network's band if they are extended there."""
    mixture = soundfile.read(songs["music"].path, dtype="float32")[0]
    stems = separated(found / "mixed.json", songs["music"], tmp_path)
    assert np.abs(sum(stems.values()) - mixture).max() < 1e-5
    band = separated(found / "unet.json", songs["music"], tmp_path)
    missing = mixture - sum(band.values())
    assert np.abs(missing).max() > 0.01
    spectrum = np.abs(np.fft.rfft(missing[:, 0]))
    edge = len(spectrum) * 256 // 513  # bin 256 of the STFT's 513
    assert (spectrum[: edge - 2000] ** 2).sum() < 1e-4 * (spectrum**2).sum()


@pytest.mark.parametrize("name, stem", [("softmax", "piano"), ("elu", "bass")])
def test_one_stem_is_that_of_all(found, songs, tmp_path, name, stem):
    song = songs["music"]
    whole = separated(found / f"{name}.json", song, tmp_path / "whole")
    alone = separated(found / f"{name}.json", song, tmp_path / "alone", stems=[stem])
    assert list(alone) == [stem] and np.array_equal(alone[stem], whole[stem])


def test_a_stem_that_the_model_lacks(spleeter, song, tmp_path):
    arguments = ("--stems", "vocals,piano", "-o", tmp_path / "out", song)
    status, messages = spleeter("separate", "-p", "spleeter:4stems", *arguments)
    assert status == 1 and messages.count("\n") == 1
    assert "4stems separates vocals, drums, bass, other; not piano" in messages
    assert not (tmp_path / "out").exists()


# --- configurations and folders ---


def test_the_package_separates_offline(spleeter, song, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_HOST", "http://127.0.0.1:9")  # nobody listens there
    out = tmp_path / "out"
    status, messages = spleeter("separate", "-p", "spleeter:2stems", "-o", out, song)
    assert status == 0, messages
    assert files_below(out) == ["song/accompaniment.wav", "song/vocals.wav"]
    stems = [soundfile.read(out / name)[0] for name in files_below(out)]
    assert all(np.abs(stem).max() > 0.01 for stem in stems)


@pytest.mark.parametrize("where", ["MODEL_PATH", "pretrained_models"])
def test_a_folder_of_a_configuration_is_found(
    spleeter, released, song, tmp_path, monkeypatch, where
):
    """An own training of a form that ships needs no TensorFlow."""
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({**BASE, "frame_length": 4096, "frame_step": 1024, "T": 512, "F": 1024})
    )
    assert model_file.ships(load_configuration(path))
    monkeypatch.chdir(tmp_path)
    arguments = ("separate", "-p", path, "-o", tmp_path / "out", song)
    monkeypatch.setenv("GITHUB_HOST", "http://127.0.0.1:9")
    status, messages = spleeter(*arguments)
    assert status == 1 and messages.count("\n") == 1
    models = tmp_path / "pretrained_models"
    if where == "MODEL_PATH":
        models = tmp_path / "models"
        monkeypatch.setenv("MODEL_PATH", str(models))
    shutil.copytree(released / "2stems", models / "unet")
    (models / "unet/.probe").unlink()
    status, messages = spleeter(*arguments)
    assert status == 0, messages
    ours = soundfile.read(tmp_path / "out/song/vocals.wav")[0]
    spleeter("separate", "-p", "spleeter:2stems", "-o", tmp_path / "embedded", song)
    assert np.array_equal(ours, soundfile.read(tmp_path / "embedded/song/vocals.wav")[0])
    (models / "unet/model.data-00000-of-00001").unlink()
    status, messages = spleeter(*arguments)
    assert status == 1 and messages.count("\n") == 1
    assert "is incomplete: put model.data-00000-of-00001 there" in messages


def test_weights_of_fewer_instruments(spleeter, released, song, tmp_path, monkeypatch):
    shutil.copytree(released / "2stems", tmp_path / "4stems")
    monkeypatch.setenv("MODEL_PATH", str(tmp_path))
    out = tmp_path / "out"
    status, messages = spleeter("separate", "-p", "spleeter:4stems", "-o", out, song)
    assert status == 1 and "have no network for bass" in messages
    assert messages.count("\n") == 1 and not out.exists()


@pytest.fixture
def own(models, tmp_path, monkeypatch):
    """A copy of the folder of ``unet`` that a test may change; its JSON file is ``unet.json``."""
    shutil.copytree(models / "unet", tmp_path / "models/unet")
    shutil.copy(models / "unet.json", tmp_path / "unet.json")
    monkeypatch.setenv("MODEL_PATH", str(tmp_path / "models"))
    return tmp_path / "models/unet"


def refused(spleeter, own, song, **changes):
    """The message about a model that cannot be used; nothing is written."""
    path, out = own.parents[1] / "unet.json", own.parents[1] / "out"
    path.write_text(json.dumps({**FORMS["unet"], **changes}))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        status, messages = spleeter("separate", "-p", path, "-o", out, song)
    assert status == 1 and messages.count("\n") == 1, messages
    assert not out.exists()
    return messages


@pytest.mark.parametrize("dtype", ["f8", "i4", "i8"])
def test_weights_of_another_type(spleeter, own, song, dtype):
    arrays = read_bundle(own / "model")
    write_bundle({name: array.astype(dtype) for name, array in arrays.items()}, own / "model")
    assert "must be float32 or float16" in refused(spleeter, own, song)


@pytest.mark.parametrize("value", [np.nan, 3e38])
def test_weights_that_are_no_numbers(spleeter, own, models, song, value):
    arrays = read_bundle(own / "model")
    arrays["conv2d/kernel"] = np.full_like(arrays["conv2d/kernel"], value)
    write_bundle(arrays, own / "model")
    assert " estimates NaN or infinity: put its weights" in refused(spleeter, own, song)  # exported
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_PATH", str(models))
        Separator(models / "unet.json").load()
    assert "unet estimates NaN or infinity" in refused(spleeter, own, song)


def test_masks_beyond_the_range_of_numbers(spleeter, own, song):
    assert "lower the exponent of its masks" in refused(spleeter, own, song, separation_exponent=99)


@pytest.mark.parametrize("place", ["link", "folder"])
def test_data_files_in_another_folder(own, models, songs, tmp_path, place):
    """Links to them as a cache of downloads makes; or ``checkpoint`` names another folder."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in own.glob("model.*"):
        path.rename(elsewhere / path.name)
        if place == "link":
            path.symlink_to(elsewhere / path.name)
    if place == "folder":
        (own / "checkpoint").write_text('model_checkpoint_path: "../../elsewhere/model"\n')
    song = songs["music"]
    found = separated(tmp_path / "unet.json", song, tmp_path / "found")
    shutil.copytree(models / "unet", own, dirs_exist_ok=True)
    expected = separated(tmp_path / "unet.json", song, tmp_path / "expected")
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_damaged_network_in_the_cache_is_named(spleeter, own, song, tmp_path, monkeypatch):
    graph = model_file.graph_path(model_file.anonymous(load_configuration(tmp_path / "unet.json")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    damaged = tmp_path / "cache/spleeter-2/graphs" / graph.name
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"x")
    assert f"or delete {damaged}" in refused(spleeter, own, song)


def changed(**changes):
    """A configuration with other values; those that are ``...`` are taken away."""
    return {key: value for key, value in {**BASE, **changes}.items() if value is not ...}


BLSTM = {"type": "blstm.blstm", "params": {}}
UNKNOWN_TYPE = "type blstm.blstm is not supported: known are unet.unet and unet.softmax_unet"
FEW_FILTERS = {"type": "unet.unet", "params": {"conv_n_filters": [16, 32]}}
ODD_FILTERS = {"type": "unet.unet", "params": {"conv_n_filters": "many"}}


@pytest.mark.parametrize(
    "configuration, words",
    [
        (changed(model=BLSTM), UNKNOWN_TYPE),
        (changed(model=FEW_FILTERS), "conv_n_filters must hold 6 whole numbers"),
        (changed(model=ODD_FILTERS), "conv_n_filters must hold 6 whole numbers"),
        (changed(model_dir=...), "missing key model_dir"),
        (changed(instrument_list=3), "instrument_list must be a list"),
        (changed(instrument_list=[]), "instrument_list"),
        (changed(instrument_list=[1]), "instrument_list[0] must be a string"),
        (changed(instrument_list=["a", "a"]), "name an instrument twice"),
        (changed(instrument_list=["a/b", "c"]), "not 'a/b'"),
        (changed(sample_rate="high"), "sample_rate must be a whole number"),
        (changed(separation_exponent=0), "separation_exponent must be a number > 0"),
        (changed(mask_extension="mirror"), "mask_extension must be average or zeros"),
        (changed(F=1024), "F is 1024, but the STFT has only 513 bins"),
        (changed(T=100), "T must be a multiple of 64"),
    ],
)
def test_configurations_that_are_refused(spleeter, song, tmp_path, configuration, words):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(configuration))
    out = tmp_path / "out"
    status, messages = spleeter("separate", "-p", path, "-o", out, song)
    assert status == 1 and words in messages and str(path) in messages, messages
    assert messages.count("\n") == 1 and not out.exists()


def test_activations_that_spleeter_does_not_know():
    """It then takes its defaults, without a word."""
    for given, expected in (
        (UNKNOWN, ("leaky_relu", "relu")),
        ({"conv_activation": "elu"}, ("leaky_relu", "relu")),
        ({"conv_activation": "LeakyReLU", "deconv_activation": "ReLU"}, ("leaky_relu", "relu")),
        (MIXED, ("relu", "leaky_relu")),
    ):
        from spleeter_2.config.loading import complete, parse_configuration

        model = {"type": "unet.unet", "params": given}
        found = parse_configuration(complete({**BASE, "model": model}, Path("/x/mine.json"))).model
        assert (found.encoder_activation, found.decoder_activation) == expected
