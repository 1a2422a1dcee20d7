"""What a Chinese or Japanese caption tells, and in which order; the words are in zh and ja."""
from itertools import accumulate

from lens_ref.core.config import DataError

from .world import Fact, close_together, place_name, related_pairs, scene_facts

# Our choice: the kinds of fact that decide whether a picture passes a prompt of a skill.
NEEDED = {
    "single": ("object",),
    "two": ("object",),
    "counting": ("count",),
    "colors": ("color",),
    "position": ("object", "relation"),
    "attribute": ("object", "color"),
    "text": ("word",),
}
FLIPPED = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "inside": "around",
    "around": "inside",
    "overlapping": "overlapping",
}
_WEIGHTS = {n: list(accumulate(1 / (i + 1) for i in range(n))) for n in range(1, 40)}


def choose(options, rng):
    "One of a sequence, the first most often: weights 1, 1/2, 1/3 ..."
    return rng.choices(options, cum_weights=_WEIGHTS[len(options)])[0]


class Telling:
    """One caption in the making: the scene, and the facts and frames told so far.

    A language gives `NOUNS` {kind: names} and `COLORS` {color: words}, and the methods that put
    things into words: `show`, `show_at`, `describe`, `locate`, `spread`, `count`,
    `relate`, `board`,
    `backdrop` for dense captions, `wish`, `wish_related`, `wish_board` for brief ones. Each
    returns sentences without their end marks and records what they state with `state`."""

    def __init__(self, scene, rng):
        self.scene, self.rng = scene, rng
        self.groups = scene.groups
        self.true = set(scene_facts(scene))
        self.close = close_together(scene)
        self.facts, self.frames, self._kept = {}, {}, {}

    def chance(self, p: float) -> bool:
        "True with probability p."
        return self.rng.random() < p

    def pick(self, options):
        "One of a sequence, the first most often."
        return choose(options, self.rng)

    def frame(self, table: dict) -> str:
        "A template of a table {id: template}; notes its id."
        name = self.rng.choice(list(table))
        self.frames[name] = None
        return table[name]

    def keep(self, key, options):
        "One of a sequence, the same one for the same key throughout this caption."
        if key not in self._kept:
            self._kept[key] = choose(options, self.rng)
        return self._kept[key]

    def state(self, what, *args):
        "Note a fact as told, if it is one of this scene."
        fact = Fact(what, args)
        if fact in self.true:
            self.facts[fact] = None

    def state_group(self, kind, number=False, color=False, size=False):
        "Note what naming all things of a kind tells: with their number, colours or size."
        group = self.groups[kind]
        self.state("object", kind)
        colors = dict.fromkeys(t.color for t in group)
        if color:
            self.state("color", kind, *sorted(colors))
        if number:
            self.state("count", kind, len(group))
        if number and color:
            for c in colors:
                self.state("count", kind, sum(t.color == c for t in group), c)
        if size:
            self.state("size", kind, group[0].size)

    def state_place(self, thing):
        "Note that the place of a thing is told."
        self.state("place", thing.kind, *place_name(thing.x, thing.y))

    def state_relation(self, a, r, b):
        "Note a relation that is told either way round."
        self.state("relation", a.kind, r, b.kind)
        self.state("relation", b.kind, FLIPPED[r], a.kind)

    def bunches(self, kind) -> list:
        "(color, number) of the things of a kind."
        colors = [t.color for t in self.groups[kind]]
        return [(c, colors.count(c)) for c in dict.fromkeys(colors)]


def _order(t):
    "The kinds in some order."
    kinds = list(t.groups)
    t.rng.shuffle(kinds)
    return kinds


def _openings(t, with_setting):
    "The sentences that introduce all things, and whether these tell places."
    kinds = _order(t)
    style = t.rng.random()
    if style < 0.3 and not t.close:
        return t.show_at(kinds), True
    if style < 0.5:
        shown = t.show(kinds, with_setting, plain=True)
        return shown + [s for k in kinds for s in t.describe(k)], False
    return t.show(kinds, with_setting, plain=False), False


def _places(t):
    out = []
    for group in t.groups.values():
        if t.close:
            break
        if len(group) == 1 and t.chance(0.85):
            out += t.locate(group[0])
        elif len(group) > 1 and t.chance(0.65):
            out += t.spread(group) if t.chance(0.6) else t.count(group[0].kind)
    t.rng.shuffle(out)
    return out


def _relations(t):
    pairs = related_pairs(t.scene)
    t.rng.shuffle(pairs)
    told = [p for p in pairs[: t.rng.choice([1, 2])] if t.close or t.chance(0.85)]
    return [s for pair in told for s in t.relate(*pair)]


def dense_sentences(t: Telling) -> list[str]:
    """The sentences of a dense caption, without end marks: all kinds with numbers and colours,
    mostly sizes, places, setting and sign, one or two relations; in varied order."""
    tells_setting = not t.groups or t.chance(0.88)
    merged = tells_setting and t.chance(0.6)
    body, placed = _openings(t, merged) if t.groups else ([], True)
    rest = [[] if placed else _places(t), _relations(t)]
    if t.chance(0.3):
        rest.reverse()
    body += rest[0] + rest[1]
    if t.scene.sign:
        sentences = t.board()
        at = t.rng.choice([0, len(body), len(body)])
        body[at:at] = sentences
    if tells_setting and not any(f.what == "setting" for f in t.facts):
        first = not body or t.chance(0.5)
        body = t.backdrop(first) + body if first else body + t.backdrop(first)
    return body


def _brief_kinds(t, skill):
    "The kinds that a brief caption names, and whether with number, colour, size."
    kinds = _order(t)
    needed = NEEDED.get(skill, ())
    if not skill and len(kinds) > 1 and t.chance(0.5):
        kinds = kinds[: t.rng.randint(1, len(kinds) - 1)]
    number = "count" in needed or t.chance(0.5)
    mixed = "count" in needed and any(len(t.bunches(k)) > 1 for k in kinds)
    color = mixed or "color" in needed or t.chance(0.45)
    size = t.chance(0.2 if len(kinds) < 3 else 0.05)
    return kinds, number, color, size


def brief_parts(t: Telling, skill: str | None) -> list[str]:
    """The clauses of a brief caption, without end marks: every fact that decides `skill`, or a
    random choice, and now and then a little more. Raises `DataError` for an unknown skill."""
    if skill not in (None, *NEEDED):
        raise DataError(f"skill: {skill!r} is unknown; choose one of {', '.join(NEEDED)}")
    pairs, sign = related_pairs(t.scene), t.scene.sign
    if sign and (skill == "text" or not t.groups or skill is None and t.chance(0.7)):
        return t.wish_board()
    if not t.groups:
        return t.backdrop(True)
    if pairs and (skill == "position" or skill is None and t.chance(0.25)):
        told = pairs if skill else [t.rng.choice(pairs)]
        color = t.chance(0.4)
        out = [s for a, r, b in told for s in t.wish_related(a, r, b, color)]
        named = {thing.kind for a, _, b in told for thing in (a, b)}
        left = [k for k in t.groups if k not in named]
        return out + (t.wish(left, True, color, False) if left and skill else [])
    return t.wish(*_brief_kinds(t, skill))
