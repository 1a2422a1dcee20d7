"""How French and Spanish captions are put together: long ones by sentences, brief ones by phrases.

A caption notes the facts that it states while it is written. All of this is our choice.
"""

from .romance import FP, MP, MS, Grammar, Phrase, Phrases, capital, count_words
from .world import Fact

MOST_WORDS = 14  # of a brief caption


class Dense(Phrases):
    "A caption that states most of a scene, sentence by sentence."

    def text(self) -> str:
        "The caption."
        self.placed, self.told = set(), []
        sentences = self.opening() if self.groups else [self.sign_sentence()]
        inside = Fact("setting", (self.scene.setting,)) in self.said
        details = self.details() if self.groups else []
        if self.scene.sign and self.groups:
            spot = self.rng.choice([0, len(sentences), len(sentences) + len(details)])
            sentences = [*sentences, *details]
            sentences[spot:spot] = [self.sign_sentence()]
        else:
            sentences += details
        if self.scene.sign and Fact("word color", (self.scene.sign.color,)) not in self.said:
            if self.chance(0.7):
                sentences.insert(self._after_sign(sentences), self.letters_sentence())
        if not inside and (not self.groups or self.rng.random() < 0.92):
            where = self.rng.choice([0, len(sentences), len(sentences)])
            sentences.insert(where, self.setting_sentence(where == 0))
        sentences += self.ending()
        return self.g.smooth(" ".join(capital(s.strip()) for s in sentences))

    def ending(self) -> list[str]:
        "Sometimes a word on the style, or all in short once more."
        out = [self.frame("style")] if self.chance(0.15) else []
        if self.groups and len(self.groups) < 3 and self.chance(0.2):
            items = [i for k in self.groups for i in self.group(k, size=False)]
            x = self.listed(items)
            out.append(self.frame("recap", x.form, x=x.text, i=self.setting(self.g.within)))
        return out

    def _after_sign(self, sentences):
        word = self.scene.sign.word
        return 1 + next(i for i, s in enumerate(sentences) if word in s)

    # -- the opening
    def opening(self) -> list[str]:
        "One or more sentences that bring in every thing."
        kinds = list(self.groups)
        self.rng.shuffle(kinds)
        self.sized = {k for k in kinds if self.rng.random() < 0.85}
        lone = len(kinds) == 2 and len(self.scene.things) == 2
        roll = self.rng.random()
        if lone and self.pairs and roll < 0.4:
            return [self.open_pair()]
        if len(kinds) > 1 and roll < 0.6:
            return self.open_in_turn(kinds)
        if len(kinds) < 3 and roll > 0.85:
            return self.open_bare(kinds)
        return [self.open_list(kinds)]

    def _items(self, kinds, places=False):
        out = []
        for k in kinds:
            some = self.group(k, size=k in self.sized)
            if places and len(self.groups[k]) == 1:
                some = [Phrase(f"{some[0].text} {self.place(k)}", some[0].form)]
                self.placed.add(k)
            out += some
        return self.listed(out)

    def _open(self, x):
        if self.chance(0.5):
            return self.frame("open in", x.form, x=x.text, i=self.setting(self.g.within))
        return self.frame("open", x.form, x=x.text)

    def open_list(self, kinds: list) -> str:
        "All things in one sentence, with the setting or without, sometimes each with its place."
        if self.placeable and self.chance(0.25):
            x = self._items(kinds, places=True)
            return self.frame("open", x.form, x=x.text)
        return self._open(self._items(kinds))

    def open_pair(self) -> str:
        "Two things and how they lie to one another, in one sentence."
        a, r, b = self.turned(self.pairs[0])
        self.told.append(self.pairs[0])
        (x,), (y,) = (self.group(k, size=k in self.sized) for k in (a, b))
        how = self.relation((a, r, b), x.form)
        if self.chance(0.35):
            i = self.setting(self.g.within)
            return self.frame("pair in", x.form, x=x.text, r=how, y=y.text, i=i)
        return self.frame("pair", x.form, x=x.text, r=how, y=y.text)

    def open_in_turn(self, kinds: list) -> list[str]:
        "One thing, then the others a sentence each, by place or just as one more."
        placed = self.placeable and self.chance(0.3)
        x = self._items(kinds[:1], placed)
        out = [self.frame("open", x.form, x=x.text) if placed else self._open(x)]
        for k in kinds[1:]:
            items = self.group(k, size=k in self.sized)
            x = self.listed(items)
            if self.placeable and len(self.groups[k]) == 1 and self.chance(0.6):
                out.append(self.frame("new place", x.form, x=x.text, p=self.place(k)))
                self.placed.add(k)
            else:
                out.append(self.frame("add", x.form, x=x.text))
        return out

    def open_bare(self, kinds: list) -> list[str]:
        "Things without colour and size, which follow."
        mixed = [k for k in kinds if len({t.color for t in self.groups[k]}) > 1]
        items = [i for k in kinds for i in self.group(k, color=k in mixed, size=False)]
        out = [self._open(self.listed(items))]
        return out + [self.look(k) for k in kinds if k not in mixed]

    def _size_word(self, kind, form):
        size = self.groups[kind][0].size
        self.say("size", kind, size)
        return self.pick([a for a in self.g.sizes[size] if a.predicate]).forms[form]

    def look(self, kind: str) -> str:
        "A sentence with the colour, and mostly the size, of things mentioned before."
        a, color = self.the(kind, 0), self.groups[kind][0].color
        self.say("color", kind, color)
        c = self.color(color).forms[a.form]
        if kind != "ring" and self.chance(0.8):
            return self.frame("look", a.form, a=a.text, c=c, z=self._size_word(kind, a.form))
        return self.frame("colour", a.form, a=a.text, c=c)

    # -- what follows the opening
    def details(self) -> list[str]:
        "Sentences on places, relations, sizes left out so far, and the total."
        blocks = [self.places(), self.relations()]
        if self.chance(0.3):
            blocks.reverse()
        out = blocks[0] + blocks[1]
        kinds = [k for k in self.groups if k != "ring"]
        unsized = [k for k in kinds if Fact("size", (k, self.groups[k][0].size)) not in self.said]
        for k in unsized:
            if self.chance(0.5):
                a = self.the(k)
                out.append(self.frame("size", a.form, a=a.text, z=self._size_word(k, a.form)))
        if len(self.scene.things) > 1 and not self.scene.sign and self.chance(0.25):
            out.append(self.total())
        return out

    def places(self) -> list[str]:
        "Where the only ones of their kind are, one or two a sentence."
        if not self.placeable:
            return []
        left = [k for k, g in self.groups.items() if len(g) == 1 and k not in self.placed]
        left = [k for k in left if self.rng.random() < 0.93]
        if len(self.scene.things) == 1 and left and not self.scene.sign and self.chance(0.4):
            form = int(self.noun(left[0]).feminine)
            return [self.frame("it", form, p=self.place(left[0]))]
        self.rng.shuffle(left)
        out = []
        while left:
            a = left.pop()
            if left and self.chance(0.5):
                b = left.pop()
                x, y = self.the(a), self.the(b)
                slots = dict(a=x.text, p=self.place(a), b=y.text, q=self.place(b))
                out.append(self.frame("two places", x.form, **slots))
            elif self.chance(0.15):
                x = self.the(a)
                out.append(self.frame("corner", x.form, a=x.text, c=self.place(a, self.g.corners)))
            else:
                x = self.the(a)
                out.append(self.frame("place", x.form, a=x.text, p=self.place(a)))
        return out

    def relations(self) -> list[str]:
        "One or two relations not told so far."
        left = [p for p in self.pairs if p not in self.told]
        if not left or (self.told and self.rng.random() < 0.4):
            return []
        some = self.rng.sample(left, min(len(left), self.rng.choice([1, 2, 2])))
        return [self.related(p) for p in some]

    def related(self, pair: tuple) -> str:
        "A sentence on how two things lie that were mentioned before."
        a, r, b = self.turned(pair)
        if r in ("front", "behind"):
            front, back = (a, b) if r == "front" else (b, a)
            x, y = self.the(front), self.the(back)
            return self.frame("overlap", y.form, f=x.text, b=y.text)
        if r in ("inside", "around") and self.chance(0.5):
            ring, other = (b, a) if r == "inside" else (a, b)
            x, y = self.the(ring), self.the(other)
            return self.frame("ring", y.form, a=x.text, b=y.text)
        x, y = self.the(a), self.the(b)
        if r in self.g.sides and self.chance(0.15):
            return self.frame("side", x.form, a=x.text, b=y.text, d=self.g.sides[r])
        how = self.relation((a, r, b), x.form)
        return self.frame("relation", x.form, a=x.text, r=how, b=y.text)

    def total(self) -> str:
        "How many things there are: of the only kind, or in all."
        n = len(self.scene.things)
        if len(self.groups) > 1:
            return self.frame("total", MP, n=self.g.numbers[n])
        (kind,) = self.groups
        self.say("count", kind, n)
        noun = self.noun(kind)
        the = self.g.articles["the"][MP + noun.feminine]
        return self.frame("count", MP + noun.feminine, n=self.g.numbers[n], k=noun.plural, the=the)

    def sign_sentence(self) -> str:
        "The sign: always its word, mostly colour and place."
        c = " " + self.lettering() if self.chance(0.75) else ""
        p = " " + self.board_place() if self.rng.random() < 0.88 else ""
        slots = dict(s=self.board(), w=self.quoted(), c=c, p=p)
        form = int(self.noun("sign").feminine)
        return self.frame("sign front" if p and self.chance(0.3) else "sign", form, **slots)

    def letters_sentence(self) -> str:
        "A sentence with the colour of the sign's letters."
        color = self.color(self.scene.sign.color)
        self.say("word color", self.scene.sign.color)
        return self.frame("letters", FP, f=color.forms[FP], m=color.forms[MS])

    def setting_sentence(self, first: bool) -> str:
        "A sentence with the setting, fit to be the first or to follow others."
        if first and self.chance(0.4):
            return self.frame("backdrop first", b=self.setting(self.g.backdrops))
        if first or self.chance(0.5):
            return self.frame("setting", i=self.setting(self.g.within))
        return self.frame("backdrop", b=self.setting(self.g.backdrops))


class Brief(Phrases):
    "A caption of a few words, as people type them."

    def text(self, skill) -> str:
        "The caption; with a skill it states all that decides a pass of it."
        sign, pairs = self.scene.sign, self.pairs
        article = "a"
        if not self.groups or skill == "text" or (sign and skill is None and self.chance(0.6)):
            core = self.with_sign()
        elif pairs and (skill == "position" or (skill is None and self.chance(0.35))):
            core = self.with_pair()
        else:
            loose = skill not in ("counting", "two", "position") and self.chance(0.2)
            article = self.rng.choice(["bare", "some"]) if loose else "a"
            core = self.with_list(skill, article)
        where = self.setting(self.g.brief_within) if self.chance(0.4) else ""
        if where and self.chance(0.2):
            text = self.frame("brief in front", x=core, i=where)
        else:
            text = f"{core} {where}".rstrip()
            plain = self.plain or self.chance(0.3)
            how = "brief bare" if article == "bare" else "brief plain" if plain else "brief"
            text = self.frame(how, x=text)
        text = self.g.smooth(text)
        return capital(text) if self.rng.random() < 0.3 else text

    def with_list(self, skill, article: str) -> str:
        "Some things, or all that a skill is about; colours and sizes of all of them or of none."
        kinds = list(self.groups)
        self.rng.shuffle(kinds)
        if skill is None:
            kinds = kinds[: self.rng.choice([1, 1, 2, 3, 4])]
        mixed = any(len({t.color for t in self.groups[k]}) > 1 for k in kinds)
        must = skill in ("colors", "attribute") or (skill == "counting" and mixed)
        color, size = must or self.chance(0.65), self.chance(0.2)
        items = []
        for k in kinds:
            plural = article == "some" and len(self.groups[k]) == 1
            items += self.group(k, color, size, "a" if plural else article)
        x = self.listed(items)
        single = len(kinds) == 1 and len(self.groups[kinds[0]]) == 1 and self.placeable
        if single and self.chance(0.2):
            return self.frame("brief place", x.form, x=x.text, p=self.place(kinds[0]))
        return x.text

    def with_pair(self) -> str:
        "Two things and how they lie to one another."
        pair = self.rng.choice(self.pairs)
        a, r, b = self.turned(pair)
        color = self.chance(0.5)
        (x,), (y,) = (self.group(k, color, self.chance(0.12)) for k in (a, b))
        if r in ("front", "behind") and self.chance(0.4):
            both = self.listed([x, y])
            return self.frame("brief overlap", both.form, x=both.text)
        if r in self.g.sides and self.chance(0.15):
            return self.frame("brief side", x.form, a=x.text, b=y.text, d=self.g.sides[r])
        how = self.relation((a, r, b), x.form)
        return self.frame("brief pair", x.form, x=x.text, r=how, y=y.text)

    def with_sign(self) -> str:
        "The sign's word, and sometimes its colour, its place and a thing."
        c = " " + self.lettering() if self.chance(0.4) else ""
        p = " " + self.board_place() if self.chance(0.2) else ""
        slots = dict(s=self.board(), w=self.quoted(), c=c, p=p)
        form = int(self.noun("sign").feminine)
        if self.groups and self.chance(0.5):
            kind = self.rng.choice(list(self.groups))
            (x,) = self.group(kind, self.chance(0.5), False)
            return self.frame("brief thing and sign", form, x=x.text, **slots)
        return self.frame("brief sign", form, **slots)


def dense(grammar: Grammar, scene, rng) -> tuple:
    "A long caption in a language: (text, facts, frames)."
    caption = Dense(grammar, scene, rng)
    text = caption.text()
    return text, tuple(caption.said), tuple(caption.used)


def brief(grammar: Grammar, scene, rng, skill=None) -> tuple:
    "A caption of 2 to 14 words in a language: (text, facts, frames)."
    for attempt in range(5):
        caption = Brief(grammar, scene, rng, plain=attempt > 2)
        text = caption.text(skill)
        if 2 <= count_words(text) <= MOST_WORDS:
            break
    return text, tuple(caption.said), tuple(caption.used)
