"""``python -m spleeter_2``: the same program as ``spleeter``."""

from spleeter_2.cli.main import entrypoint

if __name__ == "__main__":
    entrypoint()
