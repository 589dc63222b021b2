"""What an outer step of exemplar learning needs of memory, and whether it is there."""

from mnemonics_tf import devices
from mnemonics_tf.bilevel.objectives import trains_encoder
from mnemonics_tf.bilevel.on_features import CHUNK_SIZE
from mnemonics_tf.errors import UserError
from mnemonics_tf.settings import InnerSettings, OuterSettings

#: peak bytes for each byte of layer outputs: a second-order step keeps the activations, their
#: gradients and both again under the outer tape; measured 3.3 with ResNet-32 on a CPU
_SECOND_ORDER = 4.0
#: the same of a first-order step, an upper limit: graphs free what no derivative needs, and 0.3 to
#: 0.7 were measured with ResNet-18, -32 and -50 on a CPU
_FIRST_ORDER = 2.0

#: what the activations of images may take that pass an encoder together, and come back through it
_CHUNK_BYTES = 2 * 2**30


def check_footprint(
    bytes_per_image: int,
    inner: InnerSettings,
    outer: OuterSettings,
    num_exemplars: int,
    num_outer: int,
    begun: bool = False,
) -> None:
    """Refuses an outer step whose activations can't fit into the memory of GPU or machine.

    Args:
        bytes_per_image: of all layers' outputs for one image; 0: not known, and nothing is refused.
        inner: of the base level.
        outer: of the meta level.
        num_exemplars: that a step has at most, but for `exemplars_per_step`.
        num_outer: images that there are at most to measure them on.
        begun: whether a run has begun, whose settings stay as they are.

    Raises:
        UserError: names what would make it fit.
    """
    available = devices.available_bytes()
    if available is None:
        return
    exemplars = min(outer.exemplars_per_step or num_exemplars, num_exemplars)
    outer_batch = min(outer.outer_batch_size, num_outer)
    if trains_encoder(inner, outer):
        needed = _trained_bytes(bytes_per_image, inner, exemplars, outer_batch)
        batch = min(inner.inner_batch_size or exemplars, exemplars)
        # Settings of a run stay as they are; those of a phase that is learned afterwards need not.
        elsewhere = (
            "in another run, which takes this one's phase 0 by --phase0_from (or, while further "
            "classes are learned, after --undo), "
        ) * begun
        remedy = (
            f"{elsewhere}lower --inner_batch_size (now {batch}) or --outer_batch_size (now "
            f"{outer_batch}), or use --inner_scope=classifier"
            + (", or --meta_gradient=sweep" if inner.meta_gradient == "unroll" else "")
        )
    else:
        needed = _FIRST_ORDER * bytes_per_image * min(exemplars, images_at_once(bytes_per_image))
        remedy = "end what else takes memory, or take a smaller model, or a machine with more"
    if needed > available:
        raise UserError(
            f"one outer step of exemplar learning needs about {needed / 2**30:.1f} GiB and "
            f"{available / 2**30:.1f} GiB are there: {remedy}"
        )


def _trained_bytes(
    bytes_per_image: int, inner: InnerSettings, exemplars: int, outer_batch: int
) -> float:
    """Returns about how many bytes an outer step takes at its peak that trains the encoder too."""
    batch = min(inner.inner_batch_size or exemplars, exemplars)
    steps = inner.inner_steps if inner.meta_gradient == "unroll" else 1
    kept = _SECOND_ORDER * bytes_per_image * batch * steps
    return max(kept, _FIRST_ORDER * bytes_per_image * outer_batch)


def images_at_once(bytes_per_image: int) -> int:
    """Returns how many images pass an encoder at a time that is not trained.

    It follows from the model alone: results do not depend on what memory a machine has.

    Args:
        bytes_per_image: of all layers' outputs for one image; 0: not known.
    """
    if not bytes_per_image:
        return CHUNK_SIZE
    return max(1, min(CHUNK_SIZE, int(_CHUNK_BYTES / (_FIRST_ORDER * bytes_per_image))))
