"""Metadata, pins and console scripts of the distribution ``spleeter-2``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "spleeter_2/__init__.py").read_text(), re.M)

setup(
    name="spleeter-2",
    version=VERSION.group(1),
    description="Music source separation: Spleeter with one network and bounded memory",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.12",
    packages=find_packages(include=["spleeter_2*", "weight_converter*", "evaluation*"]),
    package_data={
        "spleeter_2.config": ["presets/*", "presets/weights/*", "presets/weights/*/*"],
        "evaluation": ["report.html.jinja"],
    },
    install_requires=[
        # Spleeter brings, and pins, tensorflow 2.12.1, numpy < 2, pandas 1.5 and typer 0.3,
        # and with [evaluation] museval, musdb and what they need (stempeg).
        "spleeter[evaluation]==2.4.2",
        "tensorflow==2.12.1",
        "setuptools<81",  # TensorFlow 2.12 and stempeg import pkg_resources
        "norbert>=0.2.1,<0.3",
        "ffmpeg-python>=0.2,<0.3",
        "imageio-ffmpeg>=0.5",
        "soundfile>=0.12",
        "soxr>=0.3.7",
        "scipy>=1.10",
        "msgspec>=0.22,<1",
        "filelock>=3.8",
        "einops>=0.6,<1",
        "tqdm>=4.60",
        "matplotlib>=3.7",  # pictures of the reports
        "jinja2>=3.1",
        "pandas>=1.5",
    ],
    extras_require={
        "tests": [
            "pytest>=7",
            "pytest-xdist>=3",
            "hypothesis>=6",
            "import-linter>=2,<2.17",  # newer ones need a click that typer 0.3 cannot use
            "build",
        ],
    },
    entry_points={
        "console_scripts": [
            "spleeter = spleeter_2.cli.main:entrypoint",
            "spleeter-2 = spleeter_2.cli.main:entrypoint",
        ]
    },
)
