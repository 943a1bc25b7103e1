"""Commands in a base installation: which of them work, and how the others are refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from support import mdx
from support.poor import BASE_ONLY
from support.spleeter_models import write_spleeter_model

from spleeter_2 import __version__
from spleeter_2.errors import SeparationError
from spleeter_2.extras import PACKAGES, is_installed, require_extra

REPOSITORY = Path(__file__).parents[1]
TRAIN, EVALUATION, WEB = (
    f'pip install "spleeter-2[{extra}]"' for extra in ("train", "evaluation", "web")
)


def in_the_base(program: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a program of ours without the packages of the extras."""
    script = (
        f"{BASE_ONLY}\nimport runpy, sys\n"
        f"sys.argv = ['{program}', *sys.argv[1:]]\n"
        f"runpy.run_module('{program}', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_separation_needs_no_extra(song, tmp_path):
    done = in_the_base("spleeter_2", "separate", "--mwf", "-o", tmp_path, song)
    assert done.returncode == 0, done.stderr
    for name in ("vocals", "accompaniment"):
        samples, _ = soundfile.read(tmp_path / "song" / f"{name}.wav")
        assert len(samples) == soundfile.info(song).frames and abs(samples).max() > 0.01


@pytest.mark.parametrize("program", ["spleeter_2", "evaluation", "weight_converter"])
def test_help_needs_no_extra(program):
    done = in_the_base(program, "--help")
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ["separate", "train", "evaluate", "export", "web"])
def test_help_of_commands_needs_no_extra(command):
    done = in_the_base("spleeter_2", command, "--help")
    assert done.returncode == 0 and "--params_filename" in done.stdout, done.stderr


def test_models_and_version_need_no_extra():
    done = in_the_base("spleeter_2", "models")
    assert done.returncode == 0 and "spleeter_2:grouped" in done.stdout, done.stderr
    assert in_the_base("spleeter_2", "models", "grouped").returncode == 0
    done = in_the_base("spleeter_2", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"spleeter-2 {__version__} (onnxruntime ")


@pytest.mark.parametrize(
    "program, arguments, line",
    [
        ("spleeter_2", ("train", "-p", "spleeter_2:grouped", "-d", "songs"), TRAIN),
        ("spleeter_2", ("evaluate", "--mus_dir", "songs"), EVALUATION),
        ("spleeter_2", ("train", "-p", "spleeter:2stems", "-d", "."), TRAIN),
        ("spleeter_2", ("export", "-p", "spleeter_2:grouped", "-o", "out"), TRAIN),
        ("spleeter_2", ("web",), WEB),
        ("evaluation", ("run", "--mus_dir", "songs"), EVALUATION),
        ("evaluation", ("compare", "results"), EVALUATION),
        ("evaluation", ("report", "results"), EVALUATION),
        ("evaluation", ("ablation", "plan.json", "-d", "songs"), EVALUATION),
        ("weight_converter", ("lasaft.ckpt",), TRAIN),
    ],
)
def test_a_missing_extra_is_named_with_the_line_that_installs_it(program, arguments, line):
    done = in_the_base(program, *arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert line in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_form_of_spleeters_that_does_not_ship_needs_tensorflow(song, tmp_path):
    done = in_the_base("spleeter_2", "separate", "-p", "spleeter:2stems", "-o", tmp_path, song)
    assert done.returncode == 0, done.stderr
    instruments, filters = ["speech", "rest"], [2, 4, 4, 8, 8, 8]
    write_spleeter_model(tmp_path / "mine", instruments, filters)
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps(
            {
                "instrument_list": instruments,
                "model_dir": str(tmp_path / "mine"),
                "model": {"type": "unet.unet", "params": {"conv_n_filters": filters}},
            }
        )
    )
    done = in_the_base("spleeter_2", "separate", "-p", path, "-o", tmp_path / "out", song)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert TRAIN in done.stderr and "the network of mine is not one of those" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_mdx_net_needs_no_extra(song, tmp_path):
    done = in_the_base("weight_converter", *mdx.arguments("mdx_b"), "-o", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    done = in_the_base("spleeter_2", "separate", "-p", tmp_path / "model", "-o", out, song)
    assert done.returncode == 0, done.stderr
    for name in ("vocals", "accompaniment"):
        samples, _ = soundfile.read(out / "song" / f"{name}.wav")
        assert len(samples) == soundfile.info(song).frames and abs(samples).max() > 0.01


def test_a_network_that_is_not_exported_needs_tensorflow(tiny, song, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model, ignore=shutil.ignore_patterns("model.onnx"))
    done = in_the_base("spleeter_2", "separate", "-p", model, "-o", tmp_path / "out", song)
    assert done.returncode == 1 and TRAIN in done.stderr, done.stderr
    assert f"{model}/model.onnx is missing" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("extra", PACKAGES)
def test_what_is_installed_is_not_refused(extra):
    require_extra(extra, "a test")
    assert all(map(is_installed, PACKAGES[extra])) and not is_installed("no_such_package")


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(PACKAGES, "train", ("numpy", "no_such_package"))
    with pytest.raises(SeparationError, match='^a test needs no_such_package: pip install "spl'):
        require_extra("train", "a test")
