"""The import rules of .importlinter hold, and a forbidden import is caught."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def lint(root: Path) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, env={"PYTHONPATH": "."}
    )


def test_imports_follow_the_rules():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_forbidden_imports_are_caught(tmp_path):
    large = shutil.ignore_patterns("*.data-*", "*.onnx")
    for name in ("spleeter_2", "evaluation", "weight_converter"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=large)
    shutil.copy(ROOT / ".importlinter", tmp_path)
    with (tmp_path / "spleeter_2/audio/stft.py").open("a") as file:
        file.write(
            "\n\ndef late():\n    from spleeter_2.data import songs\n    import tensorflow\n"
        )
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "spleeter_2.audio is not allowed to import spleeter_2.data" in done.stdout
    assert "spleeter_2.audio.stft -> tensorflow" in done.stdout
