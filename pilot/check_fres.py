"""Checks of the French and Spanish captions. Run in the folder above `toyworld`."""

import collections
import random
import re
import statistics
import time

from toyworld import es, fr, romance, world

NEEDED = {
    "single": {"object"},
    "two": {"object"},
    "counting": {"count"},
    "colors": {"color"},
    "position": {"object", "relation"},
    "attribute": {"object", "color"},
    "text": {"word"},
}
BAD = {
    "fr": r"\b(de|à) les?\b|\b(le|la|de|que|je|du|au) [aeiouéèêœ]\w"
    r"|\bdes (petit|grand|énorme|minuscule)"
    r"|\bun(?= (\w+ )?(maison|pomme|étoile|carotte|voiture|tulipe|cloche|théière)\b)"
    r"|\bune (petite |grande |grosse )?(chat|chien|arbre|château|cœur|robot|champignon|cadeau)\b"
    r"|oranges\b|\b(deux|trois|quatre) (petits |grands )?(chat|maison|château|cadeau) ",
    "es": r"\b(de|a) el\b"
    r"|\bun (casa|manzana|flor|estrella|campana|tetera|seta|zanahoria|mariposa)\b"
    r"|\buna (gato|perro|árbol|pez|hongo|globo|corazón|robot|castillo)\b|naranjas\b|\brosas\b"
    r"|\b(dos|tres|cuatro) (pequeños |grandes )?(gato|casa|pez|árbol|flor|corazón) "
    r"|\bgran (?!paraguas|cactus)\w+s\b",
}
SAME = r"\b(\w+) \1\b|  | [,.]|\.\.|[{}\[\]|]"


def scenes(n, seed):
    "Scenes of every skill and of the mix, with the skill or None."
    rng = random.Random(seed)
    for i in range(n):
        skill = [None, *world.SKILLS][i % (len(world.SKILLS) + 1)]
        part = "signs" if skill == "text" and i % 2 else "train"
        yield skill, world.sample_scene(rng, skill, part)


def states(text, facts, module):
    "Do words of the text name every stated colour and the sign's word, in some form?"
    low = text.lower()
    for f in facts:
        if f.what == "word":
            assert f'{f.args[0]}' in text, text
        if f.what in ("color", "word color"):
            for c in f.args[1:] if f.what == "color" else f.args:
                forms = [w.lower() for a in module.COLORS[c] for w in a.forms]
                assert any(w in low for w in forms), (c, text)
        if f.what == "object":
            ws = [w for n in module.NOUNS[f.args[0]] for w in (n.singular, n.plural)]
            assert any(w in low for w in ws), (f, text)


def check(module, n=8000):
    lang, rng = module.GRAMMAR.lang, random.Random(5)
    used, lengths, share = collections.Counter(), {"dense": [], "brief": []}, []
    unsaid = collections.Counter()
    total = collections.Counter()
    for skill, scene in scenes(n, 1):
        true = world.scene_facts(scene)
        for how, asked in (("dense", None), ("brief", skill), ("brief", None)):
            out = module.dense(scene, rng) if how == "dense" else module.brief(scene, rng, asked)
            text, facts, frames = out
            assert set(facts) <= set(true), (text, set(facts) - set(true))
            assert len(set(facts)) == len(facts) and facts and frames, text
            bad = re.search(SAME, text) or re.search(BAD[lang], text)
            assert not bad, (bad, text)
            states(text, facts, module)
            words = romance.count_words(text)
            lengths[how].append(words)
            used.update(frames)
            if how == "brief":
                assert 2 <= words <= 14, text
                missing = [f for f in true if f.what in NEEDED.get(asked, ()) and f not in facts]
                assert not missing, (asked, text, missing)
            else:
                share.append(len(facts) / len(true))
                for f in true:
                    total[f.what] += 1
                    unsaid[f.what] += f not in facts
                for f in true:
                    if f.what in ("object", "count", "word"):
                        assert f in facts, (f, text)
    print(lang, "frames used", len(used), "of", sum(map(len, module.FRAMES.values())))
    assert len(used) >= 30
    for how, ls in lengths.items():
        deciles = statistics.quantiles(ls, n=10)
        spread = f"10-90% {deciles[0]:.0f}-{deciles[-1]:.0f}, max {max(ls)}"
        print(f"  {how}: mean {statistics.mean(ls):.1f} words, {spread}")
    print(f"  dense states {statistics.mean(share):.3f} of the facts:",
          {w: round(1 - unsaid[w] / total[w], 2) for w in total})


def speed(module, n=3000):
    some = [s for _, s in scenes(n, 2)]
    rng = random.Random(0)
    for f in (module.dense, module.brief):
        start = time.process_time()
        for s in some:
            f(s, rng)
        print(f"  {f.__name__}: {n / (time.process_time() - start):.0f} a second")


def variety(module):
    scene = world.sample_scene(random.Random(3), "two")
    rng = random.Random(0)
    for f in (module.dense, module.brief):
        different = len({f(scene, rng)[0] for _ in range(1000)})
        print(f"  {f.__name__}: {different} different of 1000 of one scene")


if __name__ == "__main__":
    for module in (fr, es):
        check(module)
        speed(module)
        variety(module)
