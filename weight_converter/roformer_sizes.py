"""Sizes of a RoFormer that follow from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spleeter_2.errors import SeparationError

FIRST = "band_split.to_features.0.1.weight"  # a tensor that every network has


@dataclass(frozen=True)
class Sizes:
    """Sizes that the shapes of a state dict determine, under the names of MSST's options.

    Attributes:
        is_mel: Mel-Band RoFormer, or BS-RoFormer.
        features: of each band's input: 2 * channels * bins.
        values: the others.
    """

    is_mel: bool
    features: tuple[int, ...]
    values: dict[str, int]

    @property
    def family(self) -> str:
        """Name of the network."""
        return "Mel-Band RoFormer" if self.is_mel else "BS-RoFormer"


def sizes_of(state: Mapping[str, np.ndarray]) -> Sizes:
    """Read sizes off the shapes.

    Raises:
        SeparationError: the tensors are those of neither family, or of another network.
    """
    is_mel = any(re.fullmatch(r"layers\.\d+\.\d+\.norm\.gamma", name) for name in state)
    if is_mel == ("final_norm.gamma" in state):
        both = "both" if is_mel else "neither of"
        raise SeparationError(
            f"the checkpoint has {both} final_norm.gamma, as BS-RoFormer, and "
            "layers.0.0.norm.gamma, as Mel-Band RoFormer: it is no RoFormer that can be converted"
        )
    try:
        return Sizes(is_mel, *_sizes(state, is_mel))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise SeparationError(
            f"the checkpoint is no RoFormer that can be converted: it lacks {error.args[0]}"
        ) from error


def _sizes(state: Mapping[str, np.ndarray], is_mel: bool) -> tuple[tuple[int, ...], dict[str, int]]:
    def count(pattern: str) -> int:
        """Largest number at a place of the names, plus one."""
        matches = (re.match(pattern, name) for name in state)
        return max((int(match[1]) + 1 for match in matches if match), default=0)

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if len(state[name].shape) != rank:
            raise ValueError(f"{name} with {rank} axes")
        return state[name].shape

    nb_bands = count(r"band_split\.to_features\.(\d+)\.")
    features = tuple(
        shape(f"band_split.to_features.{number}.1.weight", 2)[1] for number in range(nb_bands)
    )
    dim = shape(FIRST, 2)[0]
    is_linear = any(name.endswith(".0.temperature") for name in state)
    depths = [count(rf"layers\.\d+\.{k}\.layers\.(\d+)\.") for k in range(3)]
    linear, time, frequency = depths if is_linear else (0, *depths[:2])
    last = "mask_estimators.0.to_freqs.0.0."
    hidden = count(rf"{re.escape(last)}(\d+)\.weight") // 2
    values = {
        "dim": dim,
        "depth": count(r"layers\.(\d+)\."),
        "num_stems": count(r"mask_estimators\.(\d+)\."),
        "linear_transformer_depth": linear,
        "time_transformer_depth": time,
        "freq_transformer_depth": frequency,
        "mask_estimator_depth": hidden + (0 if is_mel else 1),
    }
    if is_mel:
        values["num_bands"] = nb_bands
    gates = next((name for name in state if name.endswith(".to_gates.weight")), None)
    if gates is not None:
        heads = shape(gates, 2)[0]
        inner = shape(gates.replace("to_gates", "to_qkv"), 2)[0]
        values |= {"heads": heads, "dim_head": inner // (3 * heads)}
    if hidden:
        values["mlp_expansion_factor"] = shape(f"{last}0.weight", 2)[0] // dim
    return features, values
