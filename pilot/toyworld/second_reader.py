"""A second reader of another make, a small transformer, to be kept apart from rewards."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .reader import (
    LENGTHS,
    LETTERS,
    READABLE,
    Reading,
    board_crops,
    check_pictures,
    load_net,
    world_scale,
)
from .world import COLORS, RING, SETTINGS, SIZES, Sign, Thing, unit

PATCH = 8  # pixels of a side of a token's patch
COUNTS = 6  # 0 to 4, and more
CELLS = 9  # places of the 3 by 3 grid
MIDDLES = (0.19, 0.5, 0.81)  # of the thirds that have a name

# What is answered of each kind: {name: numbers}.
ANSWERS = dict(
    count=COUNTS, hues=len(COLORS) * COUNTS, size=len(SIZES), side=1, center=2, cells=CELLS
)


def _waves(at, n):
    "Sines and cosines of positions [...] in world units: [..., 2n], wavelengths 8 to 256 pixels."
    rates = 2 * torch.pi / (8 * 32 ** (torch.arange(n) / (n - 1)))
    angles = at[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def _positions(h, w):
    """Features of the patches' places, [h * w, 64]: from the upper left corner, and as fractions of
    the picture (in units of 128), since places are named by those."""
    y, x = ((torch.arange(n) + 0.5) for n in (h, w))
    parts = [(y * PATCH, x * PATCH), (y / h * 128, x / w * 128)]
    grids = [g for pair in parts for g in torch.meshgrid(*pair, indexing="ij")]
    return torch.cat([_waves(g.flatten(), 8) for g in grids], -1)


class _Layer(nn.Module):
    "Attention and a perceptron, each with a normalisation before; keys from `memory` if given."

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.tell = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.merge = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )

    def forward(self, x, memory=None):
        normed = self.before(x)
        told = normed if memory is None else memory
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.ask(normed), *self.tell(told).chunk(2, -1))
        )
        # Written out: for so few tokens the fused kernel is four times slower backwards.
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + self.merge(mixed)
        return x + self.mlp(self.between(x))


class BoardTransformer(nn.Module):
    """Reads crops of boards [N, 3, 20, 64], cut in columns of 2 pixels: (length [N, 4], colour
    [N, 8], letters [N, 4, 27]), logits. Letters from the left; those beyond the length say
    nothing."""

    def __init__(self, width=64, layers=2):
        super().__init__()
        self.column = nn.Linear(3 * 20 * 4, width)
        self.place = nn.Parameter(0.02 * torch.randn(32, width))
        self.asked = nn.Parameter(0.02 * torch.randn(5, width))
        self.layers = nn.ModuleList(_Layer(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.letter = nn.Linear(width, len(LETTERS))
        self.whole = nn.Linear(width, len(LENGTHS) + len(COLORS))

    def forward(self, crops):
        wide = F.pad(crops, (1, 1, 0, 0))  # columns of 4 pixels that overlap by 2
        columns = wide.unfold(3, 4, 2).permute(0, 3, 1, 2, 4).flatten(2)  # [N, 32, 240]
        asked = self.asked.expand(len(crops), -1, -1)
        x = torch.cat([asked, self.column(columns) + self.place], 1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x[:, :5])
        length, color = self.whole(x[:, 0]).split([len(LENGTHS), len(COLORS)], -1)
        return length, color, self.letter(x[:, 1:])


class SecondNet(nn.Module):
    """A transformer over patches of 8 by 8 pixels, asked once for each kind (our choice).

    `forward(x, boards)` as `ReaderNet.forward` -> dict of logits: one for each of `ANSWERS`
    [B, 24, n], patches [B, 24, h, w] (is the kind there? only for training), setting [B, 8],
    length [B, 2, 4], sign_color [B, 2, 8], letters [B, 2, 4, 27]."""

    def __init__(self, width: int = 144, layers: int = 4):
        super().__init__()
        self.config = dict(width=width, layers=layers)
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.GELU()
        )
        self.patch = nn.Conv2d(64, width, 4, 2, 1)
        self.place = nn.Linear(64, width)
        self.layers = nn.ModuleList(_Layer(width, 4) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.patches = nn.Linear(width, len(READABLE))
        self.kinds = nn.Parameter(0.02 * torch.randn(len(READABLE) + 1, width))
        self.ask = nn.ModuleList(_Layer(width, 4) for _ in range(2))
        self.answer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(ANSWERS.values())))
        self.setting = nn.Linear(width, len(SETTINGS))
        self.board = BoardTransformer()

    def forward(self, x: Tensor, boards: Tensor) -> dict:
        grid = self.patch(self.stem(x))
        h, w = grid.shape[-2:]
        tokens = grid.flatten(2).transpose(1, 2) + self.place(_positions(h, w).to(x))
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        asked = self.kinds.expand(len(x), -1, -1)
        for layer in self.ask:
            asked = layer(asked, tokens)
        out = dict(zip(ANSWERS, self.answer(asked[:, :-1]).split(list(ANSWERS.values()), -1)))
        length, color, letters = (v.unflatten(0, (-1, 2)) for v in self.board(boards.flatten(0, 1)))
        return out | dict(
            patches=self.patches(tokens).transpose(1, 2).unflatten(2, (h, w)),
            setting=self.setting(asked[:, -1]),
            length=length,
            sign_color=color,
            letters=letters,
        )


# ---- from answers to things
def _colors_of(n, hues):
    "Colours of `n` things from the logits of how many there are of each colour [8, 6]."
    p = hues.softmax(-1)
    expected = (p * torch.arange(COUNTS)).sum(-1)
    names = list(COLORS)
    counts = p.argmax(-1).tolist()
    out = [c for c, k in zip(names, counts) for _ in range(k)]
    if len(out) != n:  # the two answers disagree: those most expected
        order = expected.argsort(descending=True).tolist()
        out = [names[i] for i in order for _ in range(max(1, round(expected[i].item())))][:n]
    return out


def _things_of(kind, at):
    "The things of one kind; at: {name of `ANSWERS`: logits}."
    n = at["count"].argmax().item()
    if n == 0:
        return []
    colors = _colors_of(n, at["hues"].view(len(COLORS), COUNTS))
    size = list(SIZES)[at["size"].argmax().item()]
    side = RING if kind == "ring" else 24 * at["side"].exp().item()
    places = [tuple(at["center"].tolist())]
    if n > 1:
        cells = at["cells"].topk(n).indices.tolist()
        places = [(MIDDLES[c % 3], MIDDLES[c // 3]) for c in cells]
    if kind == "ring":
        size = "large"
    return [Thing(kind, c, size, x, y, side) for c, (x, y) in zip(colors, places)]


def _sign(length, color, letters, least):
    p = length.softmax(-1)
    place = p[:, 0].argmin().item()
    n = LENGTHS[p[place].argmax().item()]
    if n == 0:
        return None
    best, index = letters[place, :n].softmax(-1).max(-1)
    word = "".join(LETTERS[i] if b >= least else "?" for b, i in zip(best.tolist(), index.tolist()))
    return Sign(word, list(COLORS)[color[place].argmax().item()], ("top", "bottom")[place])


class SecondReader:
    """Reads pictures by asking a `SecondNet` for each kind. Its readings say how many there are of
    a kind, of which colours and sizes; where, only of a thing that is alone of its kind (of
    several: which places of the grid are taken, in no order). Poses are not read."""

    def __init__(self, net: SecondNet, min_letter=0.5, batch=64):
        self.net, self.min_letter, self.batch = net.eval(), min_letter, batch

    @classmethod
    def load(cls, path, **options) -> "SecondReader":
        "The reader in a safetensors file that `reader.save_net` wrote; options: see the class."
        return cls(load_net(SecondNet, path), **options)

    def read(self, images: Tensor) -> list[Reading]:
        """images [B, 3, H, W] in [-1, 1], sides multiples of 16. Raises `DataError` for another
        shape."""
        check_pictures(images)
        x = images.detach().float().cpu().clamp(-1, 1)
        return [r for part in x.split(self.batch) for r in self._read(part)]

    @torch.no_grad()
    def _read(self, x):
        size = x.shape[-2:]
        scaled = world_scale(x)
        # Fractions are of the padded picture; back to those of the picture itself.
        u = unit(*size)
        back = torch.tensor([scaled.shape[3] * u / size[1], scaled.shape[2] * u / size[0]])
        out = self.net(scaled, board_crops(scaled, *size))
        out["center"] = out["center"] * back
        return [self._one({k: v[i] for k, v in out.items()}, tuple(size)) for i in range(len(x))]

    def _one(self, out, size):
        counts = out["count"].softmax(-1)
        things, scores = [], []
        for k in counts.argmax(-1).nonzero()[:, 0].tolist():
            at = {name: out[name][k] for name in ANSWERS}
            found = _things_of(READABLE[k], at)
            things += found
            scores += [counts[k].max().item()] * len(found)
        sign = _sign(out["length"], out["sign_color"], out["letters"], self.min_letter)
        setting = SETTINGS[out["setting"].argmax().item()]
        return Reading(tuple(things), tuple(scores), setting, sign, size)
