"""Converters of other projects' checkpoints."""

from spleeter_2.extras import use_keras_2

use_keras_2()  # before the first import of TensorFlow
