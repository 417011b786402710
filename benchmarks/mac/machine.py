"""Memory limits and rates of the device."""

from __future__ import annotations

from benchmarks.mac.device import on_metal
from benchmarks.proof.clock import best_seconds
from benchmarks.proof.recorder import Recorder


def measure(record: Recorder) -> None:
    """Limits, matrix products by dtype, and a copy."""
    import mlx.core as mx

    limits(record)
    size = 64 if record.tiny else 4096
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        name = str(dtype).removeprefix("mlx.core.")
        with record.attempt(what=f"{name} matrix product of {size} × {size}") as row:
            a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
            mx.eval(a, b)
            seconds = best_seconds(lambda a=a, b=b: mx.eval(a @ b), mx.synchronize, 5, warm=2)
            row["rate_tflops"] = 2 * size**3 / seconds / 1e12
    count = 10_000 if record.tiny else 2**28
    with record.attempt(what=f"reading and writing {count:,} numbers") as row:
        source = mx.random.normal((count,))
        mx.eval(source)
        seconds = best_seconds(lambda: mx.eval(source + 1.0), mx.synchronize, repeats=5)
        row["rate_gbs"] = 2 * count * source.nbytes / count / seconds / 1e9


def limits(record: Recorder) -> None:
    """What the device recommends, and that the backend's limits are taken."""
    import mlx.core as mx

    from backends.mlx.device_memory import free, set_limits

    info = mx.device_info()
    for key in ("memory_size", "max_recommended_working_set_size", "max_buffer_length"):
        if key in info:
            record.row(what=key.replace("_", " "), size_gib=int(info[key]) / 2**30)
    with record.attempt(what="free for a run, by the backend") as row:
        row["size_gib"] = free() / 2**30
    if not on_metal():
        record.note("no Metal here: the wired limit is not set")
        return
    recommended = int(info["max_recommended_working_set_size"])
    set_limits()
    # Setting it again returns the limit before.
    wired = mx.set_wired_limit(recommended)
    record.check("the wired limit is what the device recommends", wired == recommended,
                 wired_gib=wired / 2**30, recommended_gib=recommended / 2**30)  # fmt: skip
