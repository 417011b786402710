"""What the MLX backend declares; nothing here imports mlx."""

from __future__ import annotations

from backends.traits import APPLE_SILICON, BackendTraits, MemoryTraits

MLX = BackendTraits(
    extra="mlx",
    preference=30,
    # On Linux it is chosen only by name: there it computes on the CPU, slower than PyTorch.
    auto_on=(APPLE_SILICON,),
    installed_by_default=True,
    memory=MemoryTraits(
        chunk_bytes=40 * 2**20,
        chunk_copies=7.0,
        hidden=4.5,
        intermediate=5.3,
        heads=2.4,
        scores=1.15,  # attention is not fused in training
        transient_blocks=1.3,
        recomputed_blocks=2.7,
        boundary=2.5,
        length_multiple=32,  # every new shape is compiled again on Metal
        loss_beside_transients=False,
        quantizes_embedding=True,
    ),
    quantizes=True,
)
