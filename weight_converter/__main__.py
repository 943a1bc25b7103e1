"""``python -m weight_converter``: weights of other projects -> a folder that ``-p`` accepts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spleeter_2.errors import SeparationError


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Exit status: 0 done, 1 refused (one sentence says why), 2 wrong usage."""
    parser = argparse.ArgumentParser(
        prog="python -m weight_converter",
        description="Convert a checkpoint of another project into one that 'spleeter separate -p' "
        "accepts.",
    )
    parser.add_argument("source", type=Path, help="folder of a Spleeter 2stems model")
    parser.add_argument(
        "--from",
        dest="project",
        choices=["spleeter"],
        required=True,
        help="project that the checkpoint comes from",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--model",
        default="spleeter_2:mask",
        help="architecture to fill; what Spleeter does not have stays at its neutral start",
    )
    parser.add_argument("--half", action="store_true", help="store kernels as float16")
    parser.add_argument("--force", action="store_true", help="replace an existing folder")
    parser.add_argument("--seed", type=int, default=0, help="of the neutral start")
    options = parser.parse_args(arguments)
    try:
        from .spleeter import convert_spleeter

        print(convert_spleeter(**{k: v for k, v in vars(options).items() if k != "project"}))
    except SeparationError as error:
        print(f"weight_converter: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
