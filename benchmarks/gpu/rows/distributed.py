"""DistributedDataParallel over NCCL (gloo on a CPU): one process, and one per GPU."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Iterator

import torch
from torch import distributed, multiprocessing, nn

import espnet_gq
from benchmarks.gpu.models import ARCHITECTURES, batch, quantized, state
from benchmarks.gpu.rows import Result, Settings, attempt, holds
from benchmarks.training.variants import Variant, import_packages
from espnet_gq.quantizer import Quantizer

STEPS = 3


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _worker(rank: int, world: int, port: int, device: str, name: str, out: str) -> None:
    """Train as one rank; write the parameters and step counts to `out`/rank."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    backend = "nccl" if device == "cuda" else "gloo"
    where = f"cuda:{rank}" if device == "cuda" else "cpu"
    if device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(backend, rank=rank, world_size=world)
    try:
        recogniser = ARCHITECTURES[name]
        model = quantized(recogniser, 5, where, fast=False)
        ids = [rank] if device == "cuda" else None
        parallel = nn.parallel.DistributedDataParallel(model, device_ids=ids)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for step in range(STEPS):
            data = batch(world * step + rank, recogniser.vocabulary, where)
            parallel(**data)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
            espnet_gq.advance(model)
        steps = {m.step for m in model.modules() if isinstance(m, Quantizer)}
        torch.save([[p.cpu() for p in state(model)], steps], Path(out, str(rank)))
    finally:
        distributed.destroy_process_group()


def _trained(name: str, world: int, settings: Settings) -> Iterator[Result]:
    import_packages(Variant("float"))  # a missing package skips the row
    with tempfile.TemporaryDirectory() as out:
        multiprocessing.spawn(
            _worker,
            (world, _free_port(), settings.device, name, out),
            nprocs=world,
        )
        found = [
            torch.load(Path(out, str(r)), weights_only=False) for r in range(world)
        ]
    same = all(
        torch.equal(a, b) for other in found for a, b in zip(found[0][0], other[0])
    )
    finite = all(torch.isfinite(p).all() for p in found[0][0])
    steps = all(counted == {STEPS} for _, counted in found)
    note = "" if same else "parameters differ between processes"
    backend = "NCCL" if settings.device == "cuda" else "gloo"
    case = f"{name}: {world} process{'es' * (world > 1)} over {backend}"
    yield holds(case, same and finite and steps, note)


def run(settings: Settings) -> Iterator[Result]:
    """Yield the results of this row."""
    most = torch.cuda.device_count() if settings.device == "cuda" else 2
    for world in sorted({1, most}):
        for name in ("conformer", "transducer"):
            case = f"{name}: {world}"
            yield from attempt(case, lambda: _trained(name, world, settings))
