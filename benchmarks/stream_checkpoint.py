"""Host memory of loading a checkpoint: python benchmarks/stream_checkpoint.py FOLDER [DEVICE]

Writes the released transformer (4.10B parameters, 8.2 GB in bf16, random weights, shards of about
1 GB) to FOLDER, then loads it in a fresh process and prints the growth of that process's peak
memory. On the default device `meta`, which keeps nothing, that growth is the cost of the loader
alone; every byte is read all the same."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from lens_ref.core.files import save_tensors
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel

LOAD = """
import resource, sys, time
import torch
from lens_ref.core import checkpoints
from lens_ref.dit.checkpoints import load_transformer

class Reading:
    "A file that touches every byte it hands out, as a copy to a GPU does; `meta` alone would not."
    def __init__(self, *args, real=checkpoints.safe_open):
        self.file = real(*args)
    def __enter__(self):
        self.open = self.file.__enter__()
        return self
    def __exit__(self, *args):
        return self.file.__exit__(*args)
    def __getattr__(self, name):
        return getattr(self.open, name)
    def get_tensor(self, key):
        x = self.open.get_tensor(key)
        x.view(-1).view(torch.int16).sum()
        return x

if sys.argv[2] == "meta":
    checkpoints.safe_open = Reading
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
before, start = peak(), time.perf_counter()
model = load_transformer(sys.argv[1], sys.argv[2])
count, seconds = sum(p.numel() for p in model.parameters()), time.perf_counter() - start
print(f"{count:,} parameters on {sys.argv[2]} in {seconds:.1f} s; "
      f"host memory grew by {peak() - before:.2f} GB at its peak")
"""


def write(folder):
    with torch.device("meta"):
        model = LensTransformer2DModel(**preset("lens").to_dict())
    folder.mkdir(parents=True, exist_ok=True)
    model.save_config(folder)
    noise, shards, size = torch.randn(1 << 26).bfloat16(), [[]], 0
    for key, x in model.state_dict().items():
        if size > 1e9:
            shards.append([])
            size = 0
        shards[-1].append((key, x.shape))
        size += 2 * x.numel()
    index = {}
    for i, part in enumerate(shards):
        name = f"diffusion_pytorch_model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        save_tensors(
            {k: noise[: shape.numel()].view(shape).clone() for k, shape in part}, folder / name
        )
        index |= {k: name for k, _ in part}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(dict(weight_map=index)), "utf8"
    )


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if not (folder / "diffusion_pytorch_model.safetensors.index.json").is_file():
        write(folder)
    print(
        subprocess.run(
            [sys.executable, "-c", LOAD, str(folder), *(sys.argv[2:] or ["meta"])],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
