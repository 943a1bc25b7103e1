import shutil

import pytest


@pytest.fixture(params=["system", "imageio"])
def either_ffmpeg(request, monkeypatch):
    """Once with the system's ffmpeg, once with the binary that pip brings."""
    found = shutil.which("ffmpeg")
    if request.param == "imageio":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif found is None:
        pytest.skip("there is no ffmpeg on the path: apt-get install ffmpeg")
