"""Scenes as lists of facts, so that captions, rewards and scores can be exact."""
import itertools
import math
import zlib
from dataclasses import dataclass, replace

from lens_ref.core.config import DataError

# ---- what there is
KINDS = {
    "astronaut": "human",
    "cat": "animal",
    "dog": "animal",
    "fish": "animal",
    "butterfly": "animal",
    "cactus": "plant",
    "tulip": "plant",
    "mushroom": "plant",
    "tree": "plant",
    "house": "scene",
    "castle": "scene",
    "apple": "food",
    "carrot": "food",
    "balloon": "event",
    "gift": "event",
    "umbrella": "object",
    "teapot": "object",
    "car": "object",
    "ghost": "fictional world",
    "robot": "fictional world",
    "bell": "UI and graphic design",
    "heart": "UI and graphic design",
    "star": "UI and graphic design",
    "ring": "UI and graphic design",
    "sign": "text",
}
SPRITES = [k for k in KINDS if k not in ("ring", "sign")]
# How many artworks there are of a kind, in the order of the tiles in the artwork file.
ARTWORKS = {
    "astronaut": 2,
    "robot": 2,
    "ghost": 2,
    "cat": 4,
    "dog": 4,
    "fish": 4,
    "butterfly": 2,
    "cactus": 2,
    "tulip": 2,
    "mushroom": 2,
    "tree": 4,
    "house": 4,
    "castle": 2,
    "apple": 4,
    "carrot": 2,
    "balloon": 2,
    "gift": 2,
    "umbrella": 3,
    "teapot": 2,
    "car": 4,
    "bell": 2,
    "heart": 2,
    "star": 2,
    "ring": 1,
}
UPRIGHT = ("cactus", "tree", "house", "castle", "car", "tulip", "mushroom")  # hardly lean
COLORS = {
    "red": (225, 35, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 215, 30),
    "green": (45, 165, 60),
    "cyan": (30, 200, 215),
    "blue": (45, 85, 225),
    "purple": (135, 50, 190),
    "pink": (250, 120, 185),
}
SIZES = {"small": (17, 19), "medium": (22, 25), "large": (29, 34)}  # pixels of a 64-pixel picture
RING = 46  # a ring has one size
SETTINGS = ("meadow", "beach", "snow", "night", "sea", "room", "city", "studio")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")
SKILLS = ("single", "two", "counting", "colors", "position", "attribute", "text")


@dataclass(frozen=True)
class Thing:
    """One object. `x`, `y`: its centre as fractions of width and height; things later in a scene
    are drawn in front. `side`: of its square in pixels of a 64-pixel picture (None: the middle of
    what its size allows). `art`: which artwork of its kind; `mirror`: turned left to right;
    `turn`: degrees anticlockwise."""

    kind: str
    color: str
    size: str
    x: float
    y: float
    side: float | None = None
    art: int = 0
    mirror: bool = False
    turn: float = 0.0


@dataclass(frozen=True)
class Sign:
    """A word of 2 to 4 capital letters on a board across the top or the bottom of the picture.
    `board`: which of the kinds of board."""

    word: str
    color: str
    place: str  # "top" or "bottom"
    board: int = 0


@dataclass(frozen=True)
class Scene:
    """Everything that is true of a picture. `backdrop` numbers the light, the weather and what
    stands about in the setting; no caption mentions these."""

    things: tuple
    setting: str
    sign: Sign | None = None
    backdrop: int = 0

    @property
    def groups(self) -> dict:
        "Things by kind, in order: {kind: [Thing, ...]}."
        out = {}
        for t in self.things:
            out.setdefault(t.kind, []).append(t)
        return out

    @property
    def bunches(self) -> dict:
        "Things by kind and colour, in order: {(kind, color): [Thing, ...]}."
        out = {}
        for t in self.things:
            out.setdefault((t.kind, t.color), []).append(t)
        return out


# ---- geometry
def extent(thing: Thing) -> float:
    "Side of an object's square in pixels of a 64-pixel picture."
    if thing.kind == "ring":
        return RING
    low, high = SIZES[thing.size]
    return (low + high) / 2 if thing.side is None else thing.side


def _third(v: float) -> int:
    if v < 0.375:
        return 0
    return 2 if v > 0.625 else 1


def place_name(x: float, y: float) -> tuple[str, str]:
    """Name of a position on a 3 by 3 grid: (row, column), e.g. ('top', 'left') or
    ('middle', 'center')."""
    return ROWS[_third(y)], COLUMNS[_third(x)]


def unit(height: int, width: int) -> float:
    """Pixels per world unit: 1 where the shorter side has 64 to 128 pixels, so that a larger
    picture has room for more. Outside, the shorter side scales all there is."""
    side = min(height, width)
    return max(min(side, 64) / 64, side / 128)


def stretch(height: int, width: int) -> tuple[float, float]:
    """Size of a picture in world units, as (down, across) multiples of the 64 by 64 picture:
    each at least 1."""
    u = 64 * unit(height, width)
    return height / u, width / u


def relation(a: Thing, b: Thing, height: int = 64, width: int = 64) -> str | None:
    """How thing `a` lies to thing `b` in a picture of this size: inside, around, overlapping,
    left of, right of, above or below; None when it is too close to call."""
    down, across = stretch(height, width)
    dx, dy = (a.x - b.x) * 64, (a.y - b.y) * 64
    apart = dx * across, dy * down
    if "ring" in (a.kind, b.kind) and math.hypot(*apart) < 9:
        return "inside" if b.kind == "ring" else "around"
    reach = (extent(a) + extent(b)) / 2
    if max(map(abs, apart)) < 0.7 * reach:
        return "overlapping"
    if abs(dx) >= abs(dy) + 6:
        return "left of" if dx < 0 else "right of"
    if abs(dy) >= abs(dx) + 6:
        return "above" if dy < 0 else "below"
    return None


def related_pairs(scene: Scene) -> list[tuple]:
    """(a, relation, b) of the things that are the only one of their kind, each pair once, if it
    has one."""
    single = [group[0] for group in scene.groups.values() if len(group) == 1]
    pairs = [(a, relation(a, b), b) for i, a in enumerate(single) for b in single[i + 1 :]]
    return [(a, r, b) for a, r, b in pairs if r]


CLOSE = ("inside", "around", "overlapping")


def close_together(scene: Scene) -> bool:
    "Is a pair of things inside or overlapping? Then places on the grid say little."
    things = scene.things
    pairs = [(a, b) for i, a in enumerate(things) for b in things[i + 1 :]]
    return any(relation(a, b) in CLOSE for a, b in pairs)


# ---- facts
@dataclass(frozen=True)
class Fact:
    """One checkable statement. `what` and its `args`:

    object (kind) · count (kind, n) or, of one colour, (kind, n, color) · color (kind, color, ...):
    all the colours of a kind · size (kind, size) · place (kind, row, column) · relation (kind,
    relation, kind) · setting (setting) · word (word) · word color (color) · word place (place)."""

    what: str
    args: tuple

    def __str__(self):
        return f"{self.what}: {' '.join(map(str, self.args))}"


def _kind_facts(kind, group):
    colors = dict.fromkeys(t.color for t in group)
    out = [
        Fact("object", (kind,)),
        Fact("count", (kind, len(group))),
        Fact("color", (kind, *sorted(colors))),
    ]
    if len(colors) > 1:
        out += [Fact("count", (kind, sum(t.color == c for t in group), c)) for c in colors]
    return out if kind == "ring" else [*out, Fact("size", (kind, group[0].size))]


def scene_facts(scene: Scene) -> list[Fact]:
    "All facts of a scene. Relations and places only of things that are the only one of their kind."
    out = [Fact("setting", (scene.setting,))]
    for kind, group in scene.groups.items():
        out += _kind_facts(kind, group)
    pairs = related_pairs(scene)
    out += [Fact("relation", (a.kind, r, b.kind)) for a, r, b in pairs]
    if not close_together(scene):
        single = [g[0] for g in scene.groups.values() if len(g) == 1]
        out += [Fact("place", (t.kind, *place_name(t.x, t.y))) for t in single]
    if scene.sign:
        out.append(Fact("word", (scene.sign.word,)))
        out.append(Fact("word color", (scene.sign.color,)))
        out.append(Fact("word place", (scene.sign.place,)))
    return out


# ---- what training never meets
def _hash(*words) -> int:
    return zlib.crc32(" ".join(map(str, words)).encode())


def _layouts(n):
    "All sets of n cells of the 3 by 3 grid that lie two rows or columns apart."
    cells = list(itertools.product(range(3), range(3)))
    apart = lambda a, b: max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 2
    sets = itertools.combinations(cells, n)
    return [s for s in sets if all(apart(a, b) for a, b in itertools.combinations(s, 2))]


LAYOUTS = {n: _layouts(n) for n in (1, 2, 3, 4)}
# Of each kind one colour in ten: kind i is never drawn in colour 3i (every other kind: in none).
HELD_OUT_PAIRS = frozenset(
    (kind, list(COLORS)[(3 * i + i // 8) % 8]) for i, kind in enumerate(ARTWORKS) if i % 5 != 4
)
HELD_OUT_LAYOUTS = frozenset(
    [((0, 0), (1, 2)), ((0, 2), (2, 1)), ((1, 0), (2, 2)), ((0, 1), (2, 0))]
    + [((0, 0), (0, 2), (2, 1))]
)


def signature(scene: Scene) -> str:
    "What a full description fixes: kinds, colours, sizes, places, setting and sign."
    things = sorted((t.kind, t.color, t.size, *place_name(t.x, t.y)) for t in scene.things)
    sign = scene.sign and (scene.sign.word, scene.sign.color, scene.sign.place)
    return f"{things} {scene.setting} {sign}"


def novelties(scene: Scene) -> set:
    "What training never meets in a scene: of 'pair', 'layout', 'sign'; and 'scene' by its signature."
    out = set()
    if any((t.kind, t.color) in HELD_OUT_PAIRS for t in scene.things):
        out.add("pair")
    cells = sorted((_third(t.y), _third(t.x)) for t in scene.things)
    if tuple(cells) in HELD_OUT_LAYOUTS:
        out.add("layout")
    if scene.sign and scene.sign.word not in TRAIN_WORDS:
        out.add("sign")
    if _hash(signature(scene)) % 10 == 0:
        out.add("scene")
    return out


from .sign_words import TRAIN_WORDS, TEST_WORDS  # noqa: E402

# ---- drawing scenes at random
_MARGIN = 0.045  # how far a centre keeps from the border between two names of places


def _spot(row, column, side, rng):
    "A centre anywhere in a cell that its name allows and where a square of `side` is in the picture."
    half = side / 128
    ranges = [(half, 0.375 - _MARGIN), (0.375 + _MARGIN, 0.625 - _MARGIN), (0.625 + _MARGIN, 1 - half)]
    pick = lambda i: rng.uniform(min(ranges[i][0], sum(ranges[i]) / 2), max(ranges[i][1], sum(ranges[i]) / 2))
    return pick(column), pick(row)


def _apart(things):
    "Do none of the things touch, to the eye?"
    for a, b in itertools.combinations(things, 2):
        gap = max(abs(a.x - b.x), abs(a.y - b.y)) * 64
        if gap < 0.92 * (extent(a) + extent(b)) / 2:
            return False
    return True


def _look(kind, rng):
    "What a caption does not say of a thing: artwork, mirror, turn."
    lean = 4 if kind in UPRIGHT else 20
    return dict(
        art=rng.randrange(ARTWORKS[kind]), mirror=rng.random() < 0.5, turn=round(rng.uniform(-lean, lean))
    )


def _side(kind, size, rng):
    return RING if kind == "ring" else round(rng.uniform(*SIZES[size]), 1)


def _thing(kind, color, size, rng, at):
    "A thing with a look of its own; `at(side)` gives its centre."
    side = _side(kind, size, rng)
    x, y = at(side)
    return Thing(kind, color, size, round(x, 4), round(y, 4), side, **_look(kind, rng))


def _groups(counts, rng):
    """(kind, color, size) for each of the things, by groups of the given counts; kinds differ
    between groups. Within a group colours sometimes differ."""
    kinds = rng.sample(SPRITES, len(counts))
    out = []
    for kind, n in zip(kinds, counts):
        color, size = rng.choice(list(COLORS)), rng.choice(list(SIZES))
        colors = [color] * n
        if n > 1 and rng.random() < 0.25:
            other = rng.choice([c for c in COLORS if c != color])
            first = rng.randint(1, n - 1)
            colors = [color] * first + [other] * (n - first)
        out += [(kind, c, size) for c in colors]
    return out


def _spread(counts, rng, layout=None):
    "Things for groups of the given counts on one layout, none touching another."
    cells = list(layout or rng.choice(LAYOUTS[sum(counts)]))
    rng.shuffle(cells)
    what = _groups(counts, rng)
    for _ in range(100):
        things = tuple(
            _thing(*w, rng, lambda side: _spot(*cell, side, rng)) for w, cell in zip(what, cells)
        )
        if _apart(things):
            return things
    small = [(kind, color, "small") for kind, color, _ in what]
    return tuple(_thing(*w, rng, lambda side: _spot(*cell, side, rng)) for w, cell in zip(small, cells))


def _inside(rng):
    (kind, color, _), (_, ring_color, _) = _groups([1, 1], rng)
    x, y = (0.5 + rng.uniform(-8, 8) / 64 for _ in "xy")
    dx, dy = (rng.uniform(-4, 4) / 64 for _ in "xy")
    ring = _thing("ring", ring_color, "large", rng, lambda side: (x, y))
    return ring, _thing(kind, color, rng.choice(["small", "medium"]), rng, lambda s: (x + dx, y + dy))


def _overlapping(rng):
    "Two large things; the second, in front, hides about a quarter of the first."
    (kind_a, color_a, _), (kind_b, color_b, _) = _groups([1, 1], rng)
    angle, far = rng.uniform(0, 2 * math.pi), rng.uniform(17, 21) / 2
    dx, dy = far * math.cos(angle) / 64, far * math.sin(angle) / 64
    x, y = (0.5 + rng.uniform(-5, 5) / 64 for _ in "xy")
    behind = _thing(kind_a, color_a, "large", rng, lambda side: (x - dx, y - dy))
    return behind, _thing(kind_b, color_b, "large", rng, lambda side: (x + dx, y + dy))


_LINES = [s for s in LAYOUTS[2] if s[0][0] == s[1][0] or s[0][1] == s[1][1]]  # rows and columns


def _sign_things(place, rng):
    "Up to two things, clear of the board."
    y = (0.68, 0.3)[place == "bottom"]
    columns = [[], [1], [0, 2]][rng.choice([0, 1, 1, 2])]
    what = _groups([1] * len(columns), rng)
    rng.shuffle(columns)
    out = []
    for w, column in zip(what, columns):
        high = y + rng.uniform(-3, 3) / 64
        out.append(_thing(*w, rng, lambda side: (_spot(1, column, side, rng)[0], high)))
    return tuple(out)


_MIXES = [[1, 1], [1, 1, 1], [2, 1], [2, 2], [3, 1], [2, 1, 1], [1, 1, 1, 1]]  # sizes of groups


def _things(skill, rng):
    "The things of a scene without a sign."
    if skill in ("single", "colors"):
        return _spread([1], rng)
    if skill == "two":
        return _spread([1, 1], rng)
    if skill == "counting":
        return _spread([rng.choice([2, 3, 3, 4])], rng)
    if skill == "attribute":
        return _spread(rng.choice(_MIXES), rng)
    if skill == "overlapping":
        return _overlapping(rng)
    how = rng.choices([_inside, _overlapping, None], [2, 2, 6])[0]
    return how(rng) if how else _spread([1, 1], rng, rng.choice(_LINES))


def _draw(rng, skill, words):
    setting, backdrop = rng.choice(SETTINGS), rng.randrange(2**31)
    if skill != "text":
        return Scene(_things(skill, rng), setting, None, backdrop)
    place = rng.choice(["top", "bottom"])
    sign = Sign(rng.choice(words), rng.choice(list(COLORS)), place, rng.randrange(3))
    return Scene(_sign_things(place, rng), setting, sign, backdrop)


# What must be new in a scene, and what may be, by the part of the world that it is drawn from.
PARTS = {
    "train": (set(), set()),
    "test": ({"scene"}, {"scene"}),
    "pairs": ({"pair"}, {"pair", "scene"}),
    "layouts": ({"layout"}, {"layout", "scene"}),
    "signs": ({"sign"}, {"sign", "scene"}),
}


def sample_scene(rng, skill: str | None = None, part: str = "train") -> Scene:
    """A random scene that exercises `skill` (one of `SKILLS`); a random one by default.

    `rng` is a `random.Random`. `part`, one of `PARTS`: 'train' is what training sees, 'test' the
    scenes kept from it, the others what it never meets: pairs of kind and colour, layouts, words.
    Raises `DataError` for an unknown skill or part."""
    if skill not in (None, *SKILLS):
        raise DataError(f"skill: {skill!r} is unknown; choose one of {', '.join(SKILLS)}")
    if part not in PARTS:
        raise DataError(f"part: {part!r} is unknown; choose one of {', '.join(PARTS)}")
    must, may = PARTS[part]
    words = TEST_WORDS if part == "signs" else TRAIN_WORDS
    some = skill or rng.choices([*SKILLS, "overlapping"], [3, 4, 5, 2, 4, 5, 4, 3])[0]
    for _ in range(100_000):
        scene = _draw(rng, some, words)
        new = novelties(scene)
        if must <= new <= may:
            return scene
    raise DataError(f"part: {part!r} has no scenes for skill {some!r}")


def vary(scene: Scene, rng) -> Scene:
    """The same full description, drawn anew: artworks, mirroring, turns, exact sizes and places,
    and the backdrop change; kinds, colours, names of sizes and places, setting and sign do not."""
    close = close_together(scene)
    for _ in range(200):
        things = []
        for t in scene.things:
            row, column = _third(t.y), _third(t.x)
            at = (lambda side: (t.x, t.y)) if close or scene.sign else (lambda side: _spot(row, column, side, rng))
            things.append(_thing(t.kind, t.color, t.size, rng, at))
        new = replace(scene, things=tuple(things), backdrop=rng.randrange(2**31))
        if set(scene_facts(new)) == set(scene_facts(scene)) and (close or _apart(things)):
            return new
    return replace(scene, backdrop=rng.randrange(2**31))
