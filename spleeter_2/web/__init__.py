"""``spleeter web``: a page, and the HTTP server behind it, that separates songs."""

from pathlib import Path

STATIC = Path(__file__).parent / "static"
