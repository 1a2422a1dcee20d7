"""What the reader of pictures is to answer, and a loss for each answer."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .reader import CHANNELS, READABLE, SIDE, STRIDE, TURN, WINDOWS
from .reader_pictures import COLUMNS
from .reader_shards import split_labels

# How much each answer counts in the loss.
WEIGHTS = dict(heat=1.0, offset=0.5, side=2.0, turn=0.5, mirror=0.25, color=0.5, art=0.3)
WEIGHTS |= dict(ring_offset=0.25, ring_color=0.25, setting=0.25, length=0.5, sign_color=0.25)
WEIGHTS |= dict(letters=1.0)


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
        return F.cross_entropy(logits, classes.long(), ignore_index=-1)
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


def losses(out: dict, labels: Tensor, height: int, width: int) -> dict:
    "Losses of all answers: {name of `WEIGHTS`: scalar}. labels as `Labels.array`, [B, ...]."
    out = {k: v.float() for k, v in out.items()}
    table, rest = split_labels(labels)
    rows = dict(zip(COLUMNS, table.unbind(-1)))
    dy, dx = _grid(rows, height, width)
    found = dict(heat=heat_loss(out["heat"], *heat_targets(rows, dy, dx)))
    found |= _look_losses(out, rows, dy, dx)
    found["setting"] = _cross(out["setting"], rest[:, 0])
    return found | _sign_losses(out, rest)
