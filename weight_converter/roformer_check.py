"""Comparison of a converted RoFormer with inputs, intermediates and outputs of PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from spleeter_2.audio.stft import Transform
from spleeter_2.config.networks import RoFormer
from spleeter_2.config.schema import Configuration
from spleeter_2.errors import SeparationError
from spleeter_2.runtime.network import Network, load_network
from spleeter_2.weights.checkpoint import open_checkpoint

from .verify import Difference, difference

# absolute limits, a few times the differences between float32 and float64 in PyTorch
WAVE, WAVE_LINEAR = 1e-6, 5e-6  # the second with linear attention
FEATURES, SPECTROGRAM = 5e-5, 2e-4


def differences_of_roformer(
    configuration: Configuration, expected: Mapping[str, np.ndarray]
) -> list[Difference]:
    """Compare a converted network, by Keras and by ONNX Runtime.

    Args:
        expected: ``wave_in [C, S]``, ``wave_out [I, C, S']``; further outputs are compared if they
            are there: ``stft_in`` and ``est_spec``, ``mask`` (``[C, F, T]``, ``[I, C, F, T]``),
            and the features ``[T, bands, D]`` of ``features_of``.

    Raises:
        SeparationError: the arrays are of another network.
    """
    network, stft = load_network(configuration), configuration.stft
    transform = Transform(stft.frame_length, stft.frame_step, network.window)
    wave_limit = WAVE_LINEAR if configuration.model.linear_layers else WAVE
    limits = {"wave_out": wave_limit, "est_spec": SPECTROGRAM, "stft_in": SPECTROGRAM}
    try:
        mixture = transform.forward(np.ascontiguousarray(expected["wave_in"].T))
        found = _outputs(configuration, network, transform, mixture, expected)
        return [
            difference(name, value, expected[key], limits.get(key, FEATURES))
            for name, key, value in found
        ]
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise SeparationError(
            f"the expected outputs are of another network than {configuration.name}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def features_of(model: RoFormer) -> dict[str, str]:
    """Layers whose outputs ``[B, T, bands, D]`` PyTorch's intermediates are compared with.

    The outputs of the first block's transformers, and the features that masks are made from.
    """
    last = "norm" if model.output_norm else f"{model.frequency_layers}_feed_forward_add"
    return {
        "band_split": "band_split",
        "after_linear0": "block_1_unflatten",
        "time0_attn_branch": "block_1_time_1_attention",
        "time0_ff_branch": "block_1_time_1_feed_forward",
        "after_time0": "block_1_to_bands",
        "after_freq0": f"block_1_frequency_{last}",
        "final_features": f"block_{model.depth}_frequency_norm"
        if model.output_norm
        else "output_norm",
    }


def _outputs(
    configuration: Configuration,
    network: Network,
    transform: Transform,
    mixture: np.ndarray,
    expected: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield what was computed: its name, and the key and the array to compare."""
    if "stft_in" in expected:
        yield "stft_in", "stft_in", mixture.transpose(2, 1, 0)
    layers = {k: v for k, v in features_of(configuration.model).items() if k in expected}
    values = _by_keras(configuration, mixture, layers, "mask" in expected)
    for key in layers:
        is_along_time = key.startswith("time0")  # [bands, T, D]
        yield key, key, values[key].transpose(1, 0, 2) if is_along_time else values[key]
    targets = configuration.targets
    if "mask" in expected:
        masks = np.stack([values[f"{target} mask"] for target in targets])
        masks = masks[..., 0] + 1j * masks[..., 1]  # [I, T, F, C]
        yield "mask", "mask", masks.transpose(0, 3, 2, 1)
    results = {"": {target: values[target] for target in targets}}
    if len(mixture) == configuration.segment.nb_frames:
        results[" of ONNX Runtime"] = network.estimate(mixture)
    nb_samples = expected["wave_out"].shape[-1]
    for runtime, estimates in results.items():
        if "est_spec" in expected:
            stacked = np.stack([estimates[target] for target in targets])
            yield f"est_spec{runtime}", "est_spec", stacked.transpose(0, 3, 2, 1)
        waves = [transform.inverse(estimates[target], nb_samples).T for target in targets]
        yield f"wave_out{runtime}", "wave_out", np.stack(waves)


def _by_keras(
    configuration: Configuration, mixture: np.ndarray, layers: Mapping[str, str], masks: bool
) -> dict[str, np.ndarray]:
    """Outputs of layers, of masks (``{target} mask``) and of targets, without the batch."""
    import tensorflow as tf

    from spleeter_2.models import build_model
    from spleeter_2.models.variables import assign_checkpoint

    model = build_model(configuration)
    folder = configuration.weights
    assign_checkpoint(model, open_checkpoint(folder), folder)
    outputs = {key: model.get_layer(layer).output for key, layer in layers.items()}
    if masks:
        for target in configuration.targets:
            outputs[f"{target} mask"] = model.get_layer(f"{target}_mask").output
    network = tf.keras.Model(model.input, {**model.output, **outputs})
    found = network(mixture[np.newaxis], training=False)
    return {name: value.numpy()[0] for name, value in found.items()}
