"""Brief English captions of the toy world: a few words, as people type them."""

import re

from .english import settled
from .english_phrases import WORD, Sentence, Writer, starts_plural, tidy
from .world import CLOSE, COLORS, KINDS, close_together

LONGEST = 14  # words


class Brief(Writer):
    "Writes a brief caption about some of a scene."

    def __init__(self, scene, rng, wording, skill, modest):
        super().__init__(scene, rng, wording)
        self.skill = skill
        self.modest = modest  # say no more than is needed
        self.wrapped = self.chance(0.35) and not modest
        self.placed = False  # tell the setting?
        self.bare = not self.wrapped and (modest or self.chance(0.3))
        self.attrs = self._attributes()
        self.kinds = self._kinds()
        self.placed = self.maybe(0.27 if len(self.kinds) < 3 else 0.1)
        self.tight = self.placed or bool(scene.sign)
        self.tags = self.bare and len(self.kinds) == 1

    def _attributes(self):
        few = len(self.groups) < 3
        color = self.skill in ("colors", "attribute") or self.maybe(0.55 if few else 0.25)
        size = self.maybe(0.17 if few else 0.04)
        return {a for a, told in (("color", color), ("size", size)) if told}

    def _kinds(self):
        kinds = list(self.groups)
        self.rng.shuffle(kinds)
        if self.skill is None and len(kinds) > 2 and self.chance(0.2):
            kinds.pop()
        return kinds

    def maybe(self, p):
        "True with probability p, never in a modest caption."
        return not self.modest and self.chance(p)

    def free(self, table):
        "The table, or its other half, whose frames only stand alone."
        alone = not self.wrapped and (not self.placed or table == "brief where")
        return f"{table} free" if alone and self.chance(0.25) else table

    def name(self, kind):
        "A kind with what is told of it."
        return self.thing(kind, self.attrs, self.bare)

    def _pair(self):
        "The pair to be told by how it lies, or None."
        pairs = self.pairs
        if not pairs or (self.skill != "position" and len(self.groups) > 2):
            return None
        pair = self.rng.choice(pairs)
        p = 1 if self.skill == "position" else 0.6 if pair[1] in CLOSE else 0.3
        return pair if self.chance(p) else None

    def things(self):
        "The things as a phrase."
        pair = self._pair()
        if pair:
            self.kinds = [pair[0].kind, pair[2].kind]
            self.tight = True
            self.wrapped = self.wrapped or self.bare
            return self.relation(pair, self.name, "brief")
        if self._apart() and self.maybe(0.12):
            self.tight = True
            return self.join([f"{self.name(kind)} {self.place(kind, 0)}" for kind in self.kinds])
        names = [self.name(kind) for kind in self.kinds]
        sideways = len(self.pairs) == 1 and self.pairs[0][1] in ("left of", "right of")
        if len(names) == 2 and sideways and self.maybe(0.2):
            return self.frame("brief beside", dict(zip("ab", names)))
        if len(names) > 1 and not self.wrapped and self.chance(0.15):
            return self.frame("brief tags", {"first": ", ".join(names[:-1]), "last": names[-1]})
        return self._with_place(self.join(names))

    def _apart(self):
        "Are there two things whose places can be told?"
        two = len(self.scene.things) == len(self.kinds) == 2
        return two and not self.placed and not self.scene.sign and not close_together(self.scene)

    def _with_place(self, text):
        "The text, with the place of a thing that is alone."
        if len(self.scene.things) != 1 or self.scene.sign or not self.maybe(0.18):
            return text
        place = lambda: self.place(self.kinds[0], 0.05)
        return self.frame(self.free("brief place"), {"thing": text, "place": place})

    def sign(self):
        "The sign as a phrase."
        table = "brief sign color" if self.maybe(0.3) else "brief sign"
        return self.frame(self.free(table), self.sign_slots(quoted=self.chance(0.6)))

    def content(self):
        "What the caption tells, as a phrase."
        if not self.scene.sign:
            return self.things()
        told = self.skill == "text" or not self.kinds or self.chance(0.9)
        if not told:
            return self.things()
        if not self.kinds or (self.skill in (None, "text") and self.chance(0.4)):
            self.kinds = []
            return self.sign()
        self.wrapped = True  # no frames that stand alone in a frame that joins
        things, sign = self.things(), self.sign()
        table = "brief sign and"
        if self.maybe(0.35):
            self.fact("word place", self.scene.sign.place)
            table = {"top": "brief sign over", "bottom": "brief sign under"}[self.scene.sign.place]
        return self.frame(table, {"things": things, "sign": sign})

    def write(self) -> Sentence:
        "The caption, in plain letter case."
        wrapped = self.wrapped
        text = self.content()
        if self.placed:
            slots = self.setting_slots() | {"things": text}
            text = self.frame(self.free("brief where"), slots, near=starts_plural(text))
        if wrapped:
            text = self.frame("brief", {"x": text}, near=starts_plural(text))
        return Sentence(tidy(text), tuple(self.facts), tuple(self.frames), tuple(self.used))


def _punctuated(text, rng):
    "The caption as it is typed: (text, letter case)."
    case = rng.choices(("normal", "lower", "title", "upper"), (88, 6, 3, 3))[0]
    if case == "upper" and (" " not in text or WORD in text):
        case = "normal"
    start = rng.random()
    if start < 0.42:
        text = text[:1].upper() + text[1:]
    question = text[:5].lower() in ("can y", "could")
    if question:
        return text + ("?" if rng.random() < 0.6 else ""), case
    return (text + "." if 0.28 < start < 0.46 else text), case


def _fits(text):
    return 2 <= len(text.split()) <= LONGEST or text.strip("\"'\u201c\u201d") == WORD


def brief(scene, rng, wording: str = "train", skill: str | None = None) -> list[Sentence]:
    "A brief caption as a list of one sentence."
    for tries in range(40):
        sentence = Brief(scene, rng, wording, skill, modest=tries > 3).write()
        if _fits(sentence.text):
            break
    text, case = _punctuated(sentence.text, rng)
    done = Sentence(text, sentence.facts, sentence.frames, sentence.words)
    return settled([done], case, scene.sign and scene.sign.word)


def alt_text(scene, rng) -> str:
    """What a web page might say: vague, cut short, sometimes wrong. One in four is written with
    a random kind and one in four with a random colour, but many forms name neither."""
    kind = scene.things[0].kind if scene.things else "sign"
    if rng.random() < 0.25:
        kind = rng.choice(list(KINDS))
    color = scene.things[0].color if scene.things else rng.choice(list(COLORS))
    if rng.random() < 0.25:
        color = rng.choice(list(COLORS))
    number = rng.randint(1000, 9999)
    forms = (
        f"{kind} clipart",
        f"cute {color} {kind} free download",
        f"IMG_{number}",
        f"stock illustration of {kind}",
        f"{color} {kind}",
        "picture for our blog",
        f"{scene.setting} background wallpaper",
        f"{kind}-{color}-{number}.png",
        f"best {kind} pictures",
        f"{kind} icon vector",
        f"click to enlarge the {kind}",
        f"{color} {kind} on {scene.setting} background",
        "untitled",
    )
    return re.sub(r" +", " ", rng.choice(forms))
