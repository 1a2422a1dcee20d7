"""MFU, pictures a second and memory of pre-training on one GPU: python benchmarks/train_gpu.py

Lens at 512x512 with the largest batch up to 24 that fits; then the buckets of stage 2 and how
evenly their steps last. A small one on a CPU:

    python benchmarks/train_gpu.py --preset toy --images 4 --size 64 --text 16 --areas 64,96,128 \
        --device cpu --repeats 2

Prints one JSON object per measurement, with date and card. FLOPs are those of the model (forward
once, backward twice); recomputation is not counted, as MFU wants it.
"""

import argparse
import datetime
import json
import statistics
import time

import torch
import torch._dynamo

from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.cost import count_flops
from lens_ref.pretrain.planner import CARDS
from lens_ref.pretrain.scale import this_card
from lens_ref.pretrain.sharding import ParallelLearner, ScaleConfig, launched
from lens_ref.pretrain.step import TrainConfig, pretrain_step

# Height x width of the stage-2 buckets by side of their square (stated, Sec 2.3); the other half is
# transposed.
BUCKETS = {
    512: ((352, 704), (384, 672), (416, 640), (448, 608), (512, 512)),
    768: ((544, 1088), (576, 1024), (640, 960), (672, 896), (768, 768)),
    1024: ((736, 1472), (768, 1376), (832, 1248), (864, 1152), (1024, 1024)),
}


def batch(config, images, grid, text, padded, device, seed=0):
    "Random latents and features; `padded`: captions of half to full length."
    g = torch.Generator(device).manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=g, device=device)
    length = (
        torch.randint(text // 2, text + 1, (images, 1), generator=g, device=device)
        if padded
        else torch.full((images, 1), text, device=device)
    )
    return dict(
        latents=random(images, grid[0] * grid[1], config.in_channels),
        text=[random(images, text, config.enc_hidden_dim) for _ in config.selected_layer_index],
        text_mask=torch.arange(text, device=device)[None] < length,
        grid=grid,
    )


def timed(learner, data, device):
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    learner.advance(pretrain_step, data)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(learner, config, images, grid, a, device):
    "Median seconds of a step after those that warm up, and what follows from them."
    data = batch(config, images, grid, a.text, a.padded, device)
    for _ in range(a.warm):
        timed(learner, data, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(learner, data, device) for _ in range(a.repeats))
    flops = 3 * images * count_flops(config, grid[0] * grid[1], a.text)["total"]
    return dict(
        images=images,
        pixels=f"{16 * grid[0]}x{16 * grid[1]}",
        text_tokens=a.text,
        seconds=seconds,
        images_per_second=images / seconds,
        tflops=flops / seconds / 1e12,
        mfu=flops / seconds / 1e12 / a.peak if a.peak else None,
        peak_gb=torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    )


def largest(learner, config, grid, a, device):
    "Measure the largest of 24, 20, 16, ... pictures that fits."
    for images in [a.images] if a.images else (24, 20, 16, 12, 8, 6, 4, 2, 1):
        try:
            return measure(learner, config, images, grid, a, device)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    raise SystemExit("not even one picture fits")


def buckets(sides):
    """Grids, in tokens of 16 pixels, of the sizes of stage 2.

    Of other squares (a small test) only the square and one wide shape."""
    for side in sides:
        for h, w in BUCKETS.get(side, ((side // 32 * 16, side * 2), (side, side))):
            yield from {(h // 16, w // 16), (w // 16, h // 16)}


def arguments():
    "What was typed."
    p = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    p.add_argument("--preset", default="lens")
    p.add_argument(
        "--images",
        type=int,
        default=0,
        help="pictures per step at the first area; 0 = the largest up to 24 that fits",
    )
    p.add_argument("--size", type=int, default=512, help="pixels a side")
    p.add_argument(
        "--areas",
        default="512,768,1024",
        help="sides of the squares whose areas the mixed buckets have; the batch shrinks as tokens "
        "grow; '' leaves them out",
    )
    p.add_argument("--text", type=int, default=256, help="text tokens")
    p.add_argument(
        "--padded",
        type=int,
        default=1,
        help="1: captions of different lengths, so attention needs a mask, as in training",
    )
    p.add_argument("--device", default="cuda")
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--warm", type=int, default=2, help="steps before, which are not timed")
    p.add_argument("--precision", default="bf16")
    p.add_argument("--checkpointing", type=int, default=1)
    p.add_argument("--compile", type=int, default=1)
    p.add_argument(
        "--static",
        type=int,
        default=0,
        help="1: compile each shape anew, where a compiler stumbles over shapes that vary",
    )
    p.add_argument(
        "--ema",
        type=float,
        default=0.9999,
        help="0 spares 4 bytes per weight, which an 80 GB card needs",
    )
    return p.parse_args()


def say(a, card, what, row):
    "One measurement as a line of JSON."
    setting = dict(what=what, date=datetime.date.today().isoformat(), card=card)
    setting |= dict(torch=torch.__version__, preset=a.preset, precision=a.precision)
    setting |= dict(checkpointing=a.checkpointing, compile=a.compile)
    rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
    print(json.dumps(setting | rounded), flush=True)


def new_learner(a, config, device):
    "A learner with random weights."
    with device:
        model = init_weights(LensTransformer2DModel(**config.to_dict()))
    settings = TrainConfig(precision=a.precision, ema=a.ema, steps=10**6)
    # fsdp even alone: bf16 copies then exist for a block at a time, not for the whole model
    way = ScaleConfig("fsdp", checkpointing=bool(a.checkpointing), compile=bool(a.compile))
    return ParallelLearner(model, settings, way)


def mixed(a, learner, config, first, device):
    "The mixed buckets, each with as many pictures as keep the tokens of the first."
    areas = [int(x) for x in a.areas.split(",")]
    tokens = first["images"] * (areas[0] // 16) ** 2
    rows = []
    for grid in buckets(areas):
        images = max(1, round(tokens / (grid[0] * grid[1])))
        rows.append(measure(learner, config, images, grid, a, device))
    seconds = [r["seconds"] for r in rows]
    middle = statistics.median(seconds)
    return dict(
        buckets=len(rows),
        images=sorted({r["images"] for r in rows}, reverse=True),
        median_seconds=middle,
        spread=(max(seconds) - min(seconds)) / middle,
        images_per_second=sum(r["images"] for r in rows) / sum(seconds),
        peak_gb=max((r["peak_gb"] or 0) for r in rows) or None,
    )


def main():
    a = arguments()
    torch._dynamo.config.automatic_dynamic_shapes = not a.static
    # more shapes than torch expects: else it stops compiling
    torch._dynamo.config.recompile_limit = 64
    with launched("cpu" if a.device == "cpu" else None) as device:
        name, gb = this_card(device)
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else name
        a.peak = CARDS[name].tflops if name in CARDS else None
        config = preset(a.preset)
        learner = new_learner(a, config, device)
        first = largest(learner, config, (a.size // 16, a.size // 16), a, device)
        say(a, card, "stage 1", first)
        if a.areas:
            say(a, card, "mixed buckets", mixed(a, learner, config, first, device))


if __name__ == "__main__":
    main()
