"""Names of a network's tensors without the prefixes of the modules that wrap the network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from spleeter_2.errors import SeparationError

from .torch_checkpoint import AVERAGED

# modules of PyTorch (DataParallel, torch.compile, FSDP, ...), and LaSAFT's own, around the network
WRAPPERS = re.compile(r"(?<![^.])(?:module|spec2spec|_\w+_mod(?:ule)?)\.")
COUNTER = re.compile(r"(^|\.)num_batches_tracked$")  # of training steps, in every BatchNorm


@dataclass(frozen=True)
class Chosen:
    """The tensors of one network.

    Attributes:
        names: ``{name without prefixes: name}``, with unknown tensors under their full name.
        unused: names of counters, and of the tensors of another copy of the network.
        notes: sentences for the report.
    """

    names: dict[str, str]
    unused: list[str]
    notes: list[str]


def choose_network(
    arrays: Mapping[str, np.ndarray],
    modules: Iterable[str],
    key: str,
    window: str,
    network: str = "LaSAFT network",
) -> Chosen:
    """Find the network in a state dict and strip the prefix that all its tensors share.

    Of two copies of which one is averaged (EMA, SWA) the averaged one is chosen, unless it lacks
    tensors. Single numbers outside the network, such as ``n_averaged``, are counters.

    Args:
        modules: outermost modules of the network.
        key: a tensor that every network has.
        window: tensor that may have a shorter prefix than the others.
        network: its name for messages.

    Raises:
        SeparationError: no network or several; a prefix of only some tensors; two tensors with
            the same name.
    """
    known = re.compile(rf"((?:.*?\.)??)((?:{'|'.join(map(re.escape, modules))})\..+)")
    copies: dict[str, dict[str, str]] = {}
    others = []
    for source in arrays:
        found = known.fullmatch(WRAPPERS.sub("", source))
        if found is None:
            others.append(source)
            continue
        names = copies.setdefault(found[1], {})
        if found[2] in names:
            raise SeparationError(f"the checkpoint holds {names[found[2]]} twice, also as {source}")
        names[found[2]] = source
    if not any(key in names for names in copies.values()):
        raise SeparationError(f"the checkpoint holds no {network}: it lacks {key}")
    _share_window(copies, key, window)
    _check_prefixes(copies, key)
    chosen, notes = _choose(copies, key, window)
    unused = [source for source in others if arrays[source].size == 1]
    unknown = {source: source for source in others if arrays[source].size != 1}
    used = set(chosen.values())
    unused += [s for names in copies.values() for s in names.values() if s not in used]
    return Chosen({**chosen, **unknown}, unused, notes)


def _share_window(copies: dict[str, dict[str, str]], key: str, window: str) -> None:
    """Move the window of an outer module to the networks below it."""
    for outer in [prefix for prefix, names in copies.items() if names.keys() == {window}]:
        inner = [p for p, names in copies.items() if p.startswith(outer) and key in names]
        for prefix in inner:
            copies[prefix].setdefault(window, copies[outer][window])
        if inner:
            del copies[outer]


def _check_prefixes(copies: dict[str, dict[str, str]], key: str) -> None:
    """Raise SeparationError for tensors of a network under another prefix than their network."""
    (network, *_) = [names[key] for names in copies.values() if key in names]
    for names in copies.values():
        if key not in names:
            raise SeparationError(
                "the names of a network's tensors must have one prefix, but the checkpoint holds "
                f"{network} and {next(iter(names.values()))}: rename or remove those that differ"
            )


def _choose(
    copies: dict[str, dict[str, str]], key: str, window: str
) -> tuple[dict[str, str], list[str]]:
    """Return the only copy, or of two the averaged one, and notes."""
    if len(copies) == 1:
        return next(iter(copies.values())), []
    averaged = [names for prefix, names in copies.items() if AVERAGED.search(prefix)]
    plain = [names for prefix, names in copies.items() if not AVERAGED.search(prefix)]
    if len(averaged) != 1 or len(plain) != 1:
        listed = " and ".join(names[key] for names in copies.values())
        raise SeparationError(
            f"the checkpoint holds {len(copies)} networks, with {listed}: keep one of them"
        )
    (averaged,), (plain,) = averaged, plain
    needed = {name for name in plain if name != window and not COUNTER.search(name)}
    if missing := needed - averaged.keys():
        return plain, [
            f"the averaged weights, such as {averaged[key]}, lack {min(missing)}: the others, such "
            f"as {plain[key]}, are used"
        ]
    if window in plain:
        averaged.setdefault(window, plain[window])
    return averaged, [
        f"the averaged weights, such as {averaged[key]}, are used instead of the others, such as "
        f"{plain[key]}"
    ]
