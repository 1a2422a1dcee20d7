"""Trains the reader of pictures: pictures with labels, a loss for each answer, one short run."""

import argparse
import math
import pathlib
import random
import time

import numpy as np
import torch
from lens_ref.vae.autoencoder import ToyVAE
from torch import Tensor
from torch.nn import functional as F

from .reader import (
    CHANNELS,
    READABLE,
    SIDE,
    STRIDE,
    TURN,
    WINDOWS,
    ReaderNet,
    board_crops,
    save_reader,
)
from .reader_patchwork import patchworks
from .reader_pictures import COLUMNS, MOST, SHAPES, training_picture

# How much each answer counts in the loss.
WEIGHTS = dict(heat=1.0, offset=0.5, side=2.0, turn=0.5, mirror=0.25, color=0.5, art=0.3)
WEIGHTS |= dict(ring_offset=0.25, ring_color=0.25, setting=0.25, length=0.5, sign_color=0.25)
WEIGHTS |= dict(letters=1.0)
IGNORE = -1


# ---- pictures
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


# ---- targets
def _grid(rows, height, width):
    "Distance in cells from each object's centre to each cell: dy, dx [B, M, h, w]."
    y = torch.arange(height // STRIDE) + 0.5
    x = torch.arange(width // STRIDE) + 0.5
    cx, cy = rows["x"][..., None, None] / STRIDE, rows["y"][..., None, None] / STRIDE
    return (cy - y[:, None]).expand(-1, -1, -1, len(x)), (cx - x).expand(-1, -1, len(y), -1)


def heat_targets(rows: dict, dy: Tensor, dx: Tensor):
    """Targets [B, 24, h, w] in [0, 1], 1 in the cell of a centre, and weights of the same shape: 0
    around objects that are unclear."""
    far = dy**2 + dx**2  # [B, M, h, w]
    bump = torch.exp(-far / (2 * 0.75**2))
    nearest = far == far.amin((2, 3), keepdim=True)
    bump = torch.where(nearest, 1.0, bump) * (rows["seen"] == 1)[..., None, None]
    b, m, h, w = bump.shape
    kinds = rows["kind"].long().clamp(min=0)[..., None, None].expand(-1, -1, h, w)
    target = torch.zeros(b, len(READABLE), h, w).scatter_reduce(1, kinds, bump, "amax")
    near = torch.maximum(dy.abs(), dx.abs()) < 0.35 * rows["side"][..., None, None] / STRIDE
    unclear = (near & (rows["seen"] == 0)[..., None, None]).any(1, keepdim=True)
    return target, 1 - (unclear & (target < 0.3)).float()


def heat_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    "The focal loss of CornerNet (Law and Deng 2018), for each object."
    p = logits.sigmoid()
    here = (target == 1).float()
    miss = here * (1 - p) ** 2 * F.logsigmoid(logits)
    false = (1 - here) * (1 - target) ** 4 * p**2 * F.logsigmoid(-logits)
    return -(weight * (miss + false)).sum() / here.sum().clamp(min=1)


def _nearest(rows, dy, dx, ring):
    """Which object each cell tells about: number of the row [B, h, w], and whether there is one
    within 1.25 cells. Of two, the nearer."""
    is_ring = rows["kind"] == READABLE.index("ring")
    counts = (rows["seen"] == 1) & (is_ring == ring)
    far = (dy**2 + dx**2).masked_fill(~counts[..., None, None], math.inf)
    least, index = far.min(1)
    return index, least < 1.25**2


def _at(values, index):
    "Values [B, M] of the objects that cells tell about: [B, h, w]."
    b, h, w = index.shape
    return values.gather(1, index.flatten(1)).view(b, h, w)


def _look_losses(out, rows, dy, dx):
    "Losses of offset, side, turn, mirror, colour and artwork, over the cells that tell about one."
    losses = {}
    for ring in (False, True):
        index, told = _nearest(rows, dy, dx, ring)
        name = "ring_" if ring else ""
        if not told.any():
            continue
        want = {k: _at(rows[k], index)[told] for k in rows}
        have = {k: v.permute(0, 2, 3, 1)[told].float() for k, v in out.items() if k in CHANNELS}
        place = torch.stack(
            [dx.gather(1, index[:, None])[:, 0], dy.gather(1, index[:, None])[:, 0]], -1
        )
        losses[f"{name}offset"] = F.smooth_l1_loss(have[f"{name}offset"], place[told], beta=0.1)
        losses[f"{name}color"] = _cross(have[f"{name}color"], want["color"])
        if not ring:
            side = (want["side"] / SIDE).log()
            losses["side"] = F.smooth_l1_loss(have["side"][:, 0], side, beta=0.05)
            losses["turn"] = F.smooth_l1_loss(have["turn"][:, 0], want["turn"] / TURN, beta=0.2)
            losses["mirror"] = F.binary_cross_entropy_with_logits(
                have["mirror"][:, 0], want["mirror"]
            )
            losses["art"] = _cross(have["art"], want["art"])
    return losses


def _cross(logits, classes):
    "Cross entropy; classes of -1 are not graded."
    if (classes >= 0).any():
        return F.cross_entropy(logits, classes.long(), ignore_index=IGNORE)
    return logits.sum() * 0


def _sign_losses(out, rest):
    """rest: lengths [B, 2] as numbers of letters (-1: unclear), hues [B, 2], letters [B, 2, 4]."""
    length, hue, letters = rest[:, 1:3], rest[:, 3:5], rest[:, 5:].view(-1, 2, 4)
    which = torch.where(length > 0, length - 1, length)  # index into LENGTHS
    losses = dict(length=_cross(out["length"].flatten(0, 1), which.flatten()))
    losses["sign_color"] = _cross(out["sign_color"].flatten(0, 1), hue.flatten())
    have, want = [], []
    for n, windows in WINDOWS.items():
        has = length == n
        have.append(out["letters"][has][:, list(windows)].flatten(0, 1))
        want.append(letters[has][:, :n].flatten())
    losses["letters"] = _cross(torch.cat(have), torch.cat(want))
    return losses


def reader_losses(out: dict, labels: Tensor, height: int, width: int) -> dict:
    "Losses of all answers: {name of `WEIGHTS`: scalar}. labels as `Labels.array`, [B, ...]."
    out = {k: v.float() for k, v in out.items()}
    table, rest = split_labels(labels)
    rows = dict(zip(COLUMNS, table.unbind(-1)))
    dy, dx = _grid(rows, height, width)
    losses = dict(heat=heat_loss(out["heat"], *heat_targets(rows, dy, dx)))
    losses |= _look_losses(out, rows, dy, dx)
    losses["setting"] = _cross(out["setting"], rest[:, 0])
    return losses | _sign_losses(out, rest)


def split_labels(labels: Tensor):
    "Labels [B, ...] -> rows [B, MOST, 9] as `COLUMNS`, and the rest [B, 13]."
    n = MOST * len(COLUMNS)
    return labels[:, :n].view(-1, MOST, len(COLUMNS)), labels[:, n:]


# ---- the run
def orthogonal(g: Tensor, rounds: int = 5) -> Tensor:
    """A matrix [m, n], m <= n, made nearly orthogonal by Newton and Schulz's iteration, with the
    coefficients of Muon (Jordan et al. 2024)."""
    x = g.bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Muon for kernels and matrices of at least 32 by 32 numbers, Adam for the rest; the factor
    lets both share a learning rate (Liu et al. 2025)."""

    def __init__(self, net, lr=5e-3, momentum=0.95, betas=(0.9, 0.99), decay=1e-3):
        super().__init__(list(net.parameters()), dict(lr=lr))
        self.momentum, self.betas, self.decay, self.count = momentum, betas, decay, 0

    @torch.no_grad()
    def step(self):
        "One update of all parameters."
        self.count += 1
        lr = self.param_groups[0]["lr"]
        for p in self.param_groups[0]["params"]:
            if p.grad is None:
                continue
            if p.ndim > 1 and min(p.shape[0], p[0].numel()) >= 32:
                self._turn(p, lr)
            else:
                self._adam(p, lr)

    def _turn(self, p, lr):
        mean = self.state[p].setdefault("mean", torch.zeros_like(p))
        mean.lerp_(p.grad, 1 - self.momentum)
        g = p.grad.lerp(mean, self.momentum).flatten(1)
        o = orthogonal(g.mT).mT if g.shape[0] > g.shape[1] else orthogonal(g)
        p.mul_(1 - lr * self.decay)
        p.add_(o.reshape(p.shape), alpha=-0.2 * lr * max(g.shape) ** 0.5)

    def _adam(self, p, lr):
        state, (a, b) = self.state[p], self.betas
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - a)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(p.grad**2, 1 - b)
        scale = (square / (1 - b**self.count)).sqrt() + 1e-8
        p.addcdiv_(mean / (1 - a**self.count), scale, value=-lr)


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


def learning_rate(done: float, peak: float) -> float:
    "Warm-up over the first twentieth of the run, then half a cosine. done: in [0, 1]."
    return peak * min(done / 0.05, 1) * (0.5 + 0.5 * math.cos(math.pi * min(done, 1)))


def _one_step(net, optimizer, pictures):
    x, labels = pictures.next()
    x, rows = moved(x, split_labels(labels)[0])
    labels = torch.cat([rows.flatten(1), split_labels(labels)[1]], 1)
    x = disturbed(x)
    size = x.shape[-2:]
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x.contiguous(memory_format=torch.channels_last), board_crops(x, *size))
    losses = reader_losses(out, labels, *size)
    optimizer.zero_grad(set_to_none=True)
    sum(WEIGHTS[k] * v for k, v in losses.items()).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
    optimizer.step()
    return {k: v.item() for k, v in losses.items()}


def train_reader(folder, out, seconds, peak=5e-3, net=None, seed=0):
    """Train on the shards in `folder` for so many seconds of this process's time and write the
    weights to `out`. net: to go on with; default a new one."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    net = (net or ReaderNet()).train().to(memory_format=torch.channels_last)
    optimizer = Muon(net)
    pictures, mean, step, start = Pictures(folder), {}, 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spent / seconds, peak)
        for k, v in _one_step(net, optimizer, pictures).items():
            mean[k] = 0.98 * mean.get(k, v) + 0.02 * v
        step += 1
        if step % 100 == 0:
            line = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
            print(f"step {step}  {spent:.0f} s  {line}", flush=True)
    save_reader(net, out)


def main():
    "Command line: see --help."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="of the shards")
    parser.add_argument("--shards", type=int, default=0, help="make so many first")
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--vae", nargs="*", default=(), help="folders of autoencoders")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_shards(args.folder, range(args.shards), args.vae)
    train_reader(args.folder, args.out, args.seconds)


if __name__ == "__main__":
    main()
