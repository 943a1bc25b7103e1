"""The wheel, installed with pip into a fresh environment, dependencies resolved."""

import email
import json
import re
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
    for model in ("2stems", "4stems", "5stems", "2stems-16kHz", "4stems-16kHz", "5stems-16kHz"):
        assert f"spleeter_2/config/presets/spleeter/{model}.json" in names
    assert sum("presets/graphs/" in name for name in names) == 6
    for model in ("grouped", "2stems"):
        for suffix in ("", ".index", ".data-00000-of-00001"):
            assert f"spleeter_2/config/presets/weights/{model}/checkpoint{suffix}" in names
        assert f"spleeter_2/config/presets/weights/{model}/model.onnx" in names
    assert "spleeter_2/config/presets/LICENSE-deezer.txt" in names
    for name in ("evaluation/report.html.jinja", "evaluation/report.js"):
        assert name in names
    for path in (REPOSITORY / "spleeter_2/web/static").iterdir():
        assert f"spleeter_2/web/static/{path.name}" in names
    assert "weight_converter/mdx_models.tsv" in names
    assert wheel.stat().st_size < 100e6


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory) -> Path:
    """The programs of a fresh environment with the base alone."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/pip", "install", "-q", wheel], check=True)
    return folder / "bin"


@pytest.mark.slow
def test_a_fresh_environment(binaries, tmp_path):
    """The base alone separates the demo song with nothing on the path: no ffmpeg, no ffprobe; and
    it names the extras that train and serve the page."""
    assert subprocess.run([binaries / "pip", "check"], capture_output=True).returncode == 0
    listed = subprocess.run([binaries / "pip", "list"], capture_output=True, text=True).stdout
    heavy = {"tensorflow", "spleeter", "pandas", "matplotlib", "einops", "onnx"}
    assert heavy.isdisjoint(line.split()[0] for line in listed.splitlines())

    def run(*command):
        environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=tmp_path
        )

    for command in (
        [binaries / "spleeter"],
        [binaries / "spleeter-2"],
        [binaries / "python", "-m", "spleeter_2"],
    ):
        assert run(*command, "--version").stdout.startswith("spleeter-2 ")
    song = REPOSITORY / "demo/lets-go-fishin.ogg"
    done = run(binaries / "spleeter", "separate", "-o", "out", song)
    assert done.returncode == 0, done.stderr
    for name in ("vocals", "accompaniment"):
        stem, _ = soundfile.read(tmp_path / "out/lets-go-fishin" / f"{name}.wav")
        assert len(stem) == soundfile.info(song).frames and abs(stem).max() > 0.1
    assert "spleeter_2:grouped" in run(binaries / "spleeter", "models").stdout
    done = run(binaries / "spleeter", "train", "-d", "songs")
    assert done.returncode == 1
    assert done.stderr.endswith('needs tensorflow: pip install "spleeter-2[train]"\n')
    done = run(binaries / "spleeter", "web")
    assert done.returncode == 1
    assert done.stderr.endswith('needs starlette: pip install "spleeter-2[web]"\n')


@pytest.mark.slow
def test_the_container_without_a_container(wheel, binaries, tmp_path):
    """What the Dockerfile copies, installs, checks and runs; after the test of the base alone."""
    text = (REPOSITORY / "Dockerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.+) \S+$", text, re.M):
        for name in line.split():
            assert (REPOSITORY / name).exists()
            assert f"!{name}" in (REPOSITORY / ".dockerignore").read_text().splitlines()
    (extra,) = re.findall(r"pip install --no-cache-dir \"\.(\[.+?\])\"", text)
    subprocess.run([binaries / "pip", "install", "-q", f"{wheel}{extra}"], check=True)
    (arguments,) = re.findall(r"^CMD (.+)$", text, re.M)
    program, *arguments = json.loads(arguments.replace("/songs", str(tmp_path / "songs")))
    environment = {"PATH": str(binaries), "HOME": str(tmp_path), "SPLEETER_WEB_TOKEN": "of-a-test"}
    process = subprocess.Popen(
        [binaries / program, *arguments, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        port = re.search(r":(\d+)/\?token=of-a-test", process.stdout.readline())[1]
        (check,) = re.findall(r"^HEALTHCHECK .*CMD (.+)$", text, re.M)
        for token, status in (("of-a-test", 0), ("another-one", 1)):
            done = subprocess.run(
                ["/bin/sh", "-c", check.replace(":8765", f":{port}")],
                env={**environment, "SPLEETER_WEB_TOKEN": token},
                capture_output=True,
            )
            assert done.returncode == status, done.stderr
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == 143


def test_extras(wheel):
    """``all`` and ``tests`` hold the others, but not ``gpu``, which replaces a package, and
    ``upstream``, whose program is named as ours; ``s3``, one store of many, is in ``tests``."""
    archive = zipfile.ZipFile(wheel)
    (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(archive.read(path))
    extras = {}
    for line in metadata.get_all("Requires-Dist"):
        requirement, _, marker = line.partition(";")
        for extra in re.findall(r'extra == ["\'](\w+)', marker):
            extras.setdefault(extra, set()).add(re.split(r"[^\w.-]", requirement)[0])
    parts = ("train", "evaluation", "web", "cluster")
    assert set().union(*map(extras.get, parts)) == extras["all"]
    assert extras["all"] < extras["tests"]
    assert extras["s3"] == {"s3fs"} <= extras["tests"] - extras["all"]
    assert extras["gpu"] == {"onnxruntime-gpu"}
    assert extras["upstream"] == {"spleeter", "setuptools"}
    assert "spleeter" not in extras["tests"] and "tensorflow" in extras["train"]
