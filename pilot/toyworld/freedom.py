"""How much is left open by a prompt, and how much of that a model fills in: variety against the renderer's own."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from lens_ref.core.config import DataError

from .drawing import render
from .scores import grade, ratio
from .sign_words import TRAIN_WORDS
from .world import (
    COLORS,
    HELD_OUT_PAIRS,
    LAYOUTS,
    SETTINGS,
    SIZES,
    SPRITES,
    _apart,
    _inside,
    _overlapping,
    _spot,
    _thing,
    _third,
    close_together,
    novelties,
    place_name,
    scene_facts,
    vary,
)


# ---- the same stated facts, all else anew
def _told(facts, what):
    "Of which kinds (or for the setting and the sign: whether) facts of this sort are stated."
    return {f.args[0] for f in facts if f.what == what}


def _new_colors(kind, n, rng):
    "Colours for n things of a kind, one in four times two of them, as `sample_scene` has it."
    allowed = [c for c in COLORS if (kind, c) not in HELD_OUT_PAIRS]
    first, second = rng.sample(allowed, 2)
    k = rng.randint(1, n - 1) if n > 1 and rng.random() < 0.25 else n
    return [first] * k + [second] * (n - k)


def _new_group(kind, group, facts, free, rng):
    "(kind, color, size) of each thing of a group; a kind that is not stated becomes one of `free`."
    mine = [f for f in facts if f.args[0] == kind or f.what == "relation" and kind in f.args]
    about = {"count in color" if len(f.args) > 2 and f.what == "count" else f.what for f in mine}
    if not about and kind != "ring":
        kind = free.pop()
    kept = about & {"color", "count in color"}
    colors = [t.color for t in group] if kept else _new_colors(kind, len(group), rng)
    size = group[0].size if "size" in about or kind == "ring" else rng.choice(list(SIZES))
    return [(kind, c, size) for c in colors]


def _new_groups(scene, facts, rng):
    "(kind, color, size) of all things, group by group."
    free = [k for k in SPRITES if k not in scene.groups]
    rng.shuffle(free)
    groups = scene.groups.items()
    return [w for kind, group in groups for w in _new_group(kind, group, facts, free, rng)]


def _cells(things, facts, rng):
    "A layout for as many things: those whose place is stated keep their cell."
    told = _told(facts, "place")
    kept = [(_third(t.y), _third(t.x)) if t.kind in told else None for t in things]
    fixed = {c for c in kept if c}
    layouts = [s for s in LAYOUTS[len(things)] if fixed <= set(s)]
    rest = [c for c in rng.choice(layouts) if c not in fixed]
    rng.shuffle(rest)
    return [c or rest.pop() for c in kept]


def _spread_anew(scene, what, facts, rng):
    things = [t for group in scene.groups.values() for t in group]
    cells = _cells(things, facts, rng)
    return [
        _thing(*w, rng, lambda side, cell=cell: _spot(*cell, side, rng))
        for w, cell in zip(what, cells)
    ]


def _close_anew(scene, what, rng):
    "Things inside or over one another stay so; where, and from which side, is drawn anew."
    ring = scene.things[0].kind == "ring"
    spots = (_inside if ring else _overlapping)(rng)
    sizes = ("small", "medium") if ring else ("large",)
    fits = lambda w: w[0] == "ring" or w[2] in sizes
    what = [w if fits(w) else (*w[:2], rng.choice(sizes)) for w in what]
    return [_thing(*w, rng, lambda side, t=t: (t.x, t.y)) for w, t in zip(what, spots)]


def _beside_sign(what, place, scene, facts, rng):
    "Things clear of a board at `place`."
    told = _told(facts, "place")
    things = [t for group in scene.groups.values() for t in group]
    columns = {1: [1], 2: rng.sample([0, 2], 2)}.get(len(things), [])
    if any(t.kind in told for t in things):
        columns = [_third(t.x) for t in things]
    middle = 0.3 if place == "bottom" else 0.68
    high = lambda: middle + rng.uniform(-3, 3) / 64
    return [
        _thing(*w, rng, lambda side, column=column: (_spot(1, column, side, rng)[0], high()))
        for w, column in zip(what, columns)
    ]


def _new_sign(sign, facts, rng):
    "The sign with all that is not stated drawn anew; it stays where a thing's place depends on it."
    told = {f.what for f in facts}
    fixed = {"word place", "place"} & told
    return replace(
        sign,
        word=sign.word if "word" in told else rng.choice(TRAIN_WORDS),
        color=sign.color if "word color" in told else rng.choice(list(COLORS)),
        place=sign.place if fixed else rng.choice(["top", "bottom"]),
        board=rng.randrange(3),
    )


def _drawn_anew(scene, facts, rng):
    "One try at `vary_stated`."
    what = _new_groups(scene, facts, rng)
    sign = scene.sign and _new_sign(scene.sign, facts, rng)
    if sign:
        things = _beside_sign(what, sign.place, scene, facts, rng)
    elif close_together(scene):
        things = _close_anew(scene, what, rng)
    else:
        things = _spread_anew(scene, what, facts, rng)
    setting = scene.setting if _told(facts, "setting") else rng.choice(SETTINGS)
    return replace(
        scene, things=tuple(things), setting=setting, sign=sign, backdrop=rng.randrange(2**31)
    )


def vary_stated(scene, facts, rng):
    """A scene of which the same `facts` are true, with all that they leave open drawn anew as
    `sample_scene` draws it: looks, exact sizes and places, the backdrop, and whatever of setting,
    colours, sizes, places, sign and kinds is not stated. How many things there are stays.

    Nothing enters that training never meets, unless the scene has it. Raises `DataError` for a
    fact that is not true of the scene. Our choice."""
    facts = set(facts)
    wrong = facts - set(scene_facts(scene))
    if wrong:
        raise DataError(f"facts: {min(map(str, wrong))!r} is not true of the scene")
    allowed = novelties(scene) | {"scene"}
    for _ in range(1000):
        new = _drawn_anew(scene, facts, rng)
        touching = not close_together(scene) and not _apart(new.things)
        if facts <= set(scene_facts(new)) and novelties(new) <= allowed and not touching:
            return new
    return vary(scene, rng)


# ---- variety
def _lean(turn):
    "A turn in degrees: -1 to the right, 0 upright, 1 to the left."
    return (turn > 7) - (turn < -7)


def _of_thing(thing, told):
    "What a thing settles, by sort, but for sorts that are `told` of its kind."
    answers = {
        "artwork": thing.art,
        "mirror": thing.mirror,
        "turn": _lean(thing.turn),
        "place": place_name(thing.x, thing.y),
        "size": thing.size,
        "color": thing.color,
    }
    return {what: v for what, v in answers.items() if thing.kind not in told.get(what, ())}


def free_facts(facts, reading) -> dict:
    """What a picture settles of what `facts` leave open: {(sort, about what): answer}, as
    {("artwork", "cat 0"): 2, ("setting", ""): "beach"}.

    Artwork, mirroring and turn of the things of stated kinds, numbered from the top left; their
    places, sizes and colours, the setting, and place and colour of a stated sign where these are
    not stated."""
    told = {what: _told(facts, what) for what in ("place", "size", "color")}
    out = {} if _told(facts, "setting") else {("setting", ""): reading.setting}
    for kind in sorted(_told(facts, "object") - {"ring"}):
        in_order = sorted(reading.of(kind), key=lambda t: (place_name(t.x, t.y), t.x))
        for i, thing in enumerate(in_order):
            out |= {(what, f"{kind} {i}"): v for what, v in _of_thing(thing, told).items()}
    if reading.sign and _told(facts, "word"):
        sign = {"word place": reading.sign.place, "word color": reading.sign.color}
        out |= {(what, ""): v for what, v in sign.items() if not _told(facts, what)}
    return out


def disagreement(answers: list) -> float:
    "Probability that two of the answers, drawn without putting back, differ; 0 for fewer than two."
    n = len(answers)
    same = sum(k * (k - 1) for k in Counter(answers).values())
    return 1 - same / (n * (n - 1)) if n > 1 else 0.0


def pixel_spread(images: torch.Tensor) -> float:
    "Standard deviation of pictures [N, 3, H, W] of one prompt, root mean square over the pixels."
    return math.sqrt(images.float().var(0).mean().item())


def _variety(prompt, images, reader):
    """Of the passing pictures of one prompt: (how many, {"pixels": spread, sort of fact: sum of
    the disagreements}); nothing of the kind for fewer than two."""
    readings = reader.read(images)
    good = [i for i, r in enumerate(readings) if grade(prompt, r)["passed"]]
    if len(good) < 2:
        return len(good), {}
    out, answers = {"pixels": pixel_spread(images[good])}, {}
    for i in good:
        for question, answer in free_facts(prompt.facts, readings[i]).items():
            answers.setdefault(question, []).append(answer)
    for (sort, _), given in answers.items():
        out[sort] = out.get(sort, 0.0) + disagreement(given)
    return len(good), out


def renders(scenes: list) -> torch.Tensor:
    "The renderer's pictures of scenes: [N, 3, 64, 64] in [-1, 1]."
    pixels = torch.from_numpy(np.stack([render(s) for s in scenes]))
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def freedom(draw, prompts, noises=32, seed=0, *, reader, show=renders, least=4) -> dict:
    """How much a model's pictures of one prompt vary, as a multiple of how much the renderer's
    do: {'pixels', 'facts' and every sort of fact: dict(score, low, high, n)}, and 'passed'.

    `draw(texts, seed)`: pictures [N, 3, H, W] in [-1, 1] of texts, each from noise of its own;
    every prompt is drawn `noises` times. `show(scenes)`: the renderer's, as many for each prompt,
    with the stated facts kept (`vary_stated`). Both are read by `reader.read`; only pictures that
    pass count, and prompts with `least` of them on both sides. 'pixels' compares standard
    deviations, 'facts' the probability that two pictures differ in an answer (`free_facts`).
    Intervals count prompts. Our choice."""
    pairs, passed = [], 0
    for number, prompt in enumerate(prompts):
        rng = random.Random(f"{seed} {prompt.name}")
        scenes = [vary_stated(prompt.scene, prompt.facts, rng) for _ in range(noises)]
        good, model = _variety(prompt, draw([prompt.text] * noises, seed + number), reader)
        own, renderer = _variety(prompt, show(scenes), reader)
        passed += good
        if min(good, own) >= least:
            pairs.append((model, renderer))
    if len(pairs) < 2:
        raise DataError(f"prompts: {len(pairs)} with {least} passing pictures; two are needed")
    return _multiples(pairs) | dict(passed=passed / len(prompts) / noises, noises=noises)


def _multiples(pairs):
    "Model over renderer in each measure in which the renderer varies."
    total = lambda found: sum(v for sort, v in found.items() if sort != "pixels")
    pairs = [tuple(v | {"facts": total(v)} for v in pair) for pair in pairs]
    out = {}
    for sort in sorted({sort for _, own in pairs for sort in own}):
        some = [(model.get(sort, 0.0), own[sort]) for model, own in pairs if sort in own]
        if len(some) > 1 and sum(own for _, own in some):
            out[sort] = ratio(*zip(*some))
    return out
