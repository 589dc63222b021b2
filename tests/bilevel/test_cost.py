"""What an outer step needs of memory is refused where it is not there."""

import pytest

from mnemonics_tf import devices
from mnemonics_tf.bilevel.cost import check_footprint, images_at_once
from mnemonics_tf.errors import UserError
from mnemonics_tf.models.layer_outputs import layer_bytes
from mnemonics_tf.models.resnet import resnet_cifar, resnet_imagenet
from mnemonics_tf.settings import InnerSettings, OuterSettings

#: of all outputs of layers for one image
IMAGE_BYTES = 10_000


def inner(scope="all", estimator="sweep", batch_size=10) -> InnerSettings:
    return InnerSettings(
        inner_scope=scope, meta_gradient=estimator, inner_steps=5, inner_batch_size=batch_size
    )


def check(base: InnerSettings, exemplars: int = 50, outer_batch: int = 30, **outer) -> None:
    """Asks for the footprint of some model."""
    wanted = OuterSettings(exemplars_per_step=exemplars, outer_batch_size=outer_batch, **outer)
    check_footprint(IMAGE_BYTES, base, wanted, 10**9, 10**9)


@pytest.fixture
def free(monkeypatch):
    """Sets the free memory, in units of one image's layer outputs."""

    def set_free(images):
        monkeypatch.setattr(
            devices,
            "available_bytes",
            lambda: None if images is None else int(images * IMAGE_BYTES),
        )

    return set_free


def test_models_of_large_images_encode_fewer_at_a_time():
    assert images_at_once(layer_bytes(resnet_cifar((32, 32, 3), 32, 0))) == 256
    at_once = images_at_once(layer_bytes(resnet_imagenet((224, 224, 3), 18, 0)))
    assert 16 < at_once < 64
    assert images_at_once(2**40) == 1
    assert images_at_once(0) == 256  # not known


@pytest.mark.parametrize(
    ("base", "exemplars", "outer_batch", "images"),
    [
        (inner(), 50, 1, 4 * 10),  # a batch of one step, four times
        (inner(batch_size=0), 50, 1, 4 * 50),  # all exemplars
        (inner(batch_size=80), 50, 1, 4 * 50),  # no more than there are
        (inner(estimator="unroll"), 50, 1, 4 * 10 * 5),  # of all steps
        (inner(), 50, 30, 2 * 30),  # the outer batch is larger
        (inner("classifier", batch_size=0), 50, 1, 2 * 50),
        (inner("classifier", batch_size=0), 1000, 1, 2 * 256),  # in chunks
    ],
)
def test_what_does_not_fit_is_refused(free, base, exemplars, outer_batch, images):
    free(1.01 * images)
    check(base, exemplars, outer_batch)
    free(0.99 * images)
    with pytest.raises(UserError, match="GiB are there"):
        check(base, exemplars, outer_batch)


@pytest.mark.parametrize("objective", ["class_means", "anchored"])
def test_an_objective_that_trains_nothing_needs_what_its_encoder_does(free, objective):
    free(1.01 * 2 * 256)
    check(inner(batch_size=0), 1000, 5000, objective=objective)
    with pytest.raises(UserError, match="GiB are there"):
        check(inner(batch_size=0), 1000, 5000)


def test_the_refusal_names_what_helps(free):
    free(1)
    with pytest.raises(UserError) as error:
        check(inner())
    for words in ("--inner_batch_size (now 10)", "--outer_batch_size (now 30)", "--inner_scope="):
        assert words in str(error.value)
    assert "--meta_gradient" not in str(error.value)
    with pytest.raises(UserError, match="--meta_gradient=sweep"):
        check(inner(estimator="unroll"))
    with pytest.raises(UserError, match="in another run, .* by --phase0_from .*, lower --inner_b"):
        check_footprint(IMAGE_BYTES, inner(), OuterSettings(), 10**9, 10**9, begun=True)
    with pytest.raises(UserError, match="a smaller model") as error:
        check(inner("classifier"))
    assert "--" not in str(error.value)  # no flag would help


def test_an_unknown_size_of_memory_refuses_nothing(free):
    free(None)
    check(inner(), 10**9, 10**9)
