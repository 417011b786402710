"""What the two PyTorch backends declare; nothing here imports torch."""

from __future__ import annotations

from backends.traits import BackendTraits, MemoryTraits

CUDA = BackendTraits(
    extra="cuda",
    preference=20,
    shards=True,
    quantizes=True,
    quantizer="bitsandbytes",
    memory=MemoryTraits(
        chunk_bytes=128 * 2**20,
        chunk_copies=7.0,
        hidden=4.2,
        intermediate=3.35,
        heads=3.35,
        scores=0.0,
        transient_blocks=1.0,
        recomputed_blocks=2.0,
        boundary=1.0,
    ),
)

CPU = BackendTraits(
    extra="cuda",  # the extra of PyTorch; there is none for CPUs alone
    preference=10,
    installed_by_default=True,
    on_cpu=True,
    shards=True,
    quantizes=True,
    quantizer="bitsandbytes",
    memory=MemoryTraits(
        chunk_bytes=64 * 2**20,
        chunk_copies=2.5,
        hidden=4.2,
        intermediate=3.35,
        heads=3.35,
        scores=0.0,
        transient_blocks=0.2,
        recomputed_blocks=0.3,
        boundary=1.0,
    ),
)
