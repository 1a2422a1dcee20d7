"""From a scene to pixels: artworks in any colour, settings that never look the same twice, signs, and pictures of any shape."""
import functools
import math
import pathlib
import random
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lens_ref.core.config import DataError

from .world import ARTWORKS, CLOSE, COLORS, RING, SETTINGS, extent, relation, stretch, unit

ART = pathlib.Path(__file__).with_name("artwork.png")
TILE, ACROSS = 72, 12  # pixels of a tile, tiles in a row


def _ramp(light, mid=0.6):
    """Brightness [0, 1] -> (share of the colour, share of white): shadows fade to black,
    highlights to white."""
    shade = np.clip(0.18 + 0.82 * light / mid, 0, 1)
    gloss = 0.85 * np.clip((light - mid) / (1 - mid), 0, 1)
    return shade * (1 - gloss), gloss


def _ring_tile(n=96):
    "A shaded hoop as brightness and opacity planes [n, n]."
    y, x = np.mgrid[:n, :n] / (n - 1) * 2 - 1
    r = np.hypot(x, y)
    tube = 1 - np.abs(r - 0.88) / 0.12
    light = 0.56 + 0.25 * (-y - x) * 0.5 * np.clip(tube, 0, 1)
    return light, np.clip(tube * 8, 0, 1)


@functools.cache
def _tiles():
    "{(kind, art): (brightness, opacity)}, each a square of values in [0, 1]."
    sheet = np.asarray(Image.open(ART)).astype(np.float32) / 255
    names = [(kind, i) for kind, n in ARTWORKS.items() if kind != "ring" for i in range(n)]
    tiles = {("ring", 0): _ring_tile()}
    for i, name in enumerate(names):
        y, x = i // ACROSS * TILE, i % ACROSS * TILE
        tile = sheet[y : y + TILE, x : x + TILE]
        tiles[name] = tile[..., 0], tile[..., 1]
    return tiles


@functools.cache
def _planes(kind, art, mirror):
    "Planes (a, b, alpha) of an artwork as float images, premultiplied by opacity."
    light, alpha = _tiles()[kind, art]
    a, b = _ramp(light)
    planes = a * alpha, b * alpha, alpha
    flip = (lambda p: p[:, ::-1]) if mirror else (lambda p: p)
    return tuple(Image.fromarray(np.ascontiguousarray(flip(p), dtype=np.float32)) for p in planes)


@functools.lru_cache(30_000)
def sprite(kind: str, pixels: int, art: int = 0, mirror: bool = False, turn: int = 0) -> np.ndarray:
    """Planes (a, b, alpha) [3, pixels, pixels] float32 in [0, 1], premultiplied by opacity: a
    picture behind it becomes `(1 - alpha) * picture + a * color + b * white`."""
    out = []
    for plane in _planes(kind, art, mirror):
        if turn:
            plane = plane.rotate(turn, Image.Resampling.BICUBIC)
        how = Image.Resampling.BOX if pixels < plane.width / 2 else Image.Resampling.BILINEAR
        out.append(np.asarray(plane.resize((pixels, pixels), how)))
    return np.stack(out)


# ---- settings
def _between(a, b, rng):
    "A colour somewhere between two."
    t = rng.random()
    return tuple(round((1 - t) * x + t * y) for x, y in zip(a, b))


_SKIES = {  # top and bottom of the sky, each between two colours
    "day": ((176, 212, 240), (206, 226, 240), (226, 238, 242), (240, 244, 244)),
    "grey": ((190, 198, 208), (212, 216, 222), (220, 226, 232), (236, 238, 240)),
    "warm": ((206, 206, 222), (226, 206, 206), (246, 226, 204), (250, 236, 214)),
}
_GROUNDS = {  # between two colours; heights of the horizon
    "meadow": ((160, 196, 132), (196, 214, 164), 0.5, 0.72),
    "beach": ((232, 212, 168), (246, 232, 204), 0.5, 0.66),
    "snow": ((240, 244, 248), (252, 252, 254), 0.48, 0.7),
    "night": ((16, 20, 28), (38, 40, 52), 0.7, 0.88),
    "sea": ((176, 168, 136), (206, 198, 164), 0.78, 0.92),
    "room": ((150, 124, 102), (188, 160, 136), 0.64, 0.8),
    "city": ((112, 112, 118), (144, 140, 142), 0.74, 0.88),
    "studio": ((188, 188, 194), (214, 212, 212), 0.6, 0.86),
}


class _Canvas:
    "A drawing whose sizes are in units of 1/64 of the small picture; x and y are fractions."

    def __init__(self, height, width):
        self.h, self.w, self.u = 2 * height, 2 * width, 2 * unit(height, width)
        self.image = None

    def fill(self, top, low, ground, horizon):
        t = np.linspace(0, 1, self.h)[:, None]
        rows = (1 - t) * np.array(top) + t * np.array(low)
        cut = round(self.h * horizon)
        t = np.linspace(0, 1, self.h - cut)[:, None]
        rows[cut:] = np.array(ground) * (1 - 0.12 * t)
        column = Image.fromarray(rows[:, None].clip(0, 255).astype(np.uint8))
        self.image = column.resize((self.w, self.h), Image.Resampling.NEAREST)
        self.draw = ImageDraw.Draw(self.image)

    def oval(self, x, y, across, down, color):
        x, y, a, d = x * self.w, y * self.h, across * self.u, down * self.u
        self.draw.ellipse([x - a, y - d, x + a, y + d], fill=color)

    def box(self, left, top, right, bottom, color):
        if right > left and bottom > top:
            edges = left * self.w, top * self.h, right * self.w - 1, bottom * self.h - 1
            self.draw.rectangle([round(v) for v in edges], fill=color)

    def line(self, points, thick, color):
        xy = [(x * self.w, y * self.h) for x, y in points]
        self.draw.line(xy, fill=color, width=max(1, round(thick * self.u)))

    def finish(self):
        return np.asarray(self.image.reduce(2)).astype(np.float32)


def _sky(rng, only=None):
    a, b, c, d = _SKIES[only or rng.choice(list(_SKIES))]
    return _between(a, b, rng), _between(c, d, rng)


def _clouds(c, rng, horizon, most=4):
    white = _between((236, 238, 242), (255, 255, 255), rng)
    for _ in range(rng.randint(0, most)):
        x, y, r = rng.random(), rng.uniform(0.03, 0.5 * horizon), rng.uniform(2, 3.6)
        for dx in (-1.1, 0, 1.1):
            c.oval(x + dx * r / 64, y + rng.uniform(-0.6, 0.6) / 64, r, 0.75 * r, white)


def _sun(c, rng, chance=0.4):
    if rng.random() < chance:
        color = _between((252, 240, 190), (255, 250, 226), rng)
        c.oval(rng.random(), rng.uniform(0.05, 0.2), *[rng.uniform(3, 5)] * 2, color)


def _hills(c, rng, horizon, color, most=2):
    for _ in range(rng.randint(0, most)):
        shade = rng.uniform(0.86, 0.97)
        high = rng.uniform(4, 10)
        tone = tuple(round(v * shade) for v in color)
        c.oval(rng.random(), horizon, rng.uniform(14, 30), high, tone)


def _birds(c, rng, chance=0.35):
    if rng.random() < chance:
        x, y = rng.random(), rng.uniform(0.06, 0.3)
        for i in range(rng.randint(1, 3)):
            dx, dy = x + 0.07 * i, y + rng.uniform(-0.03, 0.03)
            wing = [(dx - 0.025, dy - 0.014), (dx, dy), (dx + 0.025, dy - 0.014)]
            c.line(wing, 0.6, (110, 116, 126))


def _specks(c, rng, count, low, high, radius, color):
    for _ in range(rng.randint(*count)):
        r = rng.uniform(*radius)
        c.oval(rng.random(), rng.uniform(low, high), r, r, color)


def _meadow(c, rng, ground, horizon):
    c.fill(*_sky(rng), ground, horizon)
    _sun(c, rng)
    _clouds(c, rng, horizon)
    _hills(c, rng, horizon, ground)
    c.box(0, horizon, 1, 1, ground)
    for _ in range(rng.randint(0, 3)):  # bushes
        green = _between((132, 172, 112), (156, 190, 132), rng)
        c.oval(rng.random(), horizon, rng.uniform(2, 5), rng.uniform(1.5, 3), green)
    white = _between((250, 250, 240), (250, 236, 200), rng)
    _specks(c, rng, (0, 9), horizon + 0.04, 1, (0.5, 0.9), white)
    _birds(c, rng)


def _beach(c, rng, ground, horizon):
    c.fill(*_sky(rng), ground, horizon)
    _sun(c, rng, 0.6)
    _clouds(c, rng, horizon, 3)
    sea = _between((120, 180, 200), (150, 204, 214), rng)
    top = horizon - rng.uniform(0.06, 0.14)
    c.box(0, top, 1, horizon, sea)
    if rng.random() < 0.4:  # a sail far away
        x, high = rng.random(), rng.uniform(0.05, 0.09)
        c.draw.polygon(
            [(x * c.w, (top - high) * c.h), (x * c.w, top * c.h), ((x + 0.06) * c.w, top * c.h)],
            fill=(250, 250, 250),
        )
    foam = _between((240, 246, 246), (255, 255, 255), rng)
    c.box(0, horizon - 0.012, 1, horizon + 0.006, foam)
    _specks(c, rng, (0, 8), horizon + 0.05, 1, (0.4, 1.2), _between((206, 184, 142), (250, 244, 230), rng))
    _birds(c, rng)


def _snow(c, rng, ground, horizon):
    c.fill(*_sky(rng, rng.choice(["grey", "grey", "day"])), ground, horizon)
    _hills(c, rng, horizon, (226, 232, 240), 3)
    c.box(0, horizon, 1, 1, ground)
    for _ in range(rng.randint(0, 3)):
        c.oval(rng.random(), rng.uniform(horizon, 1), rng.uniform(4, 9), rng.uniform(1, 2.5), (228, 234, 242))
    _specks(c, rng, (8, 34), 0, 1, (0.5, 1.0), (255, 255, 255))


def _night(c, rng, ground, horizon):
    top, low = _between((10, 12, 34), (24, 22, 56), rng), _between((34, 36, 72), (58, 48, 90), rng)
    c.fill(top, low, ground, horizon)
    _specks(c, rng, (8, 26), 0, horizon, (0.35, 0.75), _between((226, 226, 206), (250, 246, 226), rng))
    if rng.random() < 0.85:  # full or crescent
        x, y, r = rng.uniform(0.08, 0.92), rng.uniform(0.07, 0.22), rng.uniform(2.6, 4.4)
        c.oval(x, y, r, r, _between((232, 228, 196), (250, 246, 224), rng))
        if rng.random() < 0.4:
            c.oval(x + rng.choice([-1, 1]) * 0.5 * r / 64, y - 0.004, r, r, tuple(round(v) for v in top))
    _hills(c, rng, horizon, (30, 34, 48), 3)
    c.box(0, horizon, 1, 1, ground)


def _sea(c, rng, ground, horizon):
    top, low = _between((128, 190, 206), (170, 210, 214), rng), _between((70, 124, 152), (100, 150, 170), rng)
    c.fill(top, low, ground, horizon)
    for _ in range(rng.randint(0, 5)):  # weeds
        x, high = rng.random(), rng.uniform(0.08, 0.22)
        weed = _between((76, 128, 110), (110, 150, 120), rng)
        bend = [(x + 0.015 * math.sin(2.2 * i + x * 9), horizon + 0.03 - high * i / 4) for i in range(5)]
        c.line(bend, rng.uniform(0.8, 1.4), weed)
    for _ in range(rng.randint(0, 3)):  # stones
        stone = _between((120, 130, 132), (150, 152, 146), rng)
        c.oval(rng.random(), horizon + 0.02, rng.uniform(2, 5), rng.uniform(1.2, 2.6), stone)
    _specks(c, rng, (3, 14), 0, horizon - 0.05, (0.5, 1.7), _between((196, 224, 228), (222, 240, 242), rng))


def _room(c, rng, ground, horizon):
    walls = [((232, 220, 204), (240, 230, 216)), ((214, 222, 228), (228, 232, 236))]
    walls += [((222, 228, 214), (234, 238, 226)), ((236, 220, 222), (242, 230, 230))]
    wall = _between(*rng.choice(walls), rng)
    c.fill(wall, tuple(round(0.96 * v) for v in wall), ground, horizon)
    c.box(0, horizon - 0.02, 1, horizon, (246, 242, 236))
    what, x, y = rng.choice(["window", "window", "picture", "none"]), rng.uniform(0.05, 0.7), rng.uniform(0.04, 0.14)
    if what == "window":
        w, h = rng.uniform(0.18, 0.28), rng.uniform(0.22, 0.32)
        c.box(x - 0.015, y - 0.015, x + w + 0.015, y + h + 0.015, (250, 248, 244))
        c.box(x, y, x + w, y + h, _between((186, 214, 232), (222, 234, 236), rng))
        c.box(x + w / 2 - 0.01, y, x + w / 2 + 0.01, y + h, (250, 248, 244))
    if what == "picture":
        w, h = rng.uniform(0.14, 0.26), rng.uniform(0.12, 0.2)
        c.box(x, y, x + w, y + h, _between((150, 130, 110), (180, 160, 140), rng))
        c.box(x + 0.02, y + 0.02, x + w - 0.02, y + h - 0.02, _between((200, 206, 204), (226, 222, 210), rng))
    if rng.random() < 0.5:  # a rug
        rug = _between((176, 150, 150), (200, 190, 170), rng)
        c.oval(rng.uniform(0.2, 0.8), (1 + horizon) / 2 + 0.03, rng.uniform(14, 26), 3.5, rug)
    else:  # boards
        for i in range(1, 3):
            y = horizon + (1 - horizon) * i / 3
            c.box(0, y, 1, y + 0.01, tuple(round(0.9 * v) for v in ground))


def _city(c, rng, ground, horizon):
    c.fill(*_sky(rng), ground, horizon)
    x = -rng.uniform(0, 0.1)
    while x < 1:
        wide, high = rng.uniform(0.09, 0.2), rng.uniform(0.12, 0.56)
        tone = _between((168, 168, 180), (200, 196, 200), rng)
        c.box(x, horizon - high, x + wide - 0.008, horizon, tone)
        if rng.random() < 0.6:
            light = tuple(min(255, v + 24) for v in tone)
            for i in range(1, int(high / 0.09)):
                c.box(x + 0.25 * wide, horizon - high + 0.09 * i - 0.05, x + 0.7 * wide, horizon - high + 0.09 * i - 0.02, light)
        x += wide
    if rng.random() < 0.6:
        y, start = (1 + horizon) / 2, rng.uniform(-0.2, 0)
        for i in range(6):
            c.box(start + 0.25 * i, y, start + 0.25 * i + 0.13, y + 0.018, (214, 212, 204))


def _studio(c, rng, ground, horizon):
    wall = _between((210, 210, 214), (234, 232, 234), rng)
    c.fill(tuple(round(0.95 * v) for v in wall), wall, ground, horizon)
    if rng.random() < 0.5:
        glow = tuple(min(255, v + 12) for v in wall)
        c.oval(rng.uniform(0.25, 0.75), rng.uniform(0.2, 0.5), *[rng.uniform(16, 26)] * 2, glow)
        c.box(0, horizon, 1, 1, ground)
    if rng.random() < 0.4:
        c.oval(rng.uniform(0.35, 0.65), (1 + horizon) / 2, rng.uniform(18, 28), 5, tuple(round(0.94 * v) for v in ground))


_PAINTERS = dict(zip(SETTINGS, (_meadow, _beach, _snow, _night, _sea, _room, _city, _studio)))


def background(setting: str, height: int = 64, width: int = 64, backdrop: int = 0) -> np.ndarray:
    """The empty setting, [height, width, 3] float32 in [0, 255]; `backdrop` numbers its light, its
    weather and what stands about. Raises `DataError` for an unknown one."""
    if setting not in _PAINTERS:
        raise DataError(f"setting: {setting!r} is unknown; choose one of {', '.join(SETTINGS)}")
    rng, canvas = random.Random(f"{setting} {backdrop}"), _Canvas(height, width)
    a, b, low, high = _GROUNDS[setting]
    ground, horizon = _between(a, b, rng), rng.uniform(low, high)
    _PAINTERS[setting](canvas, rng, ground, horizon)
    light = rng.uniform(0.9, 1.03) + np.array([1, 0, -1]) * rng.uniform(-0.03, 0.03)
    return (canvas.finish() * light).clip(0, 255).astype(np.float32)


# ---- pictures of other shapes
def grid_line(i: float, across: float) -> int:
    """Where line `i` of 16 world units (0 to 4 in the small picture) lies in one `across` times as
    wide, as a whole number of lines. Halves go outwards."""
    at, middle = i * across, 2 * across
    return math.ceil(at - 0.5) if at <= middle else math.floor(at + 0.5)


def moved(v: float, across: float) -> float:
    """A position (fraction of the small picture's side) in a picture `across` times as wide, in
    world units: its line of the grid of 16 moves, the distance to it stays."""
    i = round(v * 4)
    return 16 * grid_line(i, across) + 64 * v - 16 * i


def _mean(things, axis):
    return sum(getattr(t, axis) for t in things) / len(things)


def spaced(things: tuple, height: int, width: int) -> tuple:
    """The things as they lie in a picture of this size: those that overlap or surround one another
    move together."""
    down, across = stretch(height, width)
    if down == across == 1:
        return tuple(things)
    out = []
    for t in things:
        near = [o for o in things if o is t or relation(t, o) in CLOSE]
        x, y = _mean(near, "x"), _mean(near, "y")
        new_x = (moved(x, across) / 64 + t.x - x) / across
        new_y = (moved(y, down) / 64 + t.y - y) / down
        out.append(replace(t, x=new_x, y=new_y))
    return tuple(out)


# ---- signs
BOARDS = (((30, 32, 48), (250, 250, 250)), ((52, 40, 34), (206, 170, 120)), ((20, 44, 40), (190, 196, 200)))
SLOT = 14  # width of a letter in a 64-pixel picture


def _font(pixels):
    import matplotlib

    path = pathlib.Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSansMono-Bold.ttf"
    return ImageFont.truetype(str(path), pixels)


@functools.cache
def letter(char: str, pixels: int) -> np.ndarray:
    "Coverage of one capital letter, [rows, pixels] float32 in [0, 1], rows = 16/14 of pixels."
    rows, k = round(pixels * 16 / SLOT), 8
    im = Image.new("L", (pixels * k, rows * k))
    middle = (pixels * k / 2, rows * k / 2)
    ImageDraw.Draw(im).text(middle, char, 255, _font(int(pixels * k * 1.32)), anchor="mm")
    return np.asarray(im.resize((pixels, rows), Image.Resampling.BOX)).astype(np.float32) / 255


def board_box(place: str, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the sign's board in pixels: in the middle, on the grid of 16 as
    things are."""
    u = unit(height, width)
    h, w = round(18 * u), round(62 * u)
    top = round(u) if place == "top" else height - h - round(u)
    left = round(u * (16 * grid_line(1, 2 * stretch(height, width)[1] - 2) + 1))
    return top, left, top + h, left + w


def letter_boxes(n: int, place: str, height: int, width: int) -> tuple[list, int]:
    "Corners (top, left) of `n` letter slots and the slot's width in pixels."
    top, left, bottom, right = board_box(place, height, width)
    p = round(SLOT * unit(height, width))
    rows = round(p * 16 / SLOT)
    x0 = (left + right - n * p) // 2
    return [((top + bottom - rows) // 2, x0 + i * p) for i in range(n)], p


def draw_board(img: np.ndarray, place: str, board: int = 0):
    "An empty framed board on `img` [H, W, 3] float, in place."
    top, left, bottom, right = board_box(place, *img.shape[:2])
    e = max(1, round(unit(*img.shape[:2])))
    img[top:bottom, left:right] = BOARDS[board][1]
    img[top + e : bottom - e, left + e : right - e] = BOARDS[board][0]


def draw_sign(img: np.ndarray, sign):
    "A board and its word on `img` [H, W, 3] float, in place."
    h, w = img.shape[:2]
    draw_board(img, sign.place, sign.board)
    boxes, p = letter_boxes(len(sign.word), sign.place, h, w)
    for c, (y, x) in zip(sign.word, boxes):
        m = letter(c, p)[..., None]  # [rows, p, 1]
        slot = img[y : y + m.shape[0], x : x + p]
        slot[:] = (1 - m) * slot + m * np.array(COLORS[sign.color], np.float32)


# ---- all of it
def corner(thing, height: int, width: int) -> tuple[int, int, int]:
    "(top, left, side) of a thing's square in pixels, kept inside the picture."
    n = round(extent(thing) * unit(height, width))
    y, x = round(thing.y * height - n / 2), round(thing.x * width - n / 2)
    return max(0, min(y, height - n)), max(0, min(x, width - n)), n


def paste(img: np.ndarray, thing):
    "Draw one thing onto `img` [H, W, 3] float, in place."
    y, x, n = corner(thing, *img.shape[:2])
    a, b, alpha = sprite(thing.kind, n, thing.art, thing.mirror, round(thing.turn))[..., None]
    spot = img[y : y + n, x : x + n]
    spot *= 1 - alpha
    spot += a * np.array(COLORS[thing.color], np.float32) + b * 255


def render(scene, height: int = 64, width: int = 64) -> np.ndarray:
    """Draw a scene: [height, width, 3] uint8. Sides must be multiples of 16 (one token of the model
    covers 16 by 16 pixels). Raises `DataError` naming the offending side."""
    for name, v in (("height", height), ("width", width)):
        if v < 32 or v % 16:
            near = max(32, round(v / 16) * 16)
            raise DataError(f"{name}: {v} is not a multiple of 16 of at least 32; try {near}")
    img = background(scene.setting, height, width, scene.backdrop)
    for t in spaced(scene.things, height, width):
        paste(img, t)
    if scene.sign:
        draw_sign(img, scene.sign)
    return img.round().clip(0, 255).astype(np.uint8)
