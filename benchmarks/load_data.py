"""The share of a training step that waits for data: python benchmarks/load_data.py [steps]

Trains the toy transformer for some steps on mixed buckets from a cache in memory, then on the same
features read from tar shards as they are needed, plainly and by a thread that reads ahead. Prints
for each the time in `data.batch(step)` against that of the whole step. The target is under 5%."""

import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from lens_ref.pretrain.buckets import (
    MixedData,
    ReadAhead,
    bucket_caches,
    bucket_preset,
    mixed_scenes,
    rank_batches,
    shard_caches,
)
from lens_ref.core.files import data_path
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.cost import count_flops
from lens_ref.data.shards import Sample, write_shards
from lens_ref.text.encoders import TextEncoder
from lens_ref.core.loop import Learner
from lens_ref.pretrain.step import TrainConfig, pretrain_step
from lens_ref.vae.autoencoder import ToyVAE


def share(data, steps, width, warm=3):
    "Median seconds of a step, and the part of all steps' time that went into `data.batch`."
    learner = Learner(
        init_weights(LensTransformer2DModel(**preset("toy", enc_hidden_dim=width).to_dict())),
        TrainConfig(steps=steps + warm, warmup=1),
    )
    waits, whole = [], []
    for step in range(steps + warm):
        start = time.perf_counter()
        batch = data.batch(step)
        waits.append(time.perf_counter() - start)
        learner.advance(pretrain_step, batch)
        whole.append(time.perf_counter() - start)
    return statistics.median(whole[warm:]), sum(waits[warm:]) / sum(whole[warm:])


def to_shards(caches, folder):
    "The samples of all caches, mixed, as shards with features and a one-pixel picture."
    Image.new("RGB", (1, 1)).save(out := io.BytesIO(), "png")
    rows = sorted((i, g) for g, c in caches.items() for i in range(len(c["latents"])))

    def make(some):
        for i, g in some:
            c = caches[tuple(g)]
            features = dict(
                latents=c["latents"][i],
                tokens=c["tokens"][c["offsets"][i] : c["offsets"][i + 1]],
                grid=c["grid"],
            )
            yield Sample(
                f"{i}-{g[0]}x{g[1]}", out.getvalue(), "png", 1, 1, {"text": "-"}, features=features
            )

    write_shards(rows, make, folder, per_shard=100, log=lambda line: None)


if __name__ == "__main__":
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    vae = ToyVAE.from_pretrained(data_path("toy", "vae")).eval()
    encoder = TextEncoder.load(data_path("toy", "text_encoder"))
    buckets = [b for b in bucket_preset("toy") if b.height == b.width]
    caches = bucket_caches(mixed_scenes(400, 0, buckets), vae, encoder)
    batches = rank_batches(
        buckets, lambda n: count_flops(preset("toy"), n, 40)["total"], largest=48
    )
    counts = ", ".join(str(batches[b.grid]) for b in buckets)
    print(f"batches of {', '.join(map(str, buckets))}: {counts}")
    with tempfile.TemporaryDirectory() as folder:
        to_shards(caches, Path(folder) / "s")
        from_shards = lambda: MixedData(shard_caches(Path(folder) / "s"), batches)
        ways = {
            "cache in memory": MixedData(caches, batches),
            "shards": from_shards(),
            "shards, reading ahead": ReadAhead(from_shards()),
        }
        for name, data in ways.items():
            seconds, part = share(data, steps, encoder.width)
            print(f"{name:24} step {1e3 * seconds:5.0f} ms, waiting for data {part:.1%}")
