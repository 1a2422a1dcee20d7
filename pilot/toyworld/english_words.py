"""English words for everything that a caption of the toy world can say, most common first."""

import bisect
import itertools
import re
import zlib

# A meaning and its words. "one=many" gives a plural that the rule does not, "word*3" a weight.
NOUNS = """
astronaut: astronaut, cosmonaut, spaceman=spacemen, space explorer, space traveler
cat: cat, kitten, kitty, feline, pussycat, tomcat
dog: dog, puppy, doggy, hound, pup, pooch
fish: fish=fish, tropical fish=tropical fish, aquarium fish=aquarium fish, reef fish=reef fish
butterfly: butterfly, moth, winged insect, flying insect
cactus: cactus=cacti, cactus plant, saguaro, desert plant, prickly plant
tulip: tulip, flower, spring tulip, blossom, garden tulip
mushroom: mushroom, toadstool, fungus=fungi, spotted mushroom, woodland mushroom
tree: tree, forest tree, garden tree, park tree, wild tree
house: house, home, cottage, cabin, hut, dwelling
castle: castle, fortress, palace, fort, citadel
apple: apple, fruit, orchard apple, piece of fruit=pieces of fruit, whole apple
carrot: carrot, vegetable, garden carrot, veggie, root vegetable
balloon: balloon, party balloon, toy balloon, helium balloon, birthday balloon
gift: gift, present, gift box, wrapped gift, parcel
umbrella: umbrella, parasol, brolly, open umbrella, sunshade
teapot: teapot, kettle, pot of tea=pots of tea, tea kettle, china teapot
car: car, automobile, vehicle, motorcar, auto
ghost: ghost, phantom, spook, spirit, specter
robot: robot, android, bot, droid, automaton
bell: bell, handbell, chime, church bell, hand bell
heart: heart, love heart, heart shape, heart symbol, valentine heart
star: star, five-pointed star, star shape, star symbol, pointed star
ring: ring, hoop, circle, loop, band
"""
COLOR_WORDS = """
red: red, scarlet, crimson, ruby, bright red, cherry-red
orange: orange, tangerine, bright orange, pumpkin-orange, vivid orange
yellow: yellow, gold, lemon-yellow, bright yellow, canary-yellow
green: green, emerald, bright green, leaf-green, grass-green
cyan: cyan, turquoise, teal, aqua, aquamarine
blue: blue, royal blue, cobalt, sapphire, deep blue
purple: purple, violet, plum, amethyst, deep purple
pink: pink, hot pink, rose-pink, bubblegum-pink, candy-pink
"""
SIZE_WORDS = """
small: small, little, tiny, mini, miniature
medium: medium-sized, medium, mid-sized, average-sized, middle-sized
large: large, big, huge, giant, enormous
"""
PLACE_WORDS = """
top left: in the top left, in the upper left, in the top left corner, at the top left, in the upper left corner, up on the left, in the upper left-hand corner
top center: at the top, at the top center, in the top middle, up at the top, in the upper middle, at the upper edge
top right: in the top right, in the upper right, in the top right corner, at the top right, in the upper right corner, up on the right, in the upper right-hand corner
middle left: on the left, on the left side, at the left, on the left-hand side, in the middle left, at the left edge
middle center: in the middle, in the center, at the center, right in the middle, in the very center
middle right: on the right, on the right side, at the right, on the right-hand side, in the middle right, at the right edge
bottom left: in the bottom left, in the lower left, in the bottom left corner, at the bottom left, in the lower left corner, down on the left, in the lower left-hand corner
bottom center: at the bottom, at the bottom center, in the bottom middle, down at the bottom, in the lower middle, at the lower edge
bottom right: in the bottom right, in the lower right, in the bottom right corner, at the bottom right, in the lower right corner, down on the right, in the lower right-hand corner
"""
RELATION_WORDS = """
left of: to the left of, left of, on the left of, on the left side of, on the left-hand side of
right of: to the right of, right of, on the right of, on the right side of, on the right-hand side of
above: above, over, higher up than, higher than, further up than
below: below, under, beneath, underneath, lower down than, further down than
inside: inside, in, within, in the middle of, enclosed by, surrounded by, framed by
around: around, surrounding, encircling, enclosing, framing
overlapping: in front of, partly in front of, overlapping, partly covering, partly hiding
overlapped: behind, partly behind, overlapped by, partly covered by, partly hidden by
"""
COUNT_WORDS = """
1: a*20, one*3, a single, 1, one single
2: two*4, 2*2, a pair of, a couple of, a duo of
3: three*4, 3*2, a trio of, a group of three, a set of three
4: four*4, 4*2, a group of four, a quartet of, a set of four
"""
WHERE_WORDS = """
meadow: in a meadow, on a meadow, on the grass, in a grassy field, in a green field, on green grass, out on the grass, on a lawn, in the countryside
beach: on a beach, at the beach, on a sandy beach, by the sea, at the seaside, on the sand, on the shore, on a sandy shore
snow: in the snow, on the snow, in a snowy landscape, in a snowy field, in a winter landscape, on snowy ground, out in the snow
night: at night, under a night sky, on a dark night, in the dark, in the dark of night, after dark, by night, under the stars, under a starry sky
sea: under the sea, underwater, under water, in the sea, on the sea floor, at the bottom of the sea, beneath the waves, deep in the sea
room: in a room, indoors, inside a room, in an indoor room, in an indoor space, within four walls
city: in a city, in the city, on a city street, in a street, in town, in front of city buildings, downtown, in front of a skyline
studio: in a studio, against a plain background, on a plain background, in a plain studio, against a gray background, in front of a plain backdrop, in an empty studio
"""
SCENE_WORDS = """
meadow: a meadow, a green meadow, a grassy field, a field of grass, a green field under the sky, a grassy meadow, green countryside
beach: a beach, a sandy beach, a beach with the sea behind it, a sandy shore, a strip of sand by the sea, a seashore, the seaside
snow: a snowy landscape, a snowy field, a field of snow, snow-covered ground, a winter landscape, a wintry white field
night: a night sky, a dark night, a starry sky, a dark sky with small stars, a nighttime scene, the dark of night, a night full of stars
sea: the sea floor, an underwater scene, the bottom of the sea, the deep sea, the underwater world, blue-green water with bubbles
room: a room, the inside of a room, an indoor room, an indoor space, an interior, a room with a wall and a floor
city: a city, a city street, a row of gray buildings, a cityscape, a street with tall buildings, a city skyline, a town
studio: a plain background, a plain gray background, a studio, a bare studio, a neutral backdrop, an empty gray studio
"""
BACK_WORDS = """
meadow: a meadow, a green meadow, a grassy field, a field of grass, green grass, a grassy meadow
beach: a beach, a sandy beach, sand and sea, a sandy shore, a seashore, a beach by the sea
snow: a snowy landscape, snow, a snowy field, a winter landscape, snow-covered ground
night: a night sky, a dark sky, a starry sky, a dark night sky, the night sky, the dark of night
sea: the deep sea, an underwater scene, sea water with bubbles, the underwater world, the depths of the sea
room: the wall of a room, a room wall, an indoor wall, the pale wall of a room
city: a city, a row of gray buildings, city buildings, a city skyline, a cityscape, the buildings of a city
studio: a plain gray wall, a plain wall, a bare gray wall, a plain studio wall, a gray studio wall
"""
TAG_WORDS = """
meadow: meadow, grass, grassy field, countryside, green field
beach: beach, seaside, sandy beach, shore, beach background
snow: snow, winter, snowy field, winter landscape, snowy background
night: night, night sky, nighttime, dark sky, starry night
sea: underwater, under the sea, sea, sea floor, underwater scene
room: indoors, room, interior, inside a room, indoor scene
city: city, city street, town, skyline, urban scene
studio: studio, plain background, gray background, plain backdrop, studio background
"""
SIGN_WORDS = """
board: sign*4, board, signboard, placard
top: at the top*2, across the top, along the top, at the top edge, along the upper edge
bottom: at the bottom*2, across the bottom, along the bottom, at the bottom edge, along the lower edge
"""
_TABLES = {
    "": NOUNS + COLOR_WORDS + SIZE_WORDS + PLACE_WORDS + RELATION_WORDS + COUNT_WORDS,
    "where ": WHERE_WORDS,
    "scene ": SCENE_WORDS,
    "back ": BACK_WORDS,
    "tag ": TAG_WORDS,
    "sign ": SIGN_WORDS,
}
WORDINGS = ("train", "all", "other", "synonyms")


def plural(word: str) -> str:
    "The plural of a noun by the rule: cats, kitties, boxes."
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


def with_article(text: str) -> str:
    "Every 'a' before a vowel becomes 'an'."
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU](?!ne\b))", r"\1n ", text)


def stable_hash(name: str) -> int:
    "A number from a name, the same on every machine."
    return zlib.crc32(name.encode())


def kept_back(names: list[str], least: int = 0) -> set:
    """The fifth of the names that training never meets: those of the smallest hash; never the
    two most common. Our choice."""
    number = max(least, round(0.2 * len(names)))
    return set(sorted(names[2:], key=stable_hash)[:number])


class Choice:
    "Things to choose from with weights; fast to draw from."

    def __init__(self, items, weights):
        self.items = list(items)
        self.sums = list(itertools.accumulate(weights))
        self.total, self.last = self.sums[-1], len(self.items) - 1

    def pick(self, rng):
        "One of the items."
        return self.items[bisect.bisect(self.sums, rng.random() * self.total, 0, self.last)]


def choices(items: list, weights: list, held: list) -> dict:
    "A `Choice` for training, for all and for the held-out items only (all the others if none is)."
    everything = list(zip(items, weights, held))
    train = [e for e in everything if not e[2]]
    back = [e for e in everything if e[2]] or train
    parts = {"train": train, "all": everything, "held out": back}
    return {name: Choice(*zip(*[e[:2] for e in part])) for name, part in parts.items()}


def _entry(text, rank):
    "'mouse=mice*2' -> ('mouse', 'mice', 2.0); without a weight 2 for the first, 1/2, 1/3 and so on."
    word, _, weight = text.strip().partition("*")
    one, _, many = word.partition("=")
    return one, many or plural(one), float(weight or (2 if rank == 1 else 1 / rank))


def _read(prefix, table):
    "{meaning: [(word, plural, weight), ...]} of a table."
    out = {}
    for line in table.strip().split("\n"):
        if line:
            meaning, words = line.split(": ")
            entries = [_entry(w, i + 1) for i, w in enumerate(words.split(","))]
            out[prefix + meaning] = entries
    return out


MEANINGS = {k: v for prefix, t in _TABLES.items() for k, v in _read(prefix, t).items()}
HELD_OUT_WORDS = frozenset(
    f"{meaning}/{word}"
    for meaning, entries in MEANINGS.items()
    for word in kept_back([e[0] for e in entries], 1)
)
# A test of held-out synonyms leaves these as training has them: numbers, settings, signs.
_PLAIN = (
    "1",
    "2",
    "3",
    "4",
    *[f"{p}{m}" for p in list(_TABLES)[1:] for m in _read("", _TABLES[p])],
)


def _pools(meaning):
    "The `Choice` of words of a meaning under each of `WORDINGS`."
    entries = MEANINGS[meaning]
    held = [f"{meaning}/{e[0]}" in HELD_OUT_WORDS for e in entries]
    pools = choices([e[0] for e in entries], [e[2] for e in entries], held)
    unusual = pools["train"] if meaning in _PLAIN else pools["held out"]
    return {
        "train": pools["train"],
        "all": pools["all"],
        "other": pools["train"],
        "synonyms": unusual,
    }


POOLS = {meaning: _pools(meaning) for meaning in MEANINGS}
PLURALS = {one: many for entries in MEANINGS.values() for one, many, _ in entries}
