"""spleeter-2: separate a song into stems with one network and bounded memory.

    >>> from spleeter_2 import Separator
    >>> with Separator("spleeter_2:grouped") as separator:
    ...     stems = separator.separate(waveform)

Importing this package is cheap: TensorFlow is loaded when a ``Separator`` is built.
"""

__version__ = "0.1.0"

from .errors import SeparationError

__all__ = ["SeparationError", "Separator", "__version__"]


def __getattr__(name: str):
    if name == "Separator":
        from .separation.separator import Separator

        return Separator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
