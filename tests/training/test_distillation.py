"""Teachers: what a student is told in the place of the truth."""

import json

import numpy as np
import pytest
from msgspec.structs import replace
from support.common import values_of
from support.models import SMALL, noise
from support.training import UNET, trainer

from spleeter_2.config.loading import load_configuration, parse_configuration
from spleeter_2.config.schema import Stft
from spleeter_2.errors import SeparationError
from spleeter_2.models import build_model
from spleeter_2.training.distillation import Teachers
from spleeter_2.weights import checkpoint as weights

pytestmark = pytest.mark.usefixtures("quick_training")

SEED = np.array([0, 5], np.int64)  # of a roll by 5 frames; others roll by others


def model(folder, target="vocals", residual="accompaniment", nb_bins=60, seed=0):
    """A model of random weights, and its folder as a descriptor."""
    import tensorflow as tf

    data = {
        **SMALL, "targets": [target], "residual": residual, "model": {**UNET, "nb_bins": nb_bins}
    }  # fmt: skip
    tf.keras.utils.set_random_seed(seed)
    network = build_model(parse_configuration(data))
    for variable in network.trainable_variables:  # or all masks would be near a half
        variable.assign(variable * 3)
    folder.mkdir(exist_ok=True)
    weights.write_checkpoint(values_of(network), folder)
    folder.joinpath("config.json").write_text(json.dumps({**data, "spleeter_2": 1, "weights": "."}))
    return network, str(folder)


def truth(configuration):
    """A batch of two examples: vocals and accompaniment."""
    vocals, accompaniment = noise(configuration, 2, 1), noise(configuration, 2, 2)
    return {
        "mixture": vocals + accompaniment,
        "targets": vocals[:, np.newaxis],
        "residual": accompaniment,
    }


def shift_of(teachers, mixture):
    """By how many frames the teachers' input was rolled."""
    seen = []
    networks, teachers.networks = teachers.networks, [lambda x: seen.append(x) or {"vocals": x}]
    teachers.estimates(mixture, SEED)
    teachers.networks = networks
    shifts = [
        shift
        for shift in range(mixture.shape[1])
        if (np.roll(mixture, shift, axis=1) == seen[0].numpy()).all()
    ]
    assert len(shifts) == 1
    return shifts[0]


def test_the_mean_of_models_takes_a_share_of_the_truth(tmp_path):
    """One model estimates vocals, the other what is to be left; each sees the rolled mixture."""
    one, first = model(tmp_path / "one")
    other, second = model(tmp_path / "other", "accompaniment", "vocals", nb_bins=48, seed=1)
    student = load_configuration(first)
    teachers = Teachers(student, [first, second])
    batch = truth(student)
    mixture = batch["mixture"]
    shift = shift_of(Teachers(student, [first]), mixture)
    assert 0 < shift < student.model.stride
    rolled = np.roll(mixture, shift, axis=1)
    vocals = np.stack([one(rolled)["vocals"], rolled - other(rolled)["accompaniment"]]).mean(axis=0)
    vocals = np.roll(vocals, -shift, axis=1)
    expected = batch["targets"].copy()
    expected[:, 0, :, :48] += 0.75 * (vocals - batch["targets"][:, 0])[:, :, :48]
    found = teachers.blend(batch, 0.75, SEED)
    np.testing.assert_array_equal(found["mixture"], mixture)
    np.testing.assert_allclose(found["targets"], expected, atol=1e-4)
    np.testing.assert_allclose(found["residual"], mixture - expected[:, 0], atol=1e-4)
    assert np.abs(found["targets"] - batch["targets"])[:, :, :, :48].mean() > 0.1
    assert np.abs(found["residual"] - batch["residual"])[:, :, :48].mean() > 0.1
    alone = Teachers(student, [first]).estimates(mixture, SEED).numpy()
    assert np.abs(alone[:, 0] - vocals).mean() > 0.01


@pytest.mark.slow
def test_a_student_learns_from_its_teacher(tmp_path):
    """With nothing but the teacher to learn from it comes closer to it than to the truth."""
    trainer(tmp_path / "teacher", epochs=8, steps_per_epoch=10).fit(verbose=0)
    teacher = str(tmp_path / "teacher")
    run = trainer(
        tmp_path / "student", epochs=8, steps_per_epoch=10, teachers=[teacher], teacher_share=1.0
    )
    assert run.model.teachers is not None
    before = distance(run)
    run.fit(verbose=0)
    assert distance(run) < 0.2 * before


def distance(run):
    """Mean squared difference between student and teacher on the validation examples."""
    from spleeter_2.training.batches import named_spectrograms

    total = 0.0
    band, nb_bins = run.configuration.model.nb_bins, run.configuration.stft.nb_bins
    for window in run.validation.examples:
        example = named_spectrograms(window, 1, run.validation.transform, nb_bins)
        mixture = example["mixture"][np.newaxis]
        taught = run.model.teachers.estimates(mixture, SEED)[..., :band, :]
        total += float(np.mean(np.abs(run.model(mixture[:, :, :band]) - taught) ** 2))
    return total


def test_refused(tmp_path):
    _, descriptor = model(tmp_path / "one")
    student = load_configuration(descriptor)
    other = replace(student, stft=Stft(128, 64))
    with pytest.raises(SeparationError, match="has stft .*, not "):
        Teachers(other, [descriptor])
    stranger = replace(student, targets=("drums",))
    with pytest.raises(SeparationError, match="does not separate 'drums'"):
        Teachers(stranger, [descriptor])
    with pytest.raises(SeparationError, match="training.teachers: there is no configuration"):
        Teachers(student, [str(tmp_path / "nobody")])
    (tmp_path / "one" / "checkpoint").unlink()
    with pytest.raises(SeparationError, match="training.teachers: the weights of .* are missing"):
        Teachers(student, [descriptor])
    with pytest.raises(SeparationError, match="training.teacher_share must be .* > 0.0, not 0"):
        trainer(tmp_path / "run", teachers=[descriptor], teacher_share=0)
