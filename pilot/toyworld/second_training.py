"""Trains the second reader on the same kinds of pictures, asked about the whole picture."""

import argparse
import random
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .reader import READABLE, SIDE, board_crops
from .reader_pictures import COLUMNS
from .reader_training import (
    Muon,
    Pictures,
    disturbed,
    learning_rate,
    make_shards,
    moved,
    split_labels,
)
from .second_reader import CELLS, COUNTS, PATCH, SecondNet, save_second
from .world import COLORS, SIZES

WEIGHTS = dict(count=2.0, hues=1.0, size=0.3, side=1.0, center=3.0, cells=0.5, patches=1.0)
WEIGHTS |= dict(setting=0.25, length=0.5, sign_color=0.25, letters=1.0)
ABSENT = 0.25  # weight of a kind that is not there: most are not


def _third(v):
    return (v >= 0.375).long() + (v > 0.625).long()


def kind_targets(rows: Tensor, height: int, width: int) -> dict:
    """What is true of each kind, from rows [B, M, 9] as `COLUMNS`: count [B, 24], hues [B, 24, 8],
    size, cells [B, 24, 9], mean side and centre [B, 24, 2]; `sure` and `hued`: where count and
    colours are clear."""
    r = dict(zip(COLUMNS, rows.unbind(-1)))
    is_kind = F.one_hot(r["kind"].long().clamp(min=0), len(READABLE)).float()  # [B, M, 24]
    seen = is_kind * (r["seen"] == 1)[..., None]
    unclear = (is_kind * (r["seen"] == 0)[..., None]).amax(1) > 0
    count = seen.sum(1)
    color = r["color"].long()
    hue = F.one_hot(color.clamp(min=0, max=len(COLORS)), len(COLORS) + 1)[..., :-1].float()
    size = (r["side"] >= 20.5).long() + (r["side"] >= 27).long()
    sizes = torch.einsum("bmk,bms->bks", seen, F.one_hot(size, len(SIZES)).float())
    x, y = r["x"] / width, r["y"] / height
    cell = F.one_hot((3 * _third(y) + _third(x)).clamp(0, CELLS - 1), CELLS).float()
    mean = lambda v: torch.einsum("bmk,bm->bk", seen, v) / count.clamp(min=1)
    return dict(
        count=count.long().clamp(max=COUNTS - 1),
        hues=torch.einsum("bmk,bmc->bkc", seen, hue).long().clamp(max=COUNTS - 1),
        size=torch.where(sizes.amax(-1) == count, sizes.argmax(-1), -1),
        side=mean((r["side"].clamp(min=1) / SIDE).log()),
        center=torch.stack([mean(x), mean(y)], -1),
        cells=torch.einsum("bmk,bmc->bkc", seen, cell).clamp(max=1),
        sure=~unclear,
        hued=~unclear & (count > 0) & ~((seen * (color < 0)[..., None]).amax(1) > 0),
    )


def patch_loss(logits: Tensor, rows: Tensor) -> Tensor:
    "Is a kind on this patch? logits [B, 24, h, w]. It helps the patches to find their meaning."
    r = dict(zip(COLUMNS, rows.unbind(-1)))
    b, k, h, w = logits.shape
    y, x = ((torch.arange(n) + 0.5) * PATCH for n in (h, w))
    dy = (r["y"][..., None] - y).abs()[..., None]  # [B, M, h, 1]
    dx = (r["x"][..., None] - x).abs()[:, :, None]
    # Rows that are not used have side -1: nothing is near them.
    near = torch.maximum(dy, dx) < (0.3 * r["side"])[..., None, None].clamp(min=0)
    kinds = r["kind"].long().clamp(min=0)[..., None, None].expand(-1, -1, h, w)
    here = (near & (r["seen"] == 1)[..., None, None]).float()
    target = torch.zeros(b, k, h, w).scatter_reduce(1, kinds, here, "amax")
    unclear = (near & (r["seen"] == 0)[..., None, None]).any(1, keepdim=True)
    weight = (1 + 4 * target) * ~(unclear & (target == 0))
    return F.binary_cross_entropy_with_logits(logits, target, weight) * k / 4


def _mean(loss, mask):
    return (loss * mask).sum() / mask.sum().clamp(min=1)


def _cross(logits, classes):
    "Cross entropy by entry; 0 where classes are -1. logits [..., n]."
    flat = F.cross_entropy(
        logits.flatten(0, -2), classes.flatten().long(), ignore_index=-1, reduction="none"
    )
    return flat.view(classes.shape)


def second_losses(out: dict, labels: Tensor, height: int, width: int) -> dict:
    "Losses of all answers: {name of `WEIGHTS`: scalar}."
    out = {k: v.float() for k, v in out.items()}
    rows, rest = split_labels(labels)
    want = kind_targets(rows, height, width)
    there = (want["count"] > 0).float() * want["sure"]
    alone = there * (want["count"] == 1)
    weigh = want["sure"] * torch.where(want["count"] > 0, 1.0, ABSENT)
    hues = _cross(out["hues"].unflatten(-1, (len(COLORS), COUNTS)), want["hues"]).sum(-1)
    near = lambda a, b: F.smooth_l1_loss(a, b, beta=0.02, reduction="none")
    cells = F.binary_cross_entropy_with_logits(out["cells"], want["cells"], reduction="none")
    length, hue, letters = rest[:, 1:3], rest[:, 3:5], rest[:, 5:].view(-1, 2, 4)
    which = torch.where(length > 0, length - 1, length)
    named = torch.where(hue < len(COLORS), hue, -1)
    return dict(
        count=_mean(_cross(out["count"], want["count"]), weigh),
        hues=_mean(hues, want["hued"].float()),
        size=_mean(_cross(out["size"], want["size"]), there * (want["size"] >= 0)),
        side=_mean(near(out["side"][..., 0], want["side"]), there),
        center=_mean(near(out["center"], want["center"]).sum(-1), alone),
        cells=_mean(cells.sum(-1), there),
        patches=patch_loss(out["patches"], rows),
        setting=_mean(_cross(out["setting"], rest[:, 0]), rest[:, 0] >= 0),
        length=_mean(_cross(out["length"], which), which >= 0),
        sign_color=_mean(_cross(out["sign_color"], named), named >= 0),
        letters=_mean(_cross(out["letters"], letters), letters >= 0),
    )


def _one_step(net, optimizer, pictures):
    x, labels = pictures.next()
    x, rows = moved(x, split_labels(labels)[0])
    labels = torch.cat([rows.flatten(1), split_labels(labels)[1]], 1)
    x = disturbed(x)
    size = x.shape[-2:]
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x, board_crops(x, *size))
    losses = second_losses(out, labels, *size)
    optimizer.zero_grad(set_to_none=True)
    sum(WEIGHTS[k] * v for k, v in losses.items()).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()
    return {k: v.item() for k, v in losses.items()}


def train_second(folder, out, seconds, peak=2e-3, net=None, seed=1):
    """Train on the shards in `folder` for so many seconds of this process's time and write the
    weights to `out`. net: to go on with; default a new one."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    net = (net or SecondNet()).train()
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
    save_second(net, out)
    return net


def main():
    "Command line: see --help."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", required=True, help="of the shards")
    parser.add_argument("--shards", type=int, default=0, help="make so many first")
    parser.add_argument("--first", type=int, default=1000, help="number of the first shard")
    parser.add_argument("--out", required=True)
    parser.add_argument("--vae", nargs="*", default=(), help="folders of autoencoders")
    parser.add_argument("--seconds", type=float, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_shards(args.folder, range(args.first, args.first + args.shards), args.vae)
    train_second(args.folder, args.out, args.seconds)


if __name__ == "__main__":
    main()
