"""``python -m weight_converter lasaft.ckpt``: what it writes, says and refuses."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import soundfile
from support.common import files_below
from support.golden import golden

from spleeter_2 import Separator
from spleeter_2.config.loading import load_configuration
from spleeter_2.weights import checkpoint as weights

CHECKPOINT = "gpocm_lasaft_a.ckpt"
WRITTEN = [
    "checkpoint", "checkpoint.data-00000-of-00001", "checkpoint.index", "config.json",
    "model.onnx", "model_card.md",
]  # fmt: skip


@pytest.fixture
def source(tmp_path):
    """A good checkpoint in a folder of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    return shutil.copy(golden(CHECKPOINT), folder / "lasaft.ckpt")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder that the command has made of the checkpoint; to be copied before it is changed."""
    source = shutil.copy(golden(CHECKPOINT), tmp_path_factory.mktemp("made") / "lasaft.ckpt")
    command = [sys.executable, "-m", "weight_converter", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return source.with_suffix("")


@pytest.mark.parametrize(
    "name",
    [
        "gpocm_lasaft_a",
        pytest.param("film_tdf_b", marks=pytest.mark.slow),
        pytest.param("gpocm_lightsaft_b", marks=pytest.mark.slow),
    ],
)
def test_a_checkpoint_becomes_a_model(convert, tmp_path, name):
    out, report = tmp_path / "made", tmp_path / "made" / "report.json"
    path = golden(f"{name}.ckpt")
    expected = ["--expected", golden(f"{name}.npz"), "--report", report]
    status, said = convert(path, "-o", out, *expected)
    assert status == 0, said
    assert files_below(out) == sorted([*WRITTEN, "report.json"])
    assert os.listdir(tmp_path) == ["made"]
    assert f"network: {name[:-2]}" in said and "numbers" in said and f"wrote {out}" in said
    assert "first_conv.0.weight" in said and "first_conv/kernel" in said and "o i t f" in said
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    source = load_configuration(str(out)).source
    assert (source.project, source.file, source.sha256) == ("LaSAFT", path.name, sha256)
    assert sha256 in (out / "model_card.md").read_text()
    told = json.loads(report.read_text())
    found = {difference["output"]: difference["relative"] for difference in told["differences"]}
    assert set(found) == {"spec_out", "spec_out_mixed", "wave_out"}
    assert all(0 < relative < 1e-5 for relative in found.values())
    assert {row[2] for row in told["tensors"]} == set(weights.read_checkpoint(out))


@pytest.mark.slow
def test_the_result_separates_a_song(made, song, spleeter, tmp_path):
    """Four stems, of which a single one is the same when it is asked alone."""
    for folder, more in (("all", []), ("one", ["--stems", "bass"])):
        out = ["-o", tmp_path / folder, *more]
        status, said = spleeter("separate", "-p", made, *out, song)
        assert status == 0, said
    stems = ["bass.wav", "drums.wav", "other.wav", "vocals.wav"]
    assert files_below(tmp_path / "all") == [f"song/{stem}" for stem in stems]
    assert files_below(tmp_path / "one") == ["song/bass.wav"]
    (alone, _), (together, _) = (
        soundfile.read(tmp_path / folder / "song/bass.wav") for folder in ("one", "all")
    )
    assert alone.shape == (2 * 44100, 2) and np.abs(alone).max() > 0.01
    assert np.abs(alone - together).max() <= 1 / 32768  # a step of 16 bits


@pytest.mark.slow
def test_half_precision(convert, made, source, tmp_path):
    """Half the size, and what is verified is what was stored; without -o, beside the source."""
    status, said = convert(source, "--half")
    assert status == 0 and "arrays equal" in said
    folders = (source.with_suffix(""), made)
    sizes = [(folder / WRITTEN[1]).stat().st_size for folder in folders]
    assert sizes[0] < 0.6 * sizes[1]
    noise = np.random.default_rng(1).normal(0, 0.1, (5000, 2)).astype(np.float32)
    half, whole = (Separator(folder).separate(noise) for folder in folders)
    assert 0 < np.abs(half["drums"] - whole["drums"]).max() < 0.01


def test_a_dry_run_keeps_nothing(convert, source, tmp_path):
    before = files_below(tmp_path)
    status, said = convert(source, "--dry-run", "--expected", golden("gpocm_lasaft_a.npz"))
    assert status == 0 and "wave_out" in said and "dry run" in said
    assert files_below(tmp_path) == before


def test_a_dry_run_without_a_place(convert, source, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:  # pytest wants temporary files, too
        patched.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        status, said = convert(source, "--dry-run")
    assert status == 1
    assert said.splitlines()[-1].endswith(f"{tmp_path / 'gone'}: No such file or directory")


def test_a_bare_state_dict_needs_to_be_told(convert, tmp_path):
    bare = golden("v_bare_state_dict.pt")
    status, said = convert(bare, "-o", tmp_path / "out")
    assert status == 1 and said.count("\n") == 1
    assert "lacks the hyper-parameters n_fft, hop_length" in said
    assert not (tmp_path / "out").exists()
    from weight_converter.torch_checkpoint import read_checkpoint

    told = tmp_path / "hyper_parameters.json"
    told.write_text(json.dumps(read_checkpoint(golden(CHECKPOINT)).metadata["hyper_parameters"]))
    status, said = convert(bare, "-o", tmp_path / "out", "--hyper-parameters", told)
    assert status == 0, said
    unreadable = "cannot read the hyper-param"
    for text, words in (
        ("[1]", "must be a JSON object"),
        ("{", unreadable),
        ("[" * 100000, unreadable),
    ):
        told.write_text(text)
        status, said = convert(bare, "-o", tmp_path / "new", "--hyper-parameters", told)
        assert status == 1 and words in said and said.count("\n") == 1


def test_what_was_there_is_kept(convert, made, source, tmp_path):
    out = shutil.copytree(made, tmp_path / "out")
    first = (out / "config.json").read_bytes()
    (out / "model_card.md").write_text("mine")
    status, said = convert(source, "-o", out)
    assert status == 1 and "--force" in said and (out / "model_card.md").read_text() == "mine"
    assert convert(source, "-o", out, "--force")[0] == 0
    assert (out / "config.json").read_bytes() == first
    assert "sha256" in (out / "model_card.md").read_text()
    (out / "notes.txt").write_text("mine")
    status, said = convert(source, "-o", out, "--force")
    assert status == 1 and "notes.txt" in said and (out / "notes.txt").read_text() == "mine"
    assert files_below(out) == sorted([*WRITTEN, "notes.txt"])
    status, said = convert(source, "-o", out / "notes.txt", "--force")
    assert status == 1 and "is not a folder" in said
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bad_lfs_pointer.ckpt", ["Git LFS"]),
        ("bad_truncated.ckpt", ["truncated"]),
        ("bad_missing_key.ckpt", ["1 tensor does not fit", "missing"]),
        ("bad_unexpected_key.ckpt", ["1 tensor does not fit", "unexpected"]),
        ("bad_wrong_shape.ckpt", ["1 tensor does not fit", "wrong shape"]),
    ],
)
def test_bad_checkpoints(convert, tmp_path, name, words):
    status, said = convert(golden(name), "-o", tmp_path / "new" / "out")
    assert status == 1 and all(word in said for word in words), said
    assert os.listdir(tmp_path) == []


def test_other_refusals(convert, source, tmp_path):
    def refused(*arguments):
        status, said = convert(*arguments)
        assert status == 1 and "weight_converter: error:" in said, said
        return said

    assert "does not exist" in refused(tmp_path / "none.ckpt")
    (tmp_path / "in" / "cut.ckpt").write_bytes(source.read_bytes()[:300000])
    assert "truncated" in refused(tmp_path / "in" / "cut.ckpt")
    (tmp_path / "in" / "cut.ckpt").unlink()
    wider = tmp_path / "in" / "wider.json"
    wider.write_text('{"internal_channels": 7}')
    table = refused(source, "--hyper-parameters", wider)
    assert "tensors do not fit" in table and "first_conv.0.weight  " in table
    wider.unlink()
    assert "name the output folder with -o" in refused(shutil.copy(source, tmp_path / "plain"))
    assert "--model has no effect" in refused(source, "--model", "spleeter_2:mask")
    assert "cannot read the expected" in refused(source, "--expected", tmp_path / "none.npz")
    assert "cannot read the expected" in refused(source, "--expected", __file__)
    assert "no expected outputs" in refused(source, "--expected", source)
    np.save(tmp_path / "in" / "one.npy", np.zeros(3))
    assert "cannot read the expected" in refused(source, "--expected", tmp_path / "in" / "one.npy")
    (tmp_path / "in" / "one.npy").unlink()
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    assert "no expected outputs" in refused(source, "--expected", tmp_path / "other.npz")
    assert "of another network" in refused(source, "--expected", golden("film_tdf_b.npz"))
    assert "cannot write" in refused(source, "-o", source / "below")
    assert convert(source, "--no-such-option")[0] == 2
    assert sorted(os.listdir(tmp_path)) == ["in", "other.npz", "plain"]
    assert os.listdir(tmp_path / "in") == ["lasaft.ckpt"]


def test_the_source_is_kept(convert, source, tmp_path):
    """Whatever it is called, and wherever the output and the report shall go."""
    (tmp_path / "out").mkdir()
    inside = shutil.copy(source, tmp_path / "out" / "checkpoint")
    status, said = convert(inside, "-o", tmp_path / "out", "--force")
    assert status == 1 and "holds the checkpoint to convert" in said
    status, said = convert(inside, "-o", tmp_path / "new", "--report", inside)
    assert status == 1 and "would replace the checkpoint to convert" in said
    assert inside.read_bytes() == source.read_bytes() and not (tmp_path / "new").exists()


def test_a_report_that_has_no_place(convert, source, tmp_path):
    """It is refused before anything is written."""
    os.mkfifo(source.parent / "pipe")
    for arguments in (
        ["--report", tmp_path / "none" / "report.json"],
        ["--report", tmp_path],
        ["--report", source.parent / "pipe"],
        ["--report", tmp_path / "out" / "report.json", "--dry-run"],
    ):
        status, said = convert(source, "-o", tmp_path / "out", *arguments)
        assert status == 1 and "report" in said and said.count("\n") == 1, said
    assert os.listdir(tmp_path) == ["in"]


def test_other_numbers_than_pytorchs_are_not_written(convert, source, tmp_path):
    arrays = dict(np.load(golden("gpocm_lasaft_a.npz")))
    arrays["wave_out"] = arrays["wave_out"] * (1 + 3e-4)
    np.savez(tmp_path / "other.npz", **arrays)
    report = tmp_path / "report.json"
    report.symlink_to("elsewhere.json")
    arguments = ["--expected", tmp_path / "other.npz", "--report", report]
    status, said = convert(source, "-o", tmp_path / "out", *arguments)
    assert status == 1 and "wave_out differs" in said and not (tmp_path / "out").exists()
    assert report.is_symlink()  # what it points to is written
    relative = [found["relative"] for found in json.loads(report.read_text())["differences"]]
    assert relative[-1] == pytest.approx(3e-4, rel=0.1)


def test_a_stopped_run_leaves_nothing(source, tmp_path):
    """Stopped while it writes, by a signal; what was there before stays."""
    out = tmp_path / "out"
    out.mkdir()
    script = (
        "import os, signal, sys; from weight_converter import __main__ as m\n"
        "m._checks = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "m.entrypoint()"
    )
    command = [sys.executable, "-c", script, str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "interrupted" in done.stderr and "Traceback" not in done.stderr
    assert os.listdir(out) == [] and sorted(os.listdir(tmp_path)) == ["in", "out"]
