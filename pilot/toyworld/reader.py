"""Reads a picture of the toy world back into objects, looks, places and words: a small detector."""

import json
from dataclasses import dataclass, replace

import torch
from lens_ref.core.config import DataError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .drawing import board_box
from .world import (
    ARTWORKS,
    COLORS,
    RING,
    SETTINGS,
    SPRITES,
    Sign,
    Thing,
    place_name,
    relation,
    stretch,
    unit,
)

READABLE = (*SPRITES, "ring")  # the kinds of objects, in the order of the network's answers
LOOKS = [(kind, art) for kind in SPRITES for art in range(ARTWORKS[kind])]  # all artworks
HUES = (*COLORS, "mixed")  # "mixed": more than one colour, or none of those that have a name
STRIDE = 4  # pixels between two cells of the maps
LENGTHS = (0, 2, 3, 4)  # letters of a sign; 0: no sign
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ?"  # "?": nothing that one could read
# First column (of stride 2, in the crop of a board) of the windows of a word's letters.
WINDOWS = {2: (9, 16), 3: (5, 12, 19), 4: (2, 9, 16, 23)}
TURN = 20  # degrees: the unit in which turns are learned
SIDE = 24.0  # world units: sides are learned as logarithms of multiples of it

# Channels of the map of looks: {name: number}.
CHANNELS = dict(offset=2, side=1, turn=1, mirror=1, color=len(HUES), art=len(LOOKS))
CHANNELS |= dict(ring_offset=2, ring_color=len(HUES))  # a ring and what it holds share their cell


@dataclass(frozen=True)
class Reading:
    """What a reader sees in a picture of `size` (height, width): `things`, the clearest first, each
    with its `confidence` in [0, 1]; the setting; the sign or None. A colour that cannot be named
    is "mixed", a letter that cannot be read is "?"."""

    things: tuple
    confidence: tuple
    setting: str
    sign: Sign | None = None
    size: tuple = (64, 64)

    def of(self, kind: str) -> list[Thing]:
        "The things of one kind."
        return [t for t in self.things if t.kind == kind]


# ---- the network
def _layer(inputs, outputs, stride=1):
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class _Block(nn.Module):
    "Two convolutions around which the input passes."

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(_layer(width, width), _layer(width, width))

    def forward(self, x):
        return x + self.layers(x)


class SignNet(nn.Module):
    """Reads crops of boards [N, 3, 20, 64]: (length [N, 4] as `LENGTHS`, colour [N, 9] as `HUES`,
    letters [N, 25, 27] of the windows of 16 pixels that begin at each second pixel), all logits."""

    def __init__(self, width=64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 4, 2, 1),
            nn.ReLU(inplace=True),
            _layer(32, 48),
            _layer(48, width, (2, 1)),
        )
        self.window = nn.Conv2d(width, 96, (5, 8))
        self.letter = nn.Conv2d(96, len(LETTERS), 1)
        self.word = nn.Linear(32 * width, 64)
        self.whole = nn.Linear(64, len(LENGTHS) + len(HUES))

    def forward(self, crops):
        x = self.layers(crops)  # [N, width, 5, 32]
        letters = self.letter(F.relu(self.window(x)))  # [N, 27, 1, 25]
        whole = self.whole(F.relu(self.word(x.mean(2).flatten(1))))
        length, color = whole.split([len(LENGTHS), len(HUES)], 1)
        return length, color, letters[:, :, 0].transpose(1, 2)


class ReaderNet(nn.Module):
    """The detector; the architecture is our choice, after CenterNet (Zhou et al. 2019): objects are
    peaks of a map of centres, and their looks are read at the peak.

    `forward(x, boards)`: pictures [B, 3, H, W] in [-1, 1] at one pixel per world unit, sides
    multiples of 8, and crops of their two boards [B, 2, 3, 20, 64] ->
    dict(heat [B, 24, H/4, W/4], one for each of `CHANNELS` [B, n, H/4, W/4], setting [B, 8],
    length [B, 2, 4], sign_color [B, 2, 9], letters [B, 2, 25, 27]), all logits."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.config = dict(width=width)
        self.stem = nn.Sequential(nn.PixelUnshuffle(2), _layer(12, width // 2))
        self.fine = nn.Sequential(_layer(width // 2, width, 2), _Block(width))  # stride 4
        self.coarse = nn.Sequential(
            _layer(width, 2 * width, 2), _Block(2 * width), _Block(2 * width)
        )  # stride 8
        self.back = nn.Conv2d(2 * width, width, 1)
        self.joint = nn.Sequential(_Block(width), _layer(width, 3 * width // 2))
        self.heat = nn.Conv2d(3 * width // 2, len(READABLE), 1)
        self.looks = nn.Conv2d(3 * width // 2, sum(CHANNELS.values()), 1)
        self.setting = nn.Sequential(
            nn.Linear(8 * width, 64), nn.ReLU(), nn.Linear(64, len(SETTINGS))
        )
        self.sign = SignNet()
        nn.init.constant_(self.heat.bias, -4.0)  # objects are rare at the start

    def forward(self, x: Tensor, boards: Tensor) -> dict:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        joint = self.joint(fine + F.interpolate(self.back(coarse), scale_factor=2.0))
        bands = F.adaptive_avg_pool2d(coarse, (4, 1)).flatten(1)
        out = dict(zip(CHANNELS, self.looks(joint).split(list(CHANNELS.values()), 1)))
        length, color, letters = (
            v.unflatten(0, (-1, 2)) for v in self.sign(boards.flatten(0, 1).contiguous())
        )
        return out | dict(
            heat=self.heat(joint),
            setting=self.setting(bands),
            length=length,
            sign_color=color,
            letters=letters,
        )


def world_scale(images: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] resized to one pixel per world unit, and padded on the right and below
    by their edges to sides that are multiples of 8."""
    h, w = images.shape[-2:]
    u = unit(h, w)
    if u != 1:
        size = round(h / u), round(w / u)
        images = F.interpolate(images, size, mode="bilinear", antialias=True)
    pad = -images.shape[-1] % 8, -images.shape[-2] % 8
    return F.pad(images, (0, pad[0], 0, pad[1]), mode="replicate") if any(pad) else images


def board_crops(images: Tensor, height: int, width: int) -> Tensor:
    """Where the boards at the top and at the bottom would be in pictures that `world_scale` made
    from pictures of `height` and `width`, with a pixel around: [B, 2, 3, 20, 64]."""
    u, crops = unit(height, width), []
    for place in ("top", "bottom"):
        top, left = (round(v / u) - 1 for v in board_box(place, height, width)[:2])
        top = max(0, min(top, images.shape[-2] - 20))
        crops.append(images[..., top : top + 20, left : left + 64])
    return torch.stack(crops, 1)


# ---- from maps to things
def _size_name(side):
    if side < 20.5:
        return "small"
    return "medium" if side < 27 else "large"


def _art(kind, logits):
    "The likeliest artwork of a kind."
    first = LOOKS.index((kind, 0))
    return logits[first : first + ARTWORKS[kind]].argmax().item()


def _thing(kind, at, cell, height, width):
    "The thing at one cell (row, column), of a picture of this many world units; at: {name: [n]}."
    ring = kind == "ring"
    dx, dy = at["ring_offset" if ring else "offset"].tolist()
    x, y = ((c + 0.5 + d) * STRIDE for c, d in zip(cell[::-1], (dx, dy)))
    color = HUES[at["ring_color" if ring else "color"].argmax().item()]
    if ring:
        return Thing(kind, color, "large", x / width, y / height, RING)
    side = SIDE * at["side"].exp().item()
    look = _art(kind, at["art"]), at["mirror"].item() > 0, TURN * at["turn"].item()
    return Thing(kind, color, _size_name(side), x / width, y / height, side, *look)


def _repeats(new, old, height, width):
    "Is a thing the same as one that was seen more clearly?"
    far = max(abs(new.x - old.x) * width, abs(new.y - old.y) * height)
    side = max(new.side, old.side)
    if new.kind == old.kind:
        return far < 0.5 * side
    return "ring" not in (new.kind, old.kind) and far < 0.25 * side


def _peaks(heat, least):
    "Cells that are the highest of their 3 by 3: confidence, and (picture, kind, row, column)."
    top = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat >= least)
    where = top.nonzero()
    score = heat[tuple(where.T)]
    order = score.argsort(descending=True)
    return score[order].tolist(), where[order].tolist()


def _things(maps, least, height, width):
    "[(things, confidences)] of each picture, the clearest first."
    found = [([], []) for _ in maps["heat"]]
    for score, (i, k, row, column) in zip(*_peaks(maps["heat"].sigmoid(), least)):
        at = {name: maps[name][i, :, row, column] for name in CHANNELS}
        thing = _thing(READABLE[k], at, (row, column), height, width)
        things, scores = found[i]
        if not any(_repeats(thing, t, height, width) for t in things):
            things.append(thing)
            scores.append(score)
    return found


def _sign(length, color, letters, least):
    """The sign of one picture or None. length [2, 4], color [2, 9], letters [2, 25, 27]: logits at
    the top and at the bottom."""
    p = length.softmax(-1)
    place = p[:, 0].argmin().item()
    n = LENGTHS[p[place].argmax().item()]
    if n == 0:
        return None
    best, index = letters[place, list(WINDOWS[n])].softmax(-1).max(-1)
    word = "".join(LETTERS[i] if b >= least else "?" for b, i in zip(best.tolist(), index.tolist()))
    return Sign(word, HUES[color[place].argmax().item()], ("top", "bottom")[place])


def save_net(net: nn.Module, path):
    "Write the weights of a reader in half precision, with its `config`."
    weights = {
        k: v.half().contiguous() for k, v in net.state_dict().items() if v.is_floating_point()
    }
    save_file(weights, path, {"config": json.dumps(net.config)})


def load_net(make, path) -> nn.Module:
    "The net that `save_net` wrote; make: its class."
    with safe_open(path, "pt") as file:
        net = make(**json.loads(file.metadata()["config"]))
        weights = {k: file.get_tensor(k).float() for k in file.keys()}
    net.load_state_dict(weights, strict=False)  # the counts of batches are not kept
    return net


def _fused(net):
    "The network for reading alone: each normalisation becomes part of its convolution."
    for layer in net.modules():
        if isinstance(layer, nn.Sequential):
            for i in range(len(layer) - 1):
                if isinstance(layer[i + 1], nn.BatchNorm2d):
                    layer[i] = fuse_conv_bn_eval(layer[i], layer[i + 1])
                    layer[i + 1] = nn.Identity()
    return net


def check_pictures(images: Tensor):
    "Raises `DataError` unless images are [B, 3, H, W] with sides that are multiples of 16."
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"images: expected [B, 3, H, W], got {list(images.shape)}")
    for name, n in zip(("height", "width"), images.shape[-2:]):
        if n % 16:
            raise DataError(f"{name}: {n} is not a multiple of 16; resize the pictures")


class Reader:
    """Reads pictures of the toy world.

    `net`: a trained `ReaderNet`; `min_confidence`: of things that count as seen; `min_letter`:
    probability of letters that count as read; `batch`: pictures read side by side."""

    def __init__(self, net: ReaderNet, min_confidence=0.4, min_letter=0.5, batch=64):
        self.net = _fused(net.eval()).to(memory_format=torch.channels_last)
        self.min_confidence, self.min_letter, self.batch = min_confidence, min_letter, batch

    @classmethod
    def load(cls, path, **options) -> "Reader":
        "The reader in a safetensors file that `save_net` wrote; options: see the class."
        return cls(load_net(ReaderNet, path), **options)

    def read(self, images: Tensor) -> list[Reading]:
        """images [B, 3, H, W] in [-1, 1], sides multiples of 16. Raises `DataError` for another
        shape."""
        check_pictures(images)
        x = images.detach().float().cpu().clamp(-1, 1)
        return [r for part in x.split(self.batch) for r in self._read(part)]

    @torch.no_grad()
    def _read(self, x):
        size = x.shape[-2:]
        u = unit(*size)
        scaled = world_scale(x).contiguous(memory_format=torch.channels_last)
        maps = self.net(scaled, board_crops(scaled, *size))
        found = _things(maps, self.min_confidence, size[0] / u, size[1] / u)
        settings = maps["setting"].argmax(1).tolist()
        signs = zip(maps["length"], maps["sign_color"], maps["letters"])
        return [
            Reading(tuple(things), tuple(scores), SETTINGS[s], sign, tuple(size))
            for (things, scores), s, sign in zip(
                found, settings, [_sign(*v, self.min_letter) for v in signs]
            )
        ]


# ---- facts
def _colors(reading, kind, *colors):
    return {t.color for t in reading.of(kind)} == set(colors)


def _count(reading, kind, n, color=None):
    return sum(color in (None, t.color) for t in reading.of(kind)) == n


def _size(reading, kind, size):
    return bool(reading.of(kind)) and all(t.size == size for t in reading.of(kind))


def _related(reading, a, r, b):
    "Also if it would hold a pixel further on: places are read about as exactly."
    down, across = stretch(*reading.size)
    nudges = [(i / 64 / across, j / 64 / down) for i in (0, -1, 1) for j in (0, -1, 1)]
    return any(
        relation(replace(x, x=x.x + dx, y=x.y + dy), y, *reading.size) == r
        for x in reading.of(a)
        for y in reading.of(b)
        for dx, dy in nudges
    )


CHECKS = {
    "setting": lambda r, s: r.setting == s,
    "object": lambda r, k: bool(r.of(k)),
    "count": _count,
    "color": _colors,
    "size": _size,
    "place": lambda r, k, *p: any(place_name(t.x, t.y) == p for t in r.of(k)),
    "relation": _related,
    "word": lambda r, w: r.sign is not None and r.sign.word == w,
    "word color": lambda r, c: r.sign is not None and r.sign.color == c,
    "word place": lambda r, p: r.sign is not None and r.sign.place == p,
}

# Which kinds of facts decide a pass of a skill (the rule of GenEval).
NEEDED = {
    "single": ("object",),
    "two": ("object",),
    "counting": ("count",),
    "colors": ("color",),
    "position": ("object", "relation"),
    "attribute": ("object", "color"),
    "text": ("word",),
}


def holds(fact, reading: Reading) -> bool:
    "Does a `world.Fact` hold in the reading? Raises `DataError` for an unknown kind of fact."
    if fact.what not in CHECKS:
        raise DataError(f"fact: {fact.what!r} is unknown; one of {', '.join(CHECKS)}")
    return CHECKS[fact.what](reading, *fact.args)


def passes(facts, reading: Reading, skill: str) -> bool:
    """A picture passes when each stated fact that its skill is about holds. facts: those that the
    caption states (`Caption.facts`). Raises `DataError` for an unknown skill."""
    if skill not in NEEDED:
        raise DataError(f"skill: {skill!r} is unknown; choose one of {', '.join(NEEDED)}")
    return all(holds(f, reading) for f in facts if f.what in NEEDED[skill])


def stated_share(facts, reading: Reading) -> float:
    "Share of the stated facts that hold, in [0, 1]. Raises `DataError` if there are none."
    facts = tuple(facts)
    if not facts:
        raise DataError("facts: a caption that states none cannot be graded; give at least one")
    return sum(holds(f, reading) for f in facts) / len(facts)
