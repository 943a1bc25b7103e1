"""Answer calls of ``upstream.Upstream``: a line of JSON on standard input, one on standard output.

Runs in Spleeter's environment; nothing of ours is imported.
"""

import json
import os
import sys
import traceback

import numpy as np


def to_stereo(waveform):
    from spleeter.separator import to_stereo

    return waveform if waveform.shape[1] == 2 else to_stereo(waveform)


def separator(configuration, models, mwf=False):
    from spleeter.model.provider import ModelProvider
    from spleeter.separator import Separator

    ModelProvider.DEFAULT_MODEL_PATH = models
    made = Separator(configuration, MWF=mwf, multiprocess=False)
    folder = os.path.join(models, made._params["model_dir"])
    import tensorflow as tf

    if tf.train.latest_checkpoint(folder) is None:  # Spleeter would take untrained weights
        raise ValueError(f"there is no checkpoint in {folder}")
    return made


def separate(configuration, songs, models, mwf, target):
    import tensorflow as tf
    from spleeter.audio.adapter import AudioAdapter
    from spleeter.separator import create_estimator

    made = separator(configuration, models, mwf)
    adapter = AudioAdapter.default()

    def waveforms():
        for source, offset, duration in songs:
            waveform, _ = adapter.load(source, offset, duration, made._sample_rate)
            yield {"waveform": to_stereo(waveform), "audio_id": source}

    kinds = {"waveform": tf.float32, "audio_id": tf.string}
    shapes = {"waveform": (None, 2), "audio_id": ()}
    # as Separator.separate, which builds a graph for each song
    estimates = create_estimator(made._params, mwf).predict(
        lambda: tf.data.Dataset.from_generator(waveforms, kinds, shapes),
        yield_single_examples=False,
    )
    for number, stems in enumerate(estimates):
        stems.pop("audio_id")
        np.savez(f"{target}/{number}.npz", **stems)


def separate_to_file(configuration, source, models, destination, codecs):
    from spleeter.audio import Codec
    from spleeter.audio.adapter import AudioAdapter

    made = separator(configuration, models)
    waveform, _ = AudioAdapter.default().load(source, sample_rate=made._sample_rate)
    stems = made.separate(waveform)
    for codec in codecs:
        made.save_to_file(stems, source, destination, codec=Codec(codec))


def write_model(parameters, folder, seed):
    import tensorflow as tf
    from spleeter.model import EstimatorSpecBuilder, InputProviderFactory

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.train.create_global_step()
        features = InputProviderFactory.get(parameters).get_input_dict_placeholders()
        EstimatorSpecBuilder(features, parameters).build_predict_model()
        rng = np.random.default_rng(seed)
        variables = tf.compat.v1.global_variables()
        values = {each.initializer.inputs[1]: random_value(each, rng) for each in variables}
        session.run([each.initializer for each in variables], values)
        tf.compat.v1.train.Saver().save(session, os.path.join(folder, "model"))


def random_value(variable, rng):
    """Uniform kernels, and vectors that change what they are applied to.

    Spleeter's initialiser, He's, is made for inputs near one. The magnitudes of music are larger,
    and masks of large logits would amplify the rounding errors of these. So kernels are smaller:
    each layer halves the variance.
    """
    name, shape = variable.op.name, variable.shape.as_list()
    if name == "global_step":
        return 1
    if len(shape) > 1:
        nb_inputs = shape[0] * shape[1] * shape[3 if "transpose" in name else 2]
        bound = np.sqrt(3 / nb_inputs)
        return rng.uniform(-bound, bound, shape)
    centre = 1.0 if name.endswith(("gamma", "moving_variance")) else 0.0
    return centre + rng.uniform(-0.3, 0.3, shape)


def configuration(descriptor):
    from spleeter.utils.configuration import load_configuration

    return load_configuration(descriptor)


def run(code, arguments):
    exec(code, arguments)
    return arguments["result"]


def main():
    # ffmpeg, a child, would read the calls
    calls, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for line in calls:
        name, arguments = json.loads(line)
        try:
            answer = [None, globals()[name](**arguments)]
        except Exception:
            answer = [traceback.format_exc(), None]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(main())
