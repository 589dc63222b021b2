"""What an outer step of exemplar learning needs of memory."""

from mnemonics_tf.settings import InnerSettings

#: peak bytes for each byte of layer outputs: a second-order step keeps the activations, their
#: gradients and both again under the outer tape; measured 3.3 with ResNet-32 on a CPU
_SECOND_ORDER = 4.0
_FIRST_ORDER = 2.0

#: images that an encoder sees at a time where features alone are needed
_ENCODED_AT_ONCE = 256


def peak_bytes(
    bytes_per_image: int, inner: InnerSettings, exemplars: int, outer_batch: int
) -> float:
    """Returns about how many bytes an outer step takes at its peak.

    Args:
        bytes_per_image: of all layers' outputs for one image.
        inner: of the base level.
        exemplars: how many train the temporary model in one outer step.
        outer_batch: how many images it is measured on.
    """
    if inner.inner_scope == "classifier":  # features: no activation of the outer batch is kept
        return _FIRST_ORDER * bytes_per_image * min(exemplars, _ENCODED_AT_ONCE)
    batch = min(inner.inner_batch_size or exemplars, exemplars)
    steps = inner.inner_steps if inner.meta_gradient == "unroll" else 1
    kept = _SECOND_ORDER * bytes_per_image * batch * steps
    return max(kept, _FIRST_ORDER * bytes_per_image * outer_batch)
