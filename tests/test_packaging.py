"""The wheel, installed with pip into a fresh environment, dependencies resolved."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import soundfile

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, REPOSITORY]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_what_is_in_the_wheel(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert folders == {"spleeter_2", "weight_converter", "evaluation"}
    for model in ("grouped", "mask"):
        assert f"spleeter_2/config/presets/{model}.json" in names
        assert f"spleeter_2/config/presets/{model}.md" in names
        for suffix in ("", ".index", ".data-00000-of-00001"):
            assert f"spleeter_2/config/presets/weights/{model}/checkpoint{suffix}" in names
    assert "spleeter_2/config/presets/LICENSE-deezer.txt" in names
    assert "evaluation/report.html.jinja" in names
    assert wheel.stat().st_size < 100e6


@pytest.mark.slow
def test_a_fresh_environment(wheel, song, tmp_path):
    """pip resolves the pins, our ``spleeter`` replaces upstream's, and a song is separated with
    nothing on the path: no ffmpeg, no ffprobe."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run([binaries / "pip", "install", "-q", wheel], check=True)
    assert subprocess.run([binaries / "pip", "check"], capture_output=True).returncode == 0

    def run(*command):
        environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True
        )

    for command in (
        [binaries / "spleeter"],
        [binaries / "spleeter-2"],
        [binaries / "python", "-m", "spleeter_2"],
    ):
        assert run(*command, "--version").stdout.startswith("spleeter-2 ")
    run(binaries / "spleeter", "separate", "-o", "out", song)
    assert soundfile.info(tmp_path / "out/song/vocals.wav").frames == soundfile.info(song).frames
