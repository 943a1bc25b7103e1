"""Metadata, extras and console scripts of the distribution ``spleeter-2``.

The base separates. The extra ``train`` brings TensorFlow, for training and exporting;
``evaluation`` scores, ``web`` serves a page, ``cluster`` is for several processes or machines.
``upstream`` is Spleeter itself, which tests and benchmarks compare with, for an environment of its
own.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "spleeter_2/__init__.py").read_text(), re.M)

BASE = [
    "numpy>=1.22",
    "scipy>=1.10",
    "onnxruntime>=1.21",  # weights beside a graph in memory
    "ffmpeg-python>=0.2,<0.3",
    "imageio-ffmpeg>=0.5",
    "soundfile>=0.12",
    "soxr>=0.3.7",
    "typer>=0.3.2,<0.29",  # newer ones need pydantic
    "tqdm>=4.60",
    "msgspec>=0.22,<1",
    "norbert>=0.2.1,<0.3",
    "filelock>=3.8",
]
# no Python from 3.12 on can install TensorFlow 2.12
OLD, NEW = "python_version < '3.12'", "python_version >= '3.12'"
TRAIN = [
    f"tensorflow==2.12.1; {OLD}",
    f"onnx>=1.14,<1.18; {OLD}",  # newer ones need a typing-extensions that TensorFlow 2.12 refuses
    f"setuptools<81; {OLD}",  # TensorFlow 2.12 imports pkg_resources
    # newer ones need newer packages than TensorFlow 2.12 accepts: pip would try them one by one
    f"grpcio<1.75; {OLD}",
    f"jax<0.4.39; {OLD}",
    f"tensorflow>=2.16; {NEW}",
    f"tf-keras>=2.16; {NEW}",
    f"onnx>=1.17; {NEW}",
    "tf2onnx>=1.17",
    "tensorboard",
    "matplotlib>=3.7",  # curves
    "einops>=0.6,<1",
    "safetensors>=0.4,<1",
    "pyyaml>=6",
]
DASK = ["distributed>=2024.4"]
CLUSTER = [
    *DASK,
    "fsspec>=2024.2",  # songs and stems behind URLs
    # Parquet; newer ones cannot be imported with the NumPy of TensorFlow 2.12
    f"pyarrow>=16,<22; {OLD}",
    f"pyarrow>=18; {NEW}",
]
S3 = ["s3fs>=2024.2"]
EVALUATION = [
    *DASK,  # it scores tracks in several processes
    "musdb>=0.4",
    "museval>=0.4",
    "stempeg>=0.2.3",
    "setuptools<81",  # stempeg imports pkg_resources
    "pandas>=1.5",
    "jinja2>=3.1",
    "matplotlib>=3.7",  # pictures of the reports
]
WEB = [
    f"starlette>=0.40,<0.48; {OLD}",  # as for onnx
    f"anyio<4.15; {OLD}",
    f"starlette>=0.40; {NEW}",
    "uvicorn>=0.30",
    "python-multipart>=0.0.18",
    "pillow>=9.1",  # spectrograms
]
UPSTREAM = [
    f"spleeter==2.4.2; {OLD}",  # pins TensorFlow 2.12.1
    f"setuptools<81; {OLD}",  # TensorFlow 2.12 imports pkg_resources
]
GPU = ["onnxruntime-gpu>=1.21; sys_platform != 'darwin'"]
TESTS = [
    "pytest>=7",
    "pytest-xdist>=3.7",  # --no-loadscope-reorder: files with few, long tests would come last
    "hypothesis>=6",
    f"import-linter>=2,<2.17; {OLD}",  # newer ones need a click that typer 0.3 cannot use
    f"import-linter>=2; {NEW}",
    "build",
    "playwright>=1.40",
    "axe-playwright-python>=0.1.4",
]

setup(
    name="spleeter-2",
    version=VERSION.group(1),
    description="Music source separation: Spleeter with one network and bounded memory",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["spleeter_2*", "weight_converter*", "evaluation*"]),
    package_data={
        "spleeter_2.config": [
            "presets/*",
            "presets/spleeter/*",
            "presets/graphs/*",
            "presets/weights/*",
            "presets/weights/*/*",
        ],
        "spleeter_2.web": ["static/*"],
        "weight_converter": ["*.tsv"],
        "evaluation": ["report.html.jinja", "report.js"],
    },
    install_requires=BASE,
    extras_require={
        "train": TRAIN,
        "evaluation": EVALUATION,
        "web": WEB,
        "cluster": CLUSTER,
        "s3": S3,  # apart from "all", as are fsspec's packages for other stores
        "upstream": UPSTREAM,
        "gpu": GPU,  # apart from "all": it replaces the ONNX Runtime of the base
        "all": TRAIN + EVALUATION + WEB + CLUSTER,
        "tests": TRAIN + EVALUATION + WEB + CLUSTER + S3 + TESTS,
    },
    entry_points={
        "console_scripts": [
            "spleeter = spleeter_2.cli.main:entrypoint",
            "spleeter-2 = spleeter_2.cli.main:entrypoint",
        ]
    },
)
