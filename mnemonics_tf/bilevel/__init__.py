"""How exemplars learn: the meta-gradient, d(outer loss) / d(exemplars) through a model's SGD.

The base level trains temporary parameters theta on the exemplars E for T steps, from zero velocity
(Eq. 8, with a momentum mu that the paper leaves at 0):

    v_{t+1}     = mu * v_t + grad_theta L_inner(theta_t; E[batch_t])
    theta_{t+1} = theta_t - alpha * v_{t+1}

The meta level asks how L_outer(theta_T) changes with every pixel of E (the gradient in Eq. 9 and
10). Going backwards, with lambda and nu the derivatives of L_outer by theta and v, from
lambda_T = dL_outer / dtheta_T and nu_T = 0:

    a_t          = nu_{t+1} - alpha * lambda_{t+1}
    p_t          = <grad_theta L_inner(theta_t; E[batch_t]), a_t>
    dE[batch_t] += dp_t / dE                             (mixed product)
    lambda_t     = lambda_{t+1} + dp_t / dtheta_t        (Hessian product)
    nu_t         = mu * a_t

An estimator is a class or function that is built with the keyword `problem=` and, if it takes them,
`truncated_steps=` (how many steps `truncated` goes back) and `jit_compile=` (whether XLA compiles);
a subclass of `MetaGradient` has no more to add than `_estimate`. The project's differ in how, and
how much of, the recursion they compute:

    sweep        exact; this recursion, keeping theta_0..theta_T and the activations of one step
    unroll       exact; plain nested tapes, which keep the activations of all T steps
    truncated    this recursion for the last K steps only
    first_order  without Hessian product, and the mixed product as a difference of two gradients

Read in this order: `problem` (the two losses), `meta_gradient` (what every estimator is asked),
`base_level` (a step of Eq. 8), `sweep`, `unroll`, `first_order`, `on_features` (the estimators),
`objectives` (what exemplars can be measured by), `outer_optimizer` (Eq. 9 and 10) and `learner`
(the loop); `batches` and `cost` say what an outer step has room for. All of it takes functions of
arrays: it knows neither models, data sets nor runs. Messages name settings as the flags of a run.

Source: Liu et al., "Mnemonics Training: Multi-Class Incremental Learning without Forgetting",
CVPR 2020, Section 4.3.
"""

import inspect
from collections.abc import Callable, Collection

from mnemonics_tf.bilevel.first_order import first_order_products
from mnemonics_tf.bilevel.meta_gradient import MetaGradient
from mnemonics_tf.bilevel.on_features import OnFeatures
from mnemonics_tf.bilevel.problem import BilevelProblem, MetaGradientResult
from mnemonics_tf.bilevel.sweep import Sweep
from mnemonics_tf.bilevel.unroll import Unroll
from mnemonics_tf.errors import UserError
from mnemonics_tf.registry import find

__all__ = [
    "ESTIMATORS",
    "BilevelProblem",
    "MetaGradient",
    "MetaGradientResult",
    "OnFeatures",
    "Sweep",
    "Unroll",
    "check_estimator",
    "create",
    "first_order_products",
]

#: by the value of --meta_gradient; a new one is a new file and one line here
ESTIMATORS: dict[str, Callable[..., MetaGradient]] = {
    "sweep": Sweep,
    "unroll": Unroll,
    "truncated": lambda problem, truncated_steps, jit_compile: Sweep(
        problem, truncated_steps, jit_compile=jit_compile
    ),
    "first_order": lambda problem, jit_compile: Sweep(
        problem, products=first_order_products, jit_compile=jit_compile
    ),
}

#: what an estimator is built with beside the problem, if it takes it
_OPTIONAL = ("truncated_steps", "jit_compile")


def create(
    name: str, problem: BilevelProblem, truncated_steps: int = 1, jit_compile: bool = False
) -> MetaGradient:
    """Builds an estimator.

    Args:
        name: one of `ESTIMATORS`, or `package.module:Name`.
        problem: the two losses and the base level's learning rate.
        truncated_steps: how many of the last inner steps `truncated` goes back; others ignore it.
        jit_compile: whether XLA compiles the graphs, for a GPU.

    Raises:
        UserError: there is no such estimator, it can't be built with these, or `truncated_steps` is
            not positive.
    """
    if truncated_steps < 1:
        raise UserError(
            f"The truncated meta-gradient was told to go back {truncated_steps} inner steps: pass "
            "1 or more."
        )
    passed = {"truncated_steps": truncated_steps, "jit_compile": jit_compile}
    taken = check_estimator(name)
    wanted = {argument: value for argument, value in passed.items() if argument in taken}
    return find(ESTIMATORS, name, "meta_gradient")(problem=problem, **wanted)


def check_estimator(name: str) -> Collection[str]:
    """Refuses an estimator that can't be built; returns the arguments that it takes.

    Args:
        name: one of `ESTIMATORS`, or `package.module:Name`.

    Raises:
        UserError: there is none of that name, or it does not take what estimators are built with.
    """
    kind = find(ESTIMATORS, name, "meta_gradient")
    try:
        signature = inspect.signature(kind)
        taken = [argument for argument in _OPTIONAL if argument in signature.parameters]
        signature.bind(**dict.fromkeys(("problem", *taken)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--meta_gradient={name} can't be built with problem=, nor with those of "
            f"truncated_steps= and jit_compile= that it takes ({error}): have it take them by "
            "these names, and nothing else that has no default"
        ) from error
    return taken
