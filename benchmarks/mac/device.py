"""The device of the Mac kit: Metal, or for tiny shapes MLX on a CPU."""

from __future__ import annotations


def describe(tiny: bool) -> str:
    """One line.

    Raises:
        SystemExit: there is no Metal, and the shapes are not tiny.
    """
    try:
        import mlx.core as mx
    except ImportError as error:
        raise SystemExit(f"the Mac kit needs MLX, which cannot be imported: {error}") from None
    if mx.metal.is_available() and mx.default_device() == mx.Device(mx.gpu):
        info = mx.device_info()
        return f"{info['device_name']}, {int(info['memory_size']) / 2**30:.0f} GiB"
    if not tiny:
        raise SystemExit(f"MLX works on {mx.default_device()} here, not Metal; --tiny runs anyway")
    return "MLX on a CPU, without Metal"


def on_metal() -> bool:
    """True where MLX computes on Metal."""
    import mlx.core as mx

    return bool(mx.default_device() != mx.cpu)
