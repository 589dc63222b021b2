"""Exemplars that learn through JPEG to look to the network as their real images do."""

import numpy as np
import pytest

from mnemonics_tf.data.image_set import ArrayImageSet
from mnemonics_tf.errors import UserError
from mnemonics_tf.exemplars.memory import ExemplarMemory
from mnemonics_tf.phases.checks import check_settings
from mnemonics_tf.phases.make_exemplars import make_exemplars
from tests.phases.exemplar_stages import make

ANCHORED = {
    **{"objective": "anchored", "codec": "jpeg", "jpeg_quality": 30, "validation_share": 0.0},
    **{"outer_steps": 30, "outer_learning_rate": 0.05, "max_shift": 255.0},
    "adjust_old_exemplars": False,
}


class Halved:
    """A codec of one's own that loses something, and does not say how."""

    stores_pixels = False

    def encode(self, images):
        return images >> 1

    def decode(self, code):
        return code << 1

    def num_bytes(self, code):
        return code.size


def entered(stage, phase=1, **values):
    """Returns workshop and state of a phase, whose memory stores JPEG."""
    workshop, state = stage.enter(phase, **(ANCHORED | values))
    wanted = workshop.settings.exemplar
    old = state.memory.images
    state.memory = ExemplarMemory.empty(old.shape[1:], None, wanted.codec, wanted.jpeg_quality)
    if len(old):
        state.memory = state.memory.extended(old, stage.states[phase].memory.labels)
    return workshop, state


def lost(workshop, state, raw) -> float:
    """Returns how far features of the stored new exemplars are from those of the real images."""
    evaluator = workshop.evaluator(state.model)
    stored = state.memory.images[state.memory.labels >= state.phase.num_old]
    now, real = (
        evaluator.outputs(ArrayImageSet(images, np.zeros(len(images), np.int32))).features
        for images in (stored, raw)
    )
    return float(np.square(now - real).sum() / np.square(real).sum())


@pytest.fixture
def raw(stage):
    """The new exemplars of phase 1, as real images."""
    _, state = stage.after_new_exemplars(exemplar_seed=0)
    return state.memory.images[state.memory.labels >= state.phase.num_old]


def test_what_is_stored_keeps_more_of_the_features(stage, raw):
    workshop, state = entered(stage, exemplars="random", exemplar_seed=0)
    make(workshop, state)
    plain = lost(workshop, state, raw)
    workshop, state = entered(stage, exemplar_seed=0)
    make(workshop, state)
    assert lost(workshop, state, raw) < 0.8 * plain


def test_networks_of_a_pool_take_turns(stage):
    workshop, state = entered(stage, inner_start="pool", pool_size=2)
    make(workshop, state)
    losses = np.reshape(state.metrics["exemplars"]["meta_loss"], [-1, 2])
    assert np.all(losses[-3:].mean(axis=0) < 0.95 * losses[:3].mean(axis=0))


def test_without_a_step_they_are_stored_as_they_were_chosen(stage):
    """And not encoded twice."""
    chosen, unmoved = (
        entered(stage, exemplar_seed=0, **values)
        for values in ({"exemplars": "random"}, {"max_shift": 0.0})
    )
    for workshop, state in (chosen, unmoved):
        make(workshop, state)
    ours, expected = (state.memory.arrays()["codes"] for _, state in (unmoved, chosen))
    np.testing.assert_array_equal(ours, expected)


def test_what_they_began_as_is_kept_as_it_was_before_the_codec(stage):
    workshop, state = entered(stage)
    made = make_exemplars(
        *(workshop, state.phase, state.training_set, state.memory),
        *(state.model, state.stage("exemplars")),
    )
    real = {image.tobytes() for image in state.training_set.load_all()}
    assert all(image.tobytes() in real for image in made.starts.images)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"codec": "pixels"}, "--codec=pixels loses nothing: pass .*begin a run with --codec=jpeg"),
        ({"codec": "webp_lossless"}, "--codec=webp_lossless loses nothing"),
        ({"adjust_old_exemplars": True}, "gone once their phase ends"),
        (
            {"adjust_old_exemplars": True, "exemplars": "herding", "codec": "pixels"},
            "gone once their phase ends",
        ),
        ({"train_beside_old": True}, "whatever stands beside it"),
        (
            {"codec": f"{__name__}:Halved"},
            r"Halved has no derivative \(`relaxed`\): pass another objective, or .*--codec=jpeg",
        ),
        (
            {
                **{"codec": f"{__name__}:Halved", "adjust_old_exemplars": True},
                "objective": "unrolled_training",
            },
            "Halved, which loses something .*: leave one of the two out",
        ),
    ],
)
def test_what_can_not_be_is_refused_before_a_run(stage, values, told):
    experiment = stage.experiment
    settings = experiment.settings.changed(**({"exemplars": "mnemonics"} | ANCHORED | values))
    with pytest.raises(UserError, match=told):
        check_settings(settings, experiment.method, experiment.protocol)
