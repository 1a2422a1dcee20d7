"""Pictures filtered a second, and `datasets.map`: python benchmarks/filter_images.py [N] [FOLDER]

One thread, filters without a model. Writes N JPEGs of 512 x 512 (quality 90, smooth colours plus
film grain, about 70 KB each) to FOLDER and times, alternating, three runs of each:

ours           filter_images: read, hash, area, clarity, entropy, luminance, thumbnail embedding,
               near-duplicates, one decision per file
datasets.map   the pictures as a `datasets` table, a function per row that scores the decoded
               picture with plain NumPy (no duplicates), nothing cached between runs
ours in map    our four scores in that same function: what of the difference is the table, and what
               the arithmetic
"""

import os

os.environ.update(
    OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false"
)
import sys
import tempfile
import time
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from lens_ref.data.duplicates import has_faiss
from lens_ref.data.filters import clarity, entropy, filter_images, luminance


def write(folder, n):
    rng, files = np.random.default_rng(0), []
    for i in range(n):
        smooth = np.asarray(
            Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize(
                (512, 512), Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        files.append(str(folder / f"{i:05d}.jpg"))
        Image.fromarray(
            (smooth + rng.normal(0, 8, (512, 512, 1))).clip(0, 255).astype(np.uint8)
        ).save(files[-1], quality=90)
    return files


def plain(row):
    "What one writes first: the same four scores, straight from their definitions."
    image = np.asarray(row["image"].convert("RGB"))
    grey = np.asarray(row["image"].convert("L")).astype(np.float64)
    lap = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    p = np.histogram(grey, bins=256, range=(0, 256))[0] / grey.size
    p = p[p > 0]
    return dict(
        area=image.shape[0] * image.shape[1],
        clarity=lap.var(),
        entropy=-(p * np.log2(p)).sum(),
        luminance=(image.max(2) / 255).mean(),
    )


def ours(row):
    im = row["image"].convert("RGB")
    return dict(
        area=im.width * im.height, clarity=clarity(im), entropy=entropy(im), luminance=luminance(im)
    )


def mapped(files, function):
    table = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    return table.map(
        function, remove_columns=["image"], load_from_cache_file=False, keep_in_memory=True
    )


def timed(f):
    """(seconds by the clock, seconds of the processor, result).

    The second is what counts per core when others use the machine."""
    start, busy = time.perf_counter(), time.process_time()
    out = f()
    return time.perf_counter() - start, time.process_time() - busy, out


if __name__ == "__main__":
    datasets.disable_progress_bars()
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as folder:
        files = write(Path(folder), n)
        ways = {
            "ours": lambda: list(filter_images(files)),
            "datasets.map": lambda: mapped(files, plain),
            "ours in map": lambda: mapped(files, ours),
        }
        seconds = {k: [] for k in ways}
        for _ in range(3):
            for k, f in ways.items():
                *t, out = timed(f)
                seconds[k].append(t)
                if k == "ours":
                    decisions = {d.file: d for d in out}
                if k == "datasets.map":
                    scores = out
    assert len(decisions) == n and all(d.keep for d in decisions.values())
    assert np.allclose(
        [decisions[f].scores["clarity"] for f in files], scores["clarity"], rtol=1e-4
    ) and np.allclose([decisions[f].scores["entropy"] for f in files], scores["entropy"])
    best = {k: [min(column) for column in zip(*v)] for k, v in seconds.items()}
    for k, (wall, cpu) in best.items():
        print(
            f"{k:13s} {n / wall:7.1f} images/s by the clock, "
            f"{n / cpu:7.1f} per second of processor time   (best of 3)"
        )
    ratio = [a / b for a, b in zip(best["datasets.map"], best["ours"])]
    print(
        f"ratio ours / datasets.map: {ratio[0]:.2f} by the clock, "
        f"{ratio[1]:.2f} in processor time   ({n} pictures of 512 x 512, one thread, "
        f"duplicates with {'FAISS' if has_faiss() else 'NumPy'})"
    )
