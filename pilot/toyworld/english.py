"""Dense English captions of the toy world: most of what is true of a scene, told in many ways."""

import re

from .english_phrases import WORD, Sentence, Writer, starts_plural
from .world import CLOSE, KINDS, close_together

# How often a dense caption says what. Our choice.
TELL = {"size": 0.87, "place": 0.85, "setting": 0.9, "sign color": 0.85, "sign place": 0.85}
TAGS = 0.15  # of the captions of three kinds and more are lists of short phrases
CASES = {"normal": 0.88, "lower": 0.08, "title": 0.02, "upper": 0.02}


def in_case(text: str, case: str) -> str:
    "The text in another letter case; the word on a sign stays as it is."
    if case == "lower":
        return text.lower()
    if case == "upper":
        return text.upper()
    if case == "title":
        return re.sub(r"(?<![\w'])[a-z]", lambda m: m[0].upper(), text)
    return text


def settled(sentences: list, case: str, word: str | None) -> list:
    "The sentences in one letter case and with the sign's word in place."
    out = []
    for s in sentences:
        text = in_case(s.text, case).replace(WORD, word or "")
        out.append(s._replace(text=text))
    return out


class Dense(Writer):
    "Writes a dense caption, sentence by sentence."

    def __init__(self, scene, rng, wording):
        super().__init__(scene, rng, wording)
        self.close = close_together(scene)
        self.kinds = list(scene.groups)
        rng.shuffle(self.kinds)
        self.left = {kind: self._attributes(kind) for kind in self.kinds}
        self.told_pairs = set()
        self.sign_left = {p for p in ("color", "place") if self.chance(TELL[f"sign {p}"])}
        self.sign_told = scene.sign is None
        self.extra_words = 0

    def _attributes(self, kind):
        "What will be told of a kind."
        single = len(self.groups[kind]) == 1
        out = {"color"}
        if kind != "ring" and self.chance(TELL["size"]):
            out.add("size")
        if single and not self.close and self.chance(TELL["place"]):
            out.add("place")
        return out

    # ---- the opening
    def opening(self, setting: bool):
        "The sentence that names the things; `setting`: and where they are."
        inline = {a for a, p in (("color", 0.8), ("size", 0.55), ("place", 0.35)) if self.chance(p)}
        pair = self._opening_pair()
        self.tight = bool(pair) or setting or "place" in inline
        if pair:
            name = lambda kind: self._item(kind, inline - {"place"})
            slots = {"pair": self.relation(pair, name, "brief")}
            self.told_pairs.add(pair)
            table, many, near = "open pair", False, False
        else:
            slots, many, near = self._list(inline)
            table = "open"
        if setting:
            table += " where" if pair or self.chance(0.65) else " scene"
            slots |= self.setting_slots()
        self.end(self.frame(table, slots, many, near))

    def _opening_pair(self):
        "The two things of the scene, to be named by how they lie; or None."
        pairs = self.pairs
        if len(self.scene.things) != 2 or not pairs or self.scene.sign:
            return None
        return pairs[0] if self.chance(0.6 if pairs[0][1] in CLOSE else 0.3) else None

    def _item(self, kind, inline, bare=False):
        "A kind with what is told of it at once."
        attrs = self.left[kind] & inline
        if self.mixed(kind):
            attrs = attrs | {"color"}
        self.left[kind] = self.left[kind] - attrs
        text = self.thing(kind, attrs, bare)
        if "place" not in attrs:
            return text
        return self.frame("placed", {"thing": text, "place": lambda: self.place(kind, 0.05)})

    def _list(self, inline):
        "Slots with all things named, and whether they and the first of them are plural."
        items = [self._item(kind, inline) for kind in self.kinds]
        if self.scene.sign and (not items or self.chance(0.35)):
            items.append(self._sign_item())
        near = starts_plural(items[0])
        several = len(items) > 1 or any(len(g) > 1 for g in self.groups.values())
        return {"things": self.join(items)}, several or near, near

    def _sign_item(self):
        "The sign as one of the things that a list names."
        color = "color" in self.sign_left and self.chance(0.6)
        self.sign_left -= {"color"} if color else set()
        self.sign_told = True
        return self.frame("sign thing color" if color else "sign thing", self.sign_slots())

    # ---- what else there is to say
    def subject(self, kind):
        "Slots for a kind as a subject: 'S' may be a pronoun, 's' may not."
        many = len(self.groups[kind]) > 1
        last = self.sentences[-1].facts if self.sentences else ()
        clear = len(self.kinds) == 1 and not self.scene.sign and any(kind in f.args for f in last)

        def start():
            if clear and not self.facts and self.chance(0.5):
                self.fact("object", kind)
                return "they" if many else "it"
            return self.the(kind)

        return {"S": start, "s": lambda: self.the(kind)}

    def _clause(self, kind, attrs):
        "A clause that tells some of color, place and size of a kind."
        slots = self.subject(kind) | {
            "color": lambda: self.color(kind),
            "size": lambda: self.size(kind),
            "place": lambda: self.place(kind),
        }
        return self.frame(" ".join(sorted(attrs)), slots, len(self.groups[kind]) > 1)

    def _portions(self, attrs):
        "What is left to tell of a kind, by sentence."
        attrs = sorted(attrs)
        self.rng.shuffle(attrs)
        if len(attrs) < 2 or self.chance(0.45):
            return [attrs] if attrs else []
        cut = 1 if len(attrs) == 2 or self.chance(0.5) else 2
        return [attrs[:cut], attrs[cut:]]

    def details(self):
        "Sentences about what the opening left out of its things."
        self._same_sizes()
        waiting = [(kind, p) for kind in self.kinds for p in self._portions(self.left[kind])]
        while waiting:
            kind, attrs = waiting.pop(0)
            text = self._clause(kind, attrs)
            short = waiting and waiting[0][0] != kind and len(attrs + waiting[0][1]) < 4
            if short and self.chance(0.4):
                two = self._clause(*waiting.pop(0))
                text = self.frame("both", {"one": text, "two": two})
            self.end(text)

    def _same_sizes(self):
        "One sentence on the size of all things where they have the same."
        sizes = {g[0].size for g in self.groups.values()}
        kinds = self.kinds
        same = len(sizes) == 1 and "ring" not in kinds and not self.scene.sign
        if len(self.scene.things) < 2 or not same or not all("size" in self.left[k] for k in kinds):
            return
        if self.chance(0.7):
            meaning = self.word(*sizes)
            for kind in kinds:
                self.fact("size", kind, *sizes)
                self.left[kind] = self.left[kind] - {"size"}
            every = "both" if len(self.scene.things) == 2 else "all"
            self.end(self.frame("all sizes", {"size": meaning, "all": every}))

    def relations(self):
        "How things lie to one another: mostly one or two such facts."
        pairs = [p for p in self.pairs if p not in self.told_pairs]
        if not pairs:
            return
        close = pairs[0][1] in CLOSE
        if not self.chance(0.97 if close else 0.4 if self.told_pairs else 0.8):
            return
        number = 2 if len(pairs) > 1 and self.chance(0.4) else 1
        for pair in self.rng.sample(pairs, number):
            self.end(self.relation(pair, self.the))

    def sign(self):
        "What is written, in which colour and where."
        if not self.sign_told:
            parts = {a[0] for a in self.sign_left if self.chance(0.8)}
            table = "sign w" + "".join(p for p in "cp" if p in parts)
            self.end(self.frame(table, self.sign_slots()))
            self.sign_left = {a for a in self.sign_left if a[0] not in parts}
            self.sign_told = True
        for part in sorted(self.sign_left):
            table = {"color": "sign c", "place": "sign p"}[part]
            self.end(self.frame(table, self.sign_slots()))

    def setting(self, first=False):
        "A sentence about the setting."
        whole = "everything"
        if len(self.kinds) == 1 and not first:
            whole = lambda: self.the(self.kinds[0])
        if not self.kinds:
            whole = "the sign"
        many = len(self.kinds) == 1 and len(self.groups[self.kinds[0]]) > 1
        table = "first setting" if first else "setting" if self.chance(0.6) else "setting where"
        self.end(self.frame(table, self.setting_slots() | {"it": whole}, many))

    # ---- true sentences that bring a short caption up
    def length(self) -> int:
        "Words so far."
        return sum([s.text.count(" ") + 1 for s in self.sentences])

    def _one(self, table, slots=(), many=False, filler=True):
        before = self.length()
        self.end(self.frame(table, dict(slots), many))
        if filler:
            self.extra_words += self.length() - before

    def _backdrop(self):
        self.fact("setting", self.scene.setting)
        self._one(self.scene.setting, filler=False)

    def _total(self):
        n = len(self.scene.things)
        what = [self.rng.choice(("things", "objects", "items"))]
        if all(KINDS[k] == "animal" for k in self.kinds):
            what.append("animals")
        number = ("two", "three", "four")[n - 2]
        self._one("total", {"total": f"{number} {self.rng.choice(what)}"}, True, filler=False)

    def extras(self, setting_told):
        "What may still be said, in the order in which it is."
        sign, things = self.scene.sign, self.scene.things
        out = [self._backdrop] * 2 if setting_told else []
        groups = [k for k in self.kinds if len(self.groups[k]) > 1]
        if groups and not self.close:
            kind = self.rng.choice(groups)
            table = "spread" if len(self.groups[kind]) > 2 else "apart"
            out.append(
                lambda: self._one(table, dict.fromkeys("Ss", lambda: self.the(kind, 0)), True)
            )
        if len(things) > 2 and not sign and len(self.kinds) > 1:
            out.append(self._total)
        if len(things) == 1 and not sign:
            out.append(lambda: self._one("filler one", self.subject(self.kinds[0])))
        if sign:
            out.append(lambda: self._one("filler sign"))
            if not things:
                out.append(lambda: self._one("sign alone"))
        else:
            out += [lambda: self._one("filler plain")] * self.chance(0.35)
        self.rng.shuffle(out)
        return out + [lambda: self._one("filler")] * 2

    def fill_up(self, setting_told):
        "Add extras until the caption has a usual length."
        wanted = self.rng.triangular(28, 80, 48)
        for extra in self.extras(setting_told):
            if self.length() >= wanted:
                return
            if (self.extra_words + 12) * 3 < self.length() + 12 or extra == self._backdrop:
                extra()

    def write(self) -> list:
        "The sentences."
        few = len(self.kinds) < 2  # then there is little else to say
        told = few or self.chance(TELL["setting"])
        where = self.rng.choices(("open", "first", "later"), (50, 8, 42))[0] if told else None
        if where == "first":
            self.setting(first=True)
        self.opening(where == "open")
        blocks = [self.details, self.relations]
        blocks += [self.sign] if self.scene.sign else []
        blocks += [self.setting] if where == "later" else []
        if self.chance(0.5):
            self.rng.shuffle(blocks)
        for block in blocks:
            block()
        if not told and self.length() < 32:  # too little was said
            self.setting()
            told = True
        self.fill_up(told)
        return self.sentences


class Tags(Dense):
    "Writes a dense caption as a list of short phrases."

    def write(self) -> list:
        "The list as one sentence."
        self.tags = True
        phrases = [self._item(kind, {"color", "size"}, bare=True) for kind in self.kinds]
        phrases += [self._tag_place(kind) for kind in self.kinds if "place" in self.left[kind]]
        for pair in self.pairs[:2]:
            self.tight = True
            name = lambda kind: self.thing(kind, (), bare=True)
            phrases.append(self.relation(pair, name, "brief"))
        if self.scene.sign:
            phrases += [self._sign_item(), *self._sign_rest()]
        self.rng.shuffle(phrases)
        phrases.append(self.frame("tag setting", self.setting_slots()))
        phrases += self.rng.sample(STYLES, self.rng.randint(1, 4))
        listed = ("; " if self.chance(0.1) else ", ").join(phrases)
        self.end(self.frame("tag list", {"list": listed}), "")
        return self.sentences

    def _tag_place(self, kind):
        noun = self.noun(kind, 1)
        return self.frame("tag place", {"noun": noun, "place": lambda: self.place(kind, 0)})

    def _sign_rest(self):
        left = sorted(self.sign_left)
        return [self.frame(f"tag sign {part}", self.sign_slots()) for part in left]


STYLES = (
    "simple illustration",
    "cartoon style",
    "clean shapes",
    "clear outlines",
    "icon style",
    "simple composition",
    "computer art",
    "playful style",
    "children's book style",
)


def dense(scene, rng, wording: str = "train") -> list[Sentence]:
    "The sentences of a dense caption."
    many = len(scene.groups) + bool(scene.sign) > 2
    tags = many and rng.random() < TAGS
    sentences = (Tags if tags else Dense)(scene, rng, wording).write()
    case = rng.choices(list(CASES), list(CASES.values()))[0]
    return settled(sentences, case, scene.sign and scene.sign.word)
