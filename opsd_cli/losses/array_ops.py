"""The few array operations that NumPy, torch and MLX spell differently.

The losses are written once and run in three namespaces. Arithmetic operators, `concatenate` and
`sum(axis=, keepdims=)` already agree; what does not is collected here, one small class a
namespace. The namespace arrives as an argument, so importing this module imports none of them.

A trailing underscore means "may overwrite its first argument, use only the result": NumPy and
torch then reuse the buffer, which at a vocabulary of 150,000 is the difference between five
arrays in memory and twelve; MLX, whose arrays do not change, returns a new one. The same holds
for `x *= y` and its like, which are in place for NumPy and torch alone.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, Protocol

Array = Any
"""numpy.ndarray, torch.Tensor or mlx.core.array: whichever namespace is at work."""


class ArrayOps(Protocol):
    """What the losses need beyond operators; rows are the last axis."""

    def floating(self, x: Array) -> Array:
        """`x` detached from any autograd graph, in float32 unless it is float64."""
        ...

    def concatenate(self, left: Array, right: Array) -> Array: ...
    def zeros_like(self, x: Array) -> Array: ...
    def exp(self, x: Array) -> Array: ...
    def exp_(self, x: Array) -> Array: ...
    def log_(self, x: Array) -> Array: ...
    def at_least_(self, x: Array, bound: float) -> Array: ...
    def at_most_(self, x: Array, bound: float) -> Array: ...
    def row_max(self, x: Array) -> Array:
        """[N, V] to [N, 1]."""
        ...

    def row_sum(self, x: Array) -> Array:
        """[N, V] to [N, 1]."""
        ...

    def row_dot(self, x: Array, y: Array) -> Array:
        """Inner product of matching rows, [N, V] twice to [N, 1], without an [N, V] between."""
        ...

    def not_above(self, x: Array, bound: Array | float) -> Array:
        """1 where `x <= bound`, else 0, in the dtype of `x`: a mask to multiply by."""
        ...

    def top_k(self, x: Array, k: int) -> Array:
        """Indices [N, k] of the k largest of each row, in no particular order."""
        ...

    def take(self, x: Array, index: Array) -> Array: ...
    def materialize(self, *arrays: Array) -> None:
        """Compute these now. MLX is lazy and would otherwise keep all that they are made from; the
        other namespaces have nothing to do."""
        ...

    def put_(self, x: Array, index: Array, values: Array | float) -> Array:
        """`x` with `values` ([N, k] or one number) written at `index` of each row."""
        ...


class _NumpyOps:
    def __init__(self, xp: ModuleType) -> None:
        self.xp: Any = xp

    def floating(self, x: Array) -> Array:
        return x if x.dtype in (self.xp.float32, self.xp.float64) else x.astype(self.xp.float32)

    def concatenate(self, left: Array, right: Array) -> Array:
        return self.xp.concatenate([left, right], axis=-1)

    def zeros_like(self, x: Array) -> Array:
        return self.xp.zeros_like(x)

    def exp(self, x: Array) -> Array:
        return self.xp.exp(x)

    def exp_(self, x: Array) -> Array:
        return self.xp.exp(x, out=x)

    def log_(self, x: Array) -> Array:
        return self.xp.log(x, out=x)

    def at_least_(self, x: Array, bound: float) -> Array:
        return self.xp.maximum(x, bound, out=x)

    def at_most_(self, x: Array, bound: float) -> Array:
        return self.xp.minimum(x, bound, out=x)

    def row_max(self, x: Array) -> Array:
        return self.xp.max(x, axis=-1, keepdims=True)

    def row_sum(self, x: Array) -> Array:
        return self.xp.sum(x, axis=-1, keepdims=True)

    def row_dot(self, x: Array, y: Array) -> Array:
        return self.xp.einsum("nv,nv->n", x, y)[:, None]

    def not_above(self, x: Array, bound: Array | float) -> Array:
        return (x <= bound).astype(x.dtype)

    def top_k(self, x: Array, k: int) -> Array:
        first = x.shape[-1] - k
        return self.xp.argpartition(x, first, axis=-1)[..., first:]

    def take(self, x: Array, index: Array) -> Array:
        return self.xp.take_along_axis(x, index, axis=-1)

    def put_(self, x: Array, index: Array, values: Array | float) -> Array:
        self.xp.put_along_axis(x, index, values, axis=-1)
        return x

    def materialize(self, *arrays: Array) -> None:
        return


class _TorchOps(_NumpyOps):
    def floating(self, x: Array) -> Array:
        x = x.detach()
        return x if x.dtype in (self.xp.float32, self.xp.float64) else x.float()

    def row_max(self, x: Array) -> Array:
        return self.xp.amax(x, dim=-1, keepdim=True)

    def at_least_(self, x: Array, bound: float) -> Array:
        return x.clamp_(min=bound)

    def at_most_(self, x: Array, bound: float) -> Array:
        return x.clamp_(max=bound)

    def row_dot(self, x: Array, y: Array) -> Array:
        # einsum becomes a batch of matrix products here, five times slower on a CPU.
        return self.xp.linalg.vecdot(x, y)[:, None]

    def not_above(self, x: Array, bound: Array | float) -> Array:
        # Written as floats at once: a boolean mask costs a CPU ten times as much.
        return self.xp.le(x, bound, out=self.xp.empty_like(x))

    def top_k(self, x: Array, k: int) -> Array:
        return self.xp.topk(x, k, dim=-1, sorted=False).indices

    def take(self, x: Array, index: Array) -> Array:
        return x.gather(-1, index)

    def put_(self, x: Array, index: Array, values: Array | float) -> Array:
        return x.scatter_(-1, index, values)


class _MlxOps(_NumpyOps):
    def floating(self, x: Array) -> Array:
        x = self.xp.stop_gradient(x)
        return x if x.dtype in (self.xp.float32, self.xp.float64) else x.astype(self.xp.float32)

    def exp_(self, x: Array) -> Array:
        return self.xp.exp(x)

    def log_(self, x: Array) -> Array:
        return self.xp.log(x)

    def at_least_(self, x: Array, bound: float) -> Array:
        return self.xp.maximum(x, bound)

    def at_most_(self, x: Array, bound: float) -> Array:
        return self.xp.minimum(x, bound)

    def put_(self, x: Array, index: Array, values: Array | float) -> Array:
        if isinstance(values, int | float):
            values = self.xp.full(index.shape, values, dtype=x.dtype)
        return self.xp.put_along_axis(x, index, values, axis=-1)

    def materialize(self, *arrays: Array) -> None:
        self.xp.eval(*arrays)


_BY_NAMESPACE = {"numpy": _NumpyOps, "torch": _TorchOps, "mlx.core": _MlxOps}


def array_ops(xp: ModuleType) -> ArrayOps:
    """The operations of one namespace.

    Args:
        xp: the module `numpy`, `torch` or `mlx.core`.

    Raises:
        TypeError: `xp` is another module.
    """
    try:
        return _BY_NAMESPACE[xp.__name__](xp)
    except KeyError:
        known = ", ".join(_BY_NAMESPACE)
        raise TypeError(f"no array operations for {xp.__name__!r}; known: {known}") from None
