"""The vector-Jacobian product with a cotangent that is known only after the value.

`mx.vjp` wants the cotangent together with the function, and here the cotangent (the gradient of the
loss) is made from the value (the hidden states), chunk by chunk. Evaluating the value while MLX
still traces would keep every array of the forward pass alive (measured: 2.6 times the memory); a
second forward pass costs a third more time. So the cotangent is given as an array whose numbers are
written afterwards, through the view of its memory that MLX's buffer protocol documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

PullBack = Callable[[mx.array], list[mx.array]]
"""From a cotangent of the value's shape, the gradients, not yet computed; to be called once."""


def vjp(
    function: Callable[..., mx.array], primals: Sequence[mx.array], shape: tuple[int, ...]
) -> tuple[mx.array, PullBack]:
    """A function's value and its pull-back, as `jax.vjp` gives them, by one forward pass.

    Until the pull-back is dropped, the arrays that the backward pass needs stay in memory.

    Args:
        function: from the primals to one float32 array.
        primals: what gradients are wanted for.
        shape: of its value.

    Returns:
        The value, computed, and the pull-back.
    """
    cotangent = mx.array(np.zeros(shape, np.float32))
    mx.eval(cotangent)
    memory = np.array(cotangent, copy=False)
    (value,), gradients = mx.vjp(function, list(primals), [cotangent])
    mx.eval(value)

    def pull_back(known: mx.array) -> list[mx.array]:
        memory[...] = np.array(known.astype(mx.float32))
        return list(gradients)

    return value, pull_back
