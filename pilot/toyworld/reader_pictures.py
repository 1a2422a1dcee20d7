"""Pictures to train readers on: good and spoilt ones, with what a person could name in them."""

import functools
import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from . import drawing
from .drawing import background, corner, draw_board, letter, letter_boxes, spaced
from .reader import HUES, LETTERS, LOOKS, READABLE
from .sign_words import TEST_WORDS, TRAIN_WORDS
from .world import (
    COLORS,
    RING,
    SETTINGS,
    SIZES,
    SKILLS,
    Sign,
    Thing,
    _look,
    sample_scene,
    stretch,
)

PALETTE = {name: np.array(rgb, np.float32) for name, rgb in COLORS.items()}
SEEN, UNCLEAR, NOTHING = 1, 0, -1  # what to make of an object that has been spoilt
SHAPES = ((64, 64), (64, 80), (80, 64), (64, 96), (96, 64), (96, 96), (64, 128), (128, 64))

OUTLINES = ("heart", "star", "balloon", "umbrella", "mushroom", "apple", "tulip", "bell", "ring")

# Columns of an object's row in the labels.
COLUMNS = ("seen", "kind", "x", "y", "side", "turn", "mirror", "color", "art")
MOST = 12  # rows of labels a picture


@dataclass
class Labels:
    """What is to be read in a picture. `rows`: `COLUMNS` of each object, x and y and side in
    pixels; objects that nobody could name have none, unclear ones (seen = 0) are not graded.
    `setting`: number or -1 if unclear. `length`, `hue`, `letters`: of the two boards, -1 if
    unclear."""

    rows: list = field(default_factory=list)
    setting: int = -1
    length: list = field(default_factory=lambda: [0, 0])
    hue: list = field(default_factory=lambda: [-1, -1])
    letters: list = field(default_factory=lambda: [[-1] * 4, [-1] * 4])

    def array(self) -> np.ndarray:
        "All of it as one row of float32 [MOST * 9 + 13]; rows that are not used have seen = -1."
        rows = np.full((MOST, len(COLUMNS)), -1, np.float32)
        rows[: len(self.rows)] = self.rows[:MOST] if self.rows else np.zeros((0, len(COLUMNS)))
        rest = [self.setting, *self.length, *self.hue, *sum(self.letters, [])]
        return np.concatenate([rows.ravel(), np.array(rest, np.float32)])


def grade(damage, seen, nothing):
    "SEEN below one amount of damage, NOTHING above another, UNCLEAR between."
    if damage < seen:
        return SEEN
    return NOTHING if damage > nothing else UNCLEAR


# ---- objects as layers: premultiplied colour and opacity [4, n, n], values in [0, 255] and [0, 1]
_sprite = functools.cache(drawing.sprite.__wrapped__)  # all are kept: the same few come back


def layer(kind, color, n, art, mirror, turn) -> np.ndarray:
    "An artwork in one colour, `n` pixels wide."
    a, b, alpha = _sprite(kind, n, art, mirror, turn)
    rgb = a * PALETTE[color][:, None, None] + 255 * b
    return np.concatenate([rgb, alpha[None]])


def _wide(x):
    "A layer with room around for what spreads."
    pad = x.shape[1] // 4
    return np.pad(x, ((0, 0), (pad, pad), (pad, pad)))


def _again(thing, n, rng, **changes):
    "A wide layer of the same kind with another look, or as `changes` say."
    look = changes or _look(thing.kind, rng)
    t = replace(thing, **look)
    return _wide(layer(t.kind, t.color, n, t.art, t.mirror, 2 * round(t.turn / 2)))


def _other(rng, kind, n, color=None):
    "A wide layer of another kind."
    kind = rng.choice([k for k in READABLE if k not in (kind, "ring")])
    look = _look(kind, rng)
    color = color or rng.choice(list(COLORS))
    return _wide(layer(kind, color, n, look["art"], look["mirror"], 2 * round(look["turn"] / 2)))


def _waves(rng, n, size):
    "A smooth random field [n, n] with zero mean and deviation 1; `size` of its bumps in pixels."
    field_ = np.random.default_rng(rng.randrange(2**32)).standard_normal((n, n))
    field_ = ndimage.gaussian_filter(field_, size, mode="wrap")
    return (field_ - field_.mean()) / (field_.std() + 1e-9)


def _blended(x, thing, n, rng):
    "Two kinds in one place."
    share = rng.uniform(0.02, 0.5)
    same = thing.color if rng.random() < 0.5 else None
    y = _other(rng, thing.kind, n, same)
    hue = thing.color if same or share < 0.12 else "?"
    return (1 - share) * x + share * y, grade(share, 0.13, 0.42), hue


def _spliced(x, thing, n, rng):
    "One part of one kind, one of another, with a soft seam."
    y = _other(rng, thing.kind, n, thing.color if rng.random() < 0.6 else None)
    m = 1 / (1 + np.exp(-4 * (_waves(rng, x.shape[1], n / 5) + rng.uniform(-0.5, 1.2))))
    lost = 1 - (m * x[3]).sum() / (x[3].sum() + 1e-6)
    seen = UNCLEAR if lost > 0.7 else grade(lost, 0.12, 0.42)  # most of it: the other kind
    return m * x + (1 - m) * y, seen, "?" if lost > 0.1 else thing.color


def _blurred(x, thing, n, rng):
    sigma = rng.uniform(0.02, 0.17)
    y = ndimage.gaussian_filter(x, (0, sigma * n, sigma * n))
    return y, grade(sigma, 0.042, 0.085), thing.color


def _erased(x, thing, n, rng):
    "A part of it faded away."
    wide = x.shape[1]
    y, xx = (np.mgrid[:wide, :wide] - wide / 2) / n
    angle = rng.uniform(0, 2 * math.pi)
    slope = (
        y * math.sin(angle) + xx * math.cos(angle) + rng.uniform(0, 0.12) * _waves(rng, wide, n / 8)
    )
    m = 1 / (1 + np.exp(-rng.uniform(10, 40) * (slope + rng.uniform(-0.35, 0.35))))
    lost = 1 - (m * x[3]).sum() / (x[3].sum() + 1e-6)
    return m * x, grade(lost, 0.2, 0.7), thing.color


def _holed(x, thing, n, rng):
    "Blotches of it are missing."
    m = 1 / (1 + np.exp(-6 * (_waves(rng, x.shape[1], n / 10) + rng.uniform(-1.2, 1.5))))
    lost = 1 - (m * x[3]).sum() / (x[3].sum() + 1e-6)
    return m * x, grade(lost, 0.15, 0.6), thing.color


def _shuffled(x, thing, n, rng):
    "Its parts stand in the wrong places."
    k, pad = rng.choice([2, 3, 3]), n // 4
    edges = [pad + round(i * n / k) for i in range(k + 1)]
    step = min(b - a for a, b in zip(edges, edges[1:]))
    tiles = [(a, b) for a in edges[:-1] for b in edges[:-1]]
    moved = rng.sample(tiles, len(tiles))
    y = np.zeros_like(x)
    for (a, b), (c, d) in zip(tiles, moved):
        y[:, a : a + step, b : b + step] = x[:, c : c + step, d : d + step]
    y = ndimage.gaussian_filter(y, (0, 0.6, 0.6))
    same = sum(t == m for t, m in zip(tiles, moved)) / len(tiles)
    return y, NOTHING if same < 0.3 else UNCLEAR, thing.color


def _warped(x, thing, n, rng):
    "Drawn with an unsteady hand."
    wide, size, far = x.shape[1], n / rng.uniform(5, 9), rng.uniform(0.01, 0.16)
    waves = np.stack([_waves(rng, wide, size), _waves(rng, wide, size)])
    at = np.mgrid[:wide, :wide] + far * n * waves
    y = np.stack([ndimage.map_coordinates(p, at, order=1) for p in x])
    return y, grade(far, 0.04, 0.115), thing.color


def _faint(x, thing, n, rng):
    left = rng.uniform(0.1, 1)
    return left * x, grade(1 - left, 0.35, 0.75), thing.color


def _detail(x):
    "What is finer than a tenth of the object, in a layer [4, ...] of at most 255."
    scaled = np.concatenate([x[:3] / 255, x[3:]])
    size = 0.06 * (x.shape[1] / 1.5)
    return scaled - ndimage.gaussian_filter(scaled, (0, size, size))


def agreement(layers) -> float:
    """Share of the looks' detail that their average keeps, from 1 / number of layers (they have
    nothing in common) to 1. layers: a list of [4, n, n]."""
    each = np.mean([(_detail(x) ** 2).sum() for x in layers])
    return float((_detail(np.mean(layers, 0)) ** 2).sum() / (each + 1e-6))


def _grade_average(kind, layers):
    "What to make of an average of looks: some kinds one knows by their outline alone."
    nothing = 0.87 if kind in OUTLINES else 0.76
    return grade(1 - agreement(layers), 0.3, nothing)


def _averaged(x, thing, n, rng):
    "Several looks of one kind at once: what a model draws in a single step."
    k, spread, layers = rng.randint(2, 8), rng.uniform(0.0, 0.14), []
    for _ in range(k):
        far = [rng.gauss(0, spread) * n for _ in "yx"]
        layers.append(ndimage.shift(_again(thing, n, rng), (0, *far), order=1))
    return np.mean(layers, 0), _grade_average(thing.kind, layers), thing.color


def _motley(x, thing, n, rng):
    "In two colours: side by side, or between the two."
    second = rng.choice([c for c in COLORS if c != thing.color])
    y = _again(thing, n, rng, color=second)
    if rng.random() < 0.5:
        share = rng.random()
        hue = thing.color if share < 0.15 else second if share > 0.85 else "?"
        return (1 - share) * x + share * y, SEEN, hue
    m = 1 / (1 + np.exp(-8 * (_waves(rng, x.shape[1], n / 6) + rng.uniform(-1.3, 1.3))))
    share = 1 - (m * x[3]).sum() / (x[3].sum() + 1e-6)
    hue = "mixed" if 0.25 < share < 0.75 else "?"
    hue = thing.color if share < 0.08 else second if share > 0.92 else hue
    return m * x + (1 - m) * y, SEEN, hue


def _blotch(x, thing, n, rng):
    "A shaded patch of colour without a meaning."
    wide = x.shape[1]
    y, xx = (np.mgrid[:wide, :wide] - wide / 2) / n * 2
    inside = 0.75 - np.hypot(y, xx) + 0.25 * _waves(rng, wide, n / 6)
    alpha = 1 / (1 + np.exp(-rng.uniform(8, 30) * inside))
    light = np.clip(0.7 + 0.25 * _waves(rng, wide, n / rng.uniform(4, 12)), 0.1, 1)
    rgb = PALETTE[thing.color][:, None, None] * light
    white = np.clip(_waves(rng, wide, n / 10) - 1, 0, 0.8)
    rgb = (1 - white) * rgb + 255 * white
    return np.concatenate([rgb * alpha, alpha[None]]), NOTHING, thing.color


FLAWS = {
    _blended: 4,
    _spliced: 3,
    _blurred: 3,
    _erased: 3,
    _holed: 2,
    _shuffled: 2,
    _warped: 4,
    _faint: 3,
    _averaged: 5,
    _motley: 3,
    _blotch: 3,
}


def spoil(x, thing, rng, flaw=None):
    """One flaw of `FLAWS`, or that given, on a layer: (layer with a quarter more on each side,
    SEEN, UNCLEAR or NOTHING, name of the colour or "?" if unclear)."""
    flaw = flaw or rng.choices(list(FLAWS), list(FLAWS.values()))[0]
    y, seen, hue = flaw(_wide(x), thing, x.shape[1], rng)
    return y.astype(np.float32), seen, hue


# ---- what stands where
def scattered(rng, height, width) -> tuple:
    "Up to six things anywhere, some of them partly hidden."
    down, across = stretch(height, width)
    things, n = [], rng.choices(range(7), [2, 4, 4, 4, 3, 2, 1])[0]
    kinds = rng.sample(READABLE, 3)
    for _ in range(n):
        kind = rng.choice(kinds)
        size = rng.choice(list(SIZES))
        side = RING if kind == "ring" else round(rng.uniform(*SIZES[size]))
        near = side / 128
        x, y = rng.uniform(near, 1 - near), rng.uniform(near, 1 - near)
        look = _look(kind, rng) | {"turn": 2 * rng.randint(-10, 10)}
        things.append(Thing(kind, rng.choice(list(COLORS)), size, x, y, side, **look))
    return tuple(things)


def some_word(rng) -> str:
    "Any letters, or a word, so that the reader reads and does not guess."
    if rng.random() < 0.35:
        return rng.choice(TRAIN_WORDS + TEST_WORDS)
    return "".join(rng.choices(LETTERS[:26], k=rng.choice([2, 3, 3, 4, 4, 4])))


def some_scene(rng, height, width):
    "(things, setting, sign, backdrop): of the world, all parts of it, or scattered."
    setting, backdrop = rng.choice(SETTINGS), rng.randrange(2**31)
    sign = Sign(
        some_word(rng), rng.choice(list(COLORS)), rng.choice(["top", "bottom"]), rng.randrange(3)
    )
    if rng.random() < 0.45:
        return (
            scattered(rng, height, width),
            setting,
            sign if rng.random() < 0.5 else None,
            backdrop,
        )
    part = rng.choice(["train", "train", "test", "pairs"])
    scene = sample_scene(rng, rng.choice([None, *SKILLS]), part)
    if scene.sign:
        scene = replace(scene, sign=replace(scene.sign, word=some_word(rng)))
    return spaced(scene.things, height, width), scene.setting, scene.sign, scene.backdrop


# ---- drawing with labels
def _lay(img, look, top, left):
    "Lay a layer over `img`, cut at its edges; its opacity in the picture [H, W]."
    height, width = img.shape[:2]
    up, start = max(0, -top), max(0, -left)
    look = look[:, up : height - top, start : width - left]
    top, left = max(0, top), max(0, left)
    spot = img[top : top + look.shape[1], left : left + look.shape[2]]
    spot *= 1 - look[3][..., None]
    spot += look[:3].transpose(1, 2, 0)
    mask = np.zeros(img.shape[:2], np.float32)
    mask[top : top + look.shape[1], left : left + look.shape[2]] = look[3]
    return mask


def place(img, things, flaws, rng, flaw=None):
    """Draw things on `img`, each with chance `flaws` of a flaw (of that given, or any); their rows
    for the labels, each with its area, and their opacities as far as they show."""
    shown, rows = [], []
    for t in things:
        y, x, n = corner(t, *img.shape[:2])
        turn = 2 * round(t.turn / 2)
        look = layer(t.kind, t.color, n, t.art, t.mirror, turn)
        seen, hue = SEEN, t.color
        if rng.random() < flaws:
            look, seen, hue = spoil(look, t, rng, flaw)
        mask = _lay(img, look, y - (look.shape[1] - n) // 2, x - (look.shape[1] - n) // 2)
        shown = [m * (1 - mask) for m in shown] + [mask]
        color = HUES.index(hue) if hue in HUES else -1
        art = -1 if t.kind == "ring" else LOOKS.index((t.kind, t.art))
        kind = READABLE.index(t.kind)
        rows.append([seen, kind, x + n / 2, y + n / 2, n, turn, t.mirror, color, art, mask.sum()])
    return rows, shown


def visible(rows, shown):
    "Rows with what hides an object taken into account; those that show nothing are left out."
    out = []
    for row, mask in zip(rows, shown):
        hidden = 1 - mask.sum() / (row[-1] + 1e-6)
        seen = min(row[0], grade(hidden, 0.5, 0.75))
        if seen != NOTHING:
            out.append([seen, *row[1:-1]])
    return out


def _letter_mask(char, p, flaws, rng):
    "Coverage of one letter, perhaps spoilt: (mask, letter as one reads it or None if unclear)."
    m = letter(char, p)
    if rng.random() >= flaws:
        return m, char
    how = rng.choice(["blend", "blur", "erase", "faint", "warp"])
    if how == "blend":
        share = rng.uniform(0.05, 0.5)
        m = (1 - share) * m + share * letter(rng.choice(LETTERS[:26].replace(char, "")), p)
        seen = grade(share, 0.2, 0.4)
    elif how == "blur":
        sigma = rng.uniform(0.4, 4)
        m, seen = ndimage.gaussian_filter(m, sigma), grade(sigma, 1.1, 2.3)
    elif how == "erase":
        keep = rng.uniform(0, 1)
        cut = round(len(m) * keep)
        m = m * (np.arange(len(m)) < cut)[:: rng.choice([-1, 1]), None]
        seen = grade(1 - keep, 0.15, 0.55)
    elif how == "faint":
        left = rng.uniform(0.05, 0.8)
        m, seen = left * m, grade(1 - left, 0.55, 0.8)
    else:
        far = rng.uniform(0.3, 3.5)
        waves = [np.stack([_waves(rng, 20, 3)[: m.shape[0], : m.shape[1]] for _ in "yx"])][0]
        m = ndimage.map_coordinates(m, np.mgrid[: m.shape[0], : m.shape[1]] + far * waves, order=1)
        seen = grade(far, 1.0, 2.2)
    return m, {SEEN: char, NOTHING: "?"}.get(seen)


def write(img, sign, flaws, rng, labels):
    "A board with its word, perhaps spoilt, on `img` and in the labels."
    i = ("top", "bottom").index(sign.place)
    draw_board(img, sign.place, sign.board)
    if rng.random() < 0.04:
        return  # an empty board is no sign
    boxes, p = letter_boxes(len(sign.word), sign.place, *img.shape[:2])
    labels.length[i], labels.hue[i] = len(sign.word), HUES.index(sign.color)
    for j, (char, (y, x)) in enumerate(zip(sign.word, boxes)):
        m, read = _letter_mask(char, p, flaws, rng)
        color = sign.color
        if flaws and rng.random() < 0.06:
            color, labels.hue[i] = rng.choice(list(COLORS)), -1
        slot = img[y : y + m.shape[0], x : x + p]
        slot[:] = (1 - m[..., None]) * slot + m[..., None] * PALETTE[color]
        labels.letters[i][j] = -1 if read is None else LETTERS.index(read)
    if all(v == LETTERS.index("?") for v in labels.letters[i][: len(sign.word)]):
        labels.hue[i] = -1


def drawn(rng, height, width, flaws=0.0):
    "A picture [H, W, 3] float in [0, 255] and its labels; `flaws`: chance of each object's flaw."
    things, setting, sign, backdrop = some_scene(rng, height, width)
    labels = Labels(setting=SETTINGS.index(setting))
    img = background(setting, height, width, backdrop)
    rows, shown = place(img, things, flaws, rng)
    if sign:
        top, left, bottom, right = drawing.board_box(sign.place, height, width)
        for mask in shown:
            mask[top:bottom, left:right] = 0
        write(img, sign, flaws / 2, rng, labels)
    labels.rows = visible(rows, shown)
    return img, labels


def _fade_labels(labels, damage, seen, nothing):
    "Labels of a picture of which only a part shows through."
    state = grade(damage, seen, nothing)
    rows = [[min(r[0], state), *r[1:]] for r in labels.rows]
    labels.rows = [r for r in rows if r[0] != NOTHING]
    unclear = state != SEEN
    for i in (0, 1):
        if unclear and labels.length[i]:
            letters = LETTERS.index("?") if state == NOTHING else -1
            labels.letters[i] = [letters] * labels.length[i] + [-1] * (4 - labels.length[i])
            labels.hue[i] = -1
    return labels


def mixed_pictures(rng, height, width):
    "The average of several pictures: what a model draws in one step if it knows nothing."
    weights = np.array([rng.expovariate(1) for _ in range(rng.randint(2, 4))])
    weights = np.sort(weights / weights.sum())[::-1]
    parts = [drawn(rng, height, width) for _ in weights]
    total = sum(w * img for w, (img, _) in zip(weights, parts))
    first = parts[0][1]
    both = [(w, labels) for w, (_, labels) in zip(weights, parts)]
    rows = sum((_fade_labels(labels, 1 - w, 0.2, 0.45).rows for w, labels in both), [])
    out = Labels(rows, first.setting if weights[0] > 0.6 else -1)
    for i in (0, 1):
        boards = [(w, labels) for w, labels in both if labels.length[i]]
        if boards:
            w, labels = boards[0]
            out.length[i] = labels.length[i] if w > 0.75 else -1
            out.hue[i], out.letters[i] = labels.hue[i], labels.letters[i]
            if out.length[i] < 0:
                out.hue[i], out.letters[i] = -1, [-1] * 4
    return total, out


def look_anew(thing, rng, spread, height, width):
    "The same kind and colour with another look, `spread` pixels away or so."
    x, y = thing.x + rng.gauss(0, spread) / width, thing.y + rng.gauss(0, spread) / height
    side = thing.side if thing.kind == "ring" else round(rng.uniform(*SIZES[thing.size]))
    return replace(thing, x=x, y=y, side=side, **_look(thing.kind, rng))


def _canvas(thing, height, width):
    "A thing alone in its place, as a layer of the picture's middle size: [4, H, W]."
    y, x, n = corner(thing, height, width)
    out = np.zeros((4, height, width), np.float32)
    look = layer(thing.kind, thing.color, n, thing.art, thing.mirror, 2 * round(thing.turn / 2))
    out[:, y : y + n, x : x + n] = look
    return out


def mixed_looks(rng, height, width):
    """The average of pictures with the same kinds, colours and signs: what a model draws in one
    step if it has read its caption."""
    things, setting, sign, _ = some_scene(rng, height, width)
    k, spread = rng.randint(2, 12), rng.choice([0.5, rng.uniform(0, 5)])
    total, labels = 0, Labels()
    looks = [[look_anew(t, rng, spread, height, width) for t in things] for _ in range(k)]
    for new in looks:
        img = background(setting, height, width, rng.randrange(2**31))
        rows, shown = place(img, new, 0, rng)
        if sign:
            labels = Labels()
            write(img, sign, 0, rng, labels)
        total = total + img / k
    labels.setting = SETTINGS.index(setting)
    for row, alike in zip(rows, zip(*looks)):
        top, left = (max(0, round(row[j] - 0.75 * row[4])) for j in (3, 2))
        window = (
            slice(None),
            slice(top, top + round(1.5 * row[4])),
            slice(left, left + round(1.5 * row[4])),
        )
        layers = [_canvas(t, height, width)[window] for t in alike]
        row[0] = _grade_average(alike[0].kind, layers)
        row[2:5] = np.mean([_box(t, height, width) for t in alike], 0)
        if len({(t.art, t.mirror) for t in alike}) > 1 and row[0] == SEEN:
            row[0] = UNCLEAR  # its look is none in particular
    labels.rows = visible(rows, shown)
    return total, labels


def _box(thing, height, width):
    "Centre (x, y) and side of a thing in pixels."
    y, x, n = corner(thing, height, width)
    return x + n / 2, y + n / 2, n


def _coarse(rng, height, width):
    "A picture that went through too small a space."
    img, labels = drawn(rng, height, width)
    factor = rng.uniform(1.2, 7)
    small = ndimage.zoom(img, (1 / factor, 1 / factor, 1), order=1, grid_mode=True, mode="nearest")
    back = (height / small.shape[0], width / small.shape[1], 1)
    img = ndimage.zoom(
        ndimage.gaussian_filter(small, (0.3, 0.3, 0)), back, order=1, grid_mode=True, mode="nearest"
    )
    rows = [[min(r[0], grade(factor / r[4], 1 / 8, 1 / 4.5)), *r[1:]] for r in labels.rows]
    labels.rows = [r for r in rows if r[0] != NOTHING]
    state = grade(factor, 2.2, 3.6)
    if state != SEEN:
        kept = labels.rows
        _fade_labels(labels, 0 if state == SEEN else 0.5 if state == UNCLEAR else 1, 0.4, 0.6)
        labels.rows = kept
    return img, labels


def training_picture(rng, height=64, width=64):
    "(picture [H, W, 3] uint8, labels [MOST * 9 + 13]) of one of the ways to go right or wrong."
    how = rng.choices(["good", "flawed", "mixed", "looks", "coarse"], [50, 30, 6, 6, 8])[0]
    if how in ("good", "flawed"):
        img, labels = drawn(rng, height, width, 0.5 if how == "flawed" else 0)
    else:
        make = {"mixed": mixed_pictures, "looks": mixed_looks, "coarse": _coarse}[how]
        img, labels = make(rng, height, width)
    return img.round().clip(0, 255).astype(np.uint8), labels.array()
