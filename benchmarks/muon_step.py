"""What an update costs with Muon: python benchmarks/muon_step.py [ROUNDS]

One thread. First the iteration alone, on forty matrices of 128 by 128: all at once, one by one,
and all at once in float32. Then a whole update of the toy transformer: AdamW (fused), Muon on the
matrices of its blocks, and where torch has it, torch's Muon on the same (one by one). The best of
ROUNDS (10), alternating.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
import sys
import time

import torch

from lens_ref.core.loop import LoopConfig, make_optimiser
from lens_ref.core.muon import COEFFICIENTS, muon_optimiser, orthogonal
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights


def in_float32(x, rounds=5):
    "The iteration without the rounding."
    a, b, c = COEFFICIENTS
    x = x / x.norm(dim=(1, 2), keepdim=True)
    for _ in range(rounds):
        square = x @ x.mT
        square = torch.baddbmm(square, square, square, beta=b, alpha=c)
        x = torch.baddbmm(x, square, x, beta=a)
    return x


def best(work: dict, rounds: int) -> dict:
    "Milliseconds of each piece of work, the best of `rounds`, taken in turn."
    found = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            found[name].append(time.perf_counter() - start)
    return {name: 1000 * min(times) for name, times in found.items()}


def parts_of(name, weight):
    "Matrices inside the blocks but those of the modulation, for Muon."
    inside = name.startswith("transformer_blocks") and weight.ndim == 2 and "_mod." not in name
    return (3 if "qkv" in name else 1) if inside else 0


def updates() -> dict:
    "A whole update of the toy transformer with each optimiser."
    torch.manual_seed(0)
    model = init_weights(LensTransformer2DModel(**preset("toy").to_dict()))
    for p in model.parameters():
        p.grad = 1e-3 * torch.randn_like(p)
    config = LoopConfig(lr=1e-6)
    found = {
        "update, AdamW": make_optimiser(model, config).step,
        "update, Muon": muon_optimiser(model, config, parts_of).step,
    }
    if hasattr(torch.optim, "Muon"):
        inner = [p for n, p in model.named_parameters() if parts_of(n, p)]
        found["matrices alone, torch's Muon"] = torch.optim.Muon(inner, lr=1e-6).step
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    x = torch.randn(40, 128, 128)
    work = {
        "iteration, all at once": lambda: orthogonal(x),
        "iteration, one by one": lambda: [orthogonal(m[None]) for m in x],
        "iteration, all at once in float32": lambda: in_float32(x),
    }
    for name, ms in best(work | updates(), int(sys.argv[1]) if sys.argv[1:] else 10).items():
        print(f"{name:36s} {ms:7.2f} ms")
