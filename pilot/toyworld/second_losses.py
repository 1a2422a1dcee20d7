"""What the second reader is to answer of a whole picture, and a loss for each answer."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .reader import READABLE, SIDE
from .reader_pictures import COLUMNS
from .reader_shards import split_labels
from .second_reader import CELLS, COUNTS, PATCH
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


def losses(out: dict, labels: Tensor, height: int, width: int) -> dict:
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
