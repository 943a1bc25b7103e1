"""Speed and memory of a training step compared with Spleeter's, and the times of its parts.

    UPSTREAM_PYTHON=... python benchmarks/training.py            # everything
    UPSTREAM_PYTHON=... python benchmarks/training.py --steps 10
    python benchmarks/training.py --parts               # the parts only

UPSTREAM_PYTHON names an interpreter with spleeter 2.4.2. Upstream trains with its own ``model_fn``
in an Estimator, one network per stem; ours is one network
for both. All programs have the same crops of stempeg's excerpt in memory, so only the step is
timed. Each program is a separate process; they run one step in turn, and ratios are computed per
turn, so that other load of the machine affects all programs equally. Upstream's Estimator never
sets Keras' learning phase, so its BatchNorm always has mean 0 and variance 1 and its dropout is a
no-op; "as upstream" does the same, without gradient clipping. Parts are timed separately:
frequency transformations at a level of the U-Net, losses for a batch of spectrograms, each with
its gradient, and the share of its time that a training step waits for examples.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the repository's packages

FRAMES, BINS, BATCH = 512, 1024, 4  # upstream's configuration of 2stems
LENGTH, STEP = 4096, 1024  # of the STFT, in samples
WARM = 3  # warm-up steps, not timed
OURS = ("mask as upstream", "mask", "grouped")
BLOCKS = ("fc", "conv", "dilated", "grouped")
LEVELS = {2: (FRAMES // 4, BINS // 4, 32), 6: (FRAMES // 64, BINS // 64, 512)}  # T, F, C


def make_crops(path: Path) -> None:
    """Write a batch of STFTs: mixture, targets (vocals) and residual (accompaniment)."""
    import stempeg

    from spleeter_2.audio.stft import Transform
    from spleeter_2.training.batches import named_spectrograms

    streams, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    vocals, accompaniment = streams[4], streams[1:4].sum(axis=0)
    transform = Transform(LENGTH, STEP)
    crops = []
    for index in range(BATCH):
        stems = [
            np.resize(np.roll(stem, -index * 20000, axis=0), ((FRAMES - 1) * STEP, 2))
            for stem in (vocals, accompaniment)
        ]
        crops.append(named_spectrograms(np.float32(stems), 1, transform, BINS))
    np.savez(path, **{name: np.stack([crop[name] for crop in crops]) for name in crops[0]})


class Turns:
    """Timer of a program: starts at a line on standard input, prints the seconds of the step."""

    def begin(self) -> None:
        sys.stdin.readline()
        self.start = time.perf_counter()

    def end(self) -> None:
        print(time.perf_counter() - self.start, flush=True)


def train_upstream(crops: dict[str, np.ndarray], steps: int) -> None:
    """Run steps of upstream's Estimator."""
    import tensorflow as tf
    from spleeter.model import model_fn
    from spleeter.utils.configuration import load_configuration

    parameters = load_configuration("spleeter:2stems")
    names = ("mix_spectrogram", "vocals_spectrogram", "accompaniment_spectrogram")
    stfts = (crops["mixture"], crops["targets"][:, 0], crops["residual"])
    features = {name: np.abs(stft) for name, stft in zip(names, stfts, strict=True)}
    turns = Turns()

    def input_fn():
        labels = {name: features[name] for name in names[1:]}
        whole = ({names[0]: features[names[0]]}, labels)
        return tf.data.Dataset.from_tensors(whole).cache().repeat().prefetch(1)

    class Clock(tf.estimator.SessionRunHook):
        def before_run(self, context):
            turns.begin()

        def after_run(self, context, values):
            turns.end()

    with tempfile.TemporaryDirectory() as folder:
        settings = tf.estimator.RunConfig(save_checkpoints_steps=10**9, save_summary_steps=10**9)
        estimator = tf.estimator.Estimator(model_fn, folder, settings, parameters)
        estimator.train(input_fn, hooks=[Clock()], steps=steps)


def make_model(program: str):
    """Training model of a program, for ``fit``."""
    from msgspec.structs import replace

    from spleeter_2.config.loading import load_configuration
    from spleeter_2.config.training import LossOptions, Training
    from spleeter_2.models import build_model
    from spleeter_2.training.losses import build_loss
    from spleeter_2.training.model import TrainingModel

    model, _, same = program.partition(" as ")
    configuration = load_configuration(f"spleeter_2:{model}")
    options = Training(
        loss=LossOptions("magnitude_l1")
        if model == "mask"
        else LossOptions("mse", over_mixture_penalty=1.0)
    )
    if same:
        network = replace(configuration.model, dropout=0.0)
        configuration = replace(configuration, model=network)
        options = replace(options, freeze_statistics=True, clip_norm=None)
    network, loss = build_model(configuration, band_only=True), build_loss(options.loss, LENGTH)
    return TrainingModel(network, configuration.targets, options, loss)


def train_ours(program: str, crops: dict[str, np.ndarray], steps: int) -> None:
    """Run steps of our training model's ``fit``."""
    import tensorflow as tf

    model = make_model(program)
    turns = Turns()

    class Clock(tf.keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            turns.begin()

        def on_train_batch_end(self, batch, logs=None):
            turns.end()

    batches = tf.data.Dataset.from_tensors(crops).cache().repeat().prefetch(1)
    model.fit(batches, steps_per_epoch=steps, callbacks=[Clock()], verbose=0)


def peak_memory() -> float:
    """Peak memory of this process in MB, on Linux (``getrusage`` includes the parent's at fork)."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def serve(program: str, path: Path, steps: int) -> None:
    """Train in this process, one step per line on standard input; print the peak memory."""
    crops = dict(np.load(path))
    train_upstream(crops, steps) if program == "upstream" else train_ours(program, crops, steps)
    print(peak_memory())


def take_turns(steps: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Run all programs in turn.

    Returns:
        Seconds of the timed steps ``[steps]``, and peak memory in MB, by program.
    """
    names = ("upstream", *OURS)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "crops.npz"
        make_crops(path)
        programs = {}
        for name in names:
            python = os.environ["UPSTREAM_PYTHON"] if name == "upstream" else sys.executable
            command = [python, __file__, "--serve", name, path, "--steps", WARM + steps]
            programs[name] = stack.enter_context(
                subprocess.Popen(
                    list(map(str, command)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )

        def step(name: str) -> float:
            programs[name].stdin.write("\n")
            programs[name].stdin.flush()
            return float(programs[name].stdout.readline())

        taken = [[step(name) for name in names] for _ in range(WARM + steps)][WARM:]
        peaks = {name: float(program.stdout.readline()) for name, program in programs.items()}
    return dict(zip(names, np.array(taken).T, strict=True)), peaks


def compare(steps: int) -> None:
    """Print the table of steps, one row per program."""
    seconds, peaks = take_turns(steps)
    print(
        f"A step of {BATCH} crops of {FRAMES} frames; faster: median (quartiles) of {steps} turns"
    )
    print("program              networks  s per step  steps per s  peak MB  faster per network")
    for name, taken in seconds.items():
        networks = 2 if name == "upstream" else 1
        ratios = seconds["upstream"] / 2 / (taken / networks)
        low, median, high = np.percentile(ratios, (25, 50, 75))
        typical = np.median(taken)
        print(
            f"{name:20} {networks:8} {typical:11.2f} {1 / typical:12.3f} {peaks[name]:8.0f} "
            f"{median:10.2f} ({low:.2f} to {high:.2f})"
        )


def time_data(steps: int) -> None:
    """Print the share of time that steps wait for reading, augmentation and STFT of examples."""
    import soundfile
    import stempeg

    from spleeter_2.audio.stft import Transform
    from spleeter_2.config.training import USUAL
    from spleeter_2.data.cache import StemCache
    from spleeter_2.data.examples import Examples
    from spleeter_2.data.songs import training_songs
    from spleeter_2.training.batches import as_tf_dataset, named_spectrograms

    streams, _ = stempeg.read_stems(stempeg.example_stem_path(), ffmpeg_format="s16le")
    instruments = ("vocals", "accompaniment")
    stems = dict(zip(instruments, (streams[4], streams[1:4].sum(axis=0)), strict=True))
    model, transform = make_model("grouped"), Transform(LENGTH, STEP)
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder, "songs", "song")
        song.mkdir(parents=True)
        for name, stem in stems.items():
            soundfile.write(song / f"{name}.wav", np.tile(stem, (10, 1)), 44100, subtype="FLOAT")
        songs = StemCache(Path(folder, "cache"), 44100, 2).decode(
            training_songs(song.parent, instruments)
        )
        examples = Examples(songs, instruments, (FRAMES - 1) * STEP, USUAL)
        batches = as_tf_dataset(
            examples, 0, BATCH, lambda x: named_spectrograms(x, 1, transform, BINS)
        )
        model.fit(batches, steps_per_epoch=WARM, verbose=0)
        model.data_wait()
        model.fit(batches, steps_per_epoch=steps, verbose=0)
        print(f"\nA step waits {100 * model.data_wait():.1f} % of its time for examples")


def timed(function: Callable[[], object], repeat: int = 5) -> float:
    """Median seconds of a call, after one warm-up call."""
    function()
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_blocks() -> None:
    """Print the time of each frequency transformation, without and with its gradient."""
    import tensorflow as tf

    from spleeter_2.config.networks import FrequencyTransformation
    from spleeter_2.models.frequency import frequency_transformation

    print(f"\nFrequency transformations, {BATCH} crops of {FRAMES} frames")
    print("block     level  bins  channels  parameters  forward ms  with gradient ms")
    for level, (frames, bins, channels) in LEVELS.items():
        for kind in BLOCKS:
            options = FrequencyTransformation(type=kind, level=level)
            inputs = tf.keras.Input((frames, bins, channels))
            model = tf.keras.Model(inputs, frequency_transformation(inputs, options, "block"))
            x = tf.random.normal((BATCH, frames, bins, channels))

            @tf.function
            def forward(model=model, x=x):
                return tf.reduce_sum(model(x, training=True))

            @tf.function
            def both(model=model, x=x):
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    total = tf.reduce_sum(model(x, training=True))
                gradients = tape.gradient(total, [x, *model.trainable_variables])
                return [tf.reduce_sum(gradient) for gradient in gradients]

            times = [1000 * timed(function) for function in (forward, both)]
            print(
                f"{kind:9} {level:5} {bins:5} {channels:9} {model.count_params():11,} "
                f"{times[0]:11.0f} {times[1]:17.0f}"
            )


def time_losses() -> None:
    """Print the time of each loss with its gradient."""
    import tensorflow as tf

    from spleeter_2.training.losses import ERRORS, OverMixturePenalty, SpectrogramLoss

    losses = {error: SpectrogramLoss(error) for error in ERRORS}
    losses["mse, two sources"] = SpectrogramLoss("mse", two_source=True)
    losses["over-mixture penalty"] = OverMixturePenalty(1.0)
    generator = tf.random.Generator.from_seed(0)
    parts = [generator.normal((3, BATCH, FRAMES, BINS, 2)) for _ in range(2)]
    mixture, target, residual = tf.unstack(tf.complex(*parts))
    targets = tf.expand_dims(target, 1)
    batch = {"mixture": mixture, "targets": targets, "residual": residual}
    estimate = tf.expand_dims(mixture, 1) * 0.9
    print(f"\nLosses with their gradient, {BATCH} crops of {FRAMES} frames")
    for name, loss in losses.items():

        @tf.function
        def both(loss=loss):
            with tf.GradientTape() as tape:
                tape.watch(estimate)
                value = tf.reduce_mean(loss(batch, estimate))
            return tf.reduce_sum(tf.abs(tape.gradient(value, estimate)))

        print(f"{name:22} {1000 * timed(both):6.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each program")
    parser.add_argument("--parts", action="store_true", help="time the parts only")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve[0], Path(options.serve[1]), options.steps)
    if not (options.parts or os.environ.get("UPSTREAM_PYTHON")):
        parser.error("needs UPSTREAM_PYTHON, an interpreter with spleeter 2.4.2, or --parts")
    from importlib.metadata import version

    print(
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}, TensorFlow {version('tensorflow')}"
    )
    if not options.parts:
        compare(options.steps)
        time_data(min(options.steps, 10))
    time_blocks()
    time_losses()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
