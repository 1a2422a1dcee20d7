"""Shards of pictures and labels for readers, and what befalls the pictures on the way to them."""

import math
import pathlib
import random

import numpy as np
import torch
from lens_ref.vae.autoencoder import ToyVAE
from torch import Tensor
from torch.nn import functional as F

from .reader_patchwork import patchworks
from .reader_pictures import COLUMNS, MOST, SHAPES, training_picture


def make_shard(path, number: int):
    """Pictures and labels of one shard, written to `path` (npz). Three shards in four are of 64 by
    64 pixels."""
    rng = random.Random(f"reader {number}")
    height, width = (64, 64) if number % 4 != 3 else SHAPES[1 + number // 4 % (len(SHAPES) - 1)]
    n = 2000 if height == width == 64 else 1200
    rows = [training_picture(rng, height, width) for _ in range(n)]
    pictures, labels = (np.stack(part) for part in zip(*rows))
    _save(path, pictures, labels)


def _save(path, pictures, labels):
    "Write a shard; a run that reads meanwhile never sees half of it."
    part = pathlib.Path(f"{path}.part")
    with part.open("wb") as file:
        np.savez(file, pictures=pictures, labels=labels)
    part.rename(path)


def decode_shard(path, out, vaes, share: float = 0.5):
    """A copy of a shard with `share` of its pictures, in parts of 100 through one of the
    autoencoders, half of them with noise on their latents."""
    with np.load(path) as data:
        pictures, labels = data["pictures"], data["labels"]
    rng = np.random.default_rng(int(path.stem))
    index = rng.permutation(len(pictures))[: round(share * len(pictures))]
    done = []
    for part in np.array_split(index, math.ceil(len(index) / 100)):
        x = torch.from_numpy(pictures[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
        noise = rng.choice([0, rng.uniform(0, 0.5)])
        with torch.autocast("cpu", torch.bfloat16):
            x = through_autoencoder(vaes[rng.integers(len(vaes))], x, noise)
        x = ((x + 1) * 127.5).round().clamp(0, 255)
        done.append(x.to(torch.uint8).permute(0, 2, 3, 1).numpy())
    _save(out, np.concatenate(done), labels[index])


def patch_shard(path, out, vaes):
    "Patchworks of latents, a quarter as many as the shard has pictures and of their size."
    with np.load(path) as data:
        n, height, width = data["pictures"].shape[:3]
    number = int(path.stem)
    torch.manual_seed(number)
    rng = random.Random(f"patchwork {number}")
    _save(out, *patchworks(rng, vaes[number % len(vaes)], n // 4, height, width))


def make_shards(folder, numbers, vae_folders=()):
    """The shards that are missing in a folder; if there are autoencoders, each with a copy through
    them and with patchworks."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vaes = [ToyVAE.from_pretrained(f).eval() for f in vae_folders]
    for i in numbers:
        path, copy = folder / f"{i:04}.npz", folder / f"decoded {i:04}.npz"
        if not path.exists():
            make_shard(path, i)
        if vaes and not copy.exists():
            decode_shard(path, copy, vaes)
        patched = folder / f"patched {i:04}.npz"
        if vaes and not patched.exists():
            patch_shard(path, patched, vaes)


def _somewhat(x, chance):
    "Which pictures of a batch get a change: [B, 1, 1, 1] of 0 and 1."
    return (torch.rand(len(x), 1, 1, 1) < chance).float()


def through_autoencoder(vae, x: Tensor, noise: float = 0.0) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] encoded and decoded; `noise` on the latents as a share of
    their spread imitates what a model draws."""
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode()
        z = z + noise * z.std((0, 2, 3), keepdim=True) * torch.randn_like(z)
        return vae.decode(z).sample.clamp(-1, 1).float()


def disturbed(x: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] in [-1, 1] as a model might have drawn them: softened, a little off in
    light and colour, noisy."""
    b = len(x)
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + _somewhat(x, 0.3) * torch.rand(b, 1, 1, 1) * 0.7 * (soft - x)
    x = x + _somewhat(x, 0.1) * torch.rand(b, 1, 1, 1) * (x - soft)  # sharper
    x = x * (1 + 0.08 * torch.randn(b, 3, 1, 1).clamp(-2, 2) * _somewhat(x, 0.6))
    x = x + 0.05 * torch.randn(b, 1, 1, 1).clamp(-2, 2) * _somewhat(x, 0.6)
    x = x + _somewhat(x, 0.5) * 0.06 * torch.rand(b, 1, 1, 1) * torch.randn_like(x)
    return x.clamp(-1, 1)


def moved(x: Tensor, rows: Tensor, most: int = 1):
    "Pictures and rows of labels shifted by up to `most` pixels, all of a batch alike."
    dy, dx = (random.randint(-most, most) for _ in "yx")
    h, w = x.shape[-2:]
    x = F.pad(x, (most,) * 4, mode="replicate")
    rows = rows.clone()
    rows[..., COLUMNS.index("x")] += dx
    rows[..., COLUMNS.index("y")] += dy
    return x[..., most - dy : most - dy + h, most - dx : most - dx + w], rows


def split_labels(labels: Tensor):
    "Labels [B, ...] -> rows [B, MOST, 9] as `COLUMNS`, and the rest [B, 13]."
    n = MOST * len(COLUMNS)
    return labels[:, :n].view(-1, MOST, len(COLUMNS)), labels[:, n:]


class Pictures:
    "Batches from the shards in a folder, read anew when more have come."

    def __init__(self, folder, batch=64):
        self.folder, self.batch, self.shards = pathlib.Path(folder), batch, {}
        self.queue = []

    def refresh(self):
        "Open the shards that are new."
        for path in sorted(self.folder.glob("*.npz")):
            if path not in self.shards:
                with np.load(path) as data:
                    self.shards[path] = data["pictures"], data["labels"]

    def next(self):
        "The next batch: pictures [B, 3, H, W] in [-1, 1], labels [B, ...]. Each once an epoch."
        if not self.queue:
            self.refresh()
            for path, (pictures, _) in self.shards.items():
                order = np.random.permutation(len(pictures))
                full = len(order) // self.batch
                self.queue += [(path, part) for part in np.array_split(order, full)]
            random.shuffle(self.queue)
        path, index = self.queue.pop()
        pictures, labels = self.shards[path]
        x = torch.from_numpy(pictures[index]).permute(0, 3, 1, 2).float() / 127.5 - 1
        return x, torch.from_numpy(labels[index])
