"""Checks of the English captions on thousands of random scenes: facts, lengths, variety, grammar."""

import collections
import random
import re
import sys
import time

from toyworld import english_frames
from toyworld.english_words import HELD_OUT_WORDS, MEANINGS, PLURALS
from toyworld.english_phrases import INVERSE
from toyworld.wording import NEEDED, brief_caption, dense_caption, first_sentence
from toyworld.world import COLORS, KINDS, PARTS, SIZES, SKILLS, sample_scene, scene_facts

SOUND_OF_A_VOWEL = re.compile(r"\b(a [aeiou](?!ne\b)\w*|an [^aeiou\"'“]\w*|an one)", re.I)
DOUBLED = re.compile(r"\b(\w+) \1\b", re.I)
FILLERS = ("spread", "apart", "filler", "sign alone")


def _pattern(meanings):
    "A pattern for all words of some meanings, and {word: meaning}."
    names = {}
    for meaning in meanings:
        for word, many, _ in MEANINGS[meaning]:
            names[word] = meaning
            if meaning in KINDS:
                names[PLURALS[word]] = meaning
    longest = sorted(names, key=len, reverse=True)
    spaced = "|".join(re.escape(w.replace("-", " ")) for w in longest)
    return re.compile(rf"\b({spaced})\b"), {w.replace("-", " "): names[w] for w in names}


PATTERNS = {
    "object": _pattern([k for k in KINDS if k in MEANINGS]),
    "color": _pattern(COLORS),
    "size": _pattern(SIZES),
}


def _named(text, what):
    pattern, names = PATTERNS[what]
    return {names[m] for m in pattern.findall(text)}


def outside_quotes(caption, scene):
    "The caption in lower case without the word on the sign and without frames that mislead."
    text = str(caption)
    if scene.sign:
        text = re.sub(rf"\b{scene.sign.word}\b", "#", text)
    return text.lower()


# What a backdrop or a style sentence says with words that also name kinds, colours or sizes.
SCENERY = [
    w
    for m in MEANINGS
    if m.split()[0] in ("where", "scene", "back", "tag")
    for w, _, _ in MEANINGS[m]
]
SCENERY += [
    f.split(": ", 1)[1]
    for t in english_frames.FRAMES
    for f in english_frames.FRAMES[t]
    if t in ("meadow", "beach", "snow", "night", "sea", "room", "city", "studio")
    or t.startswith("filler")
]
SCENERY = sorted((s for s in SCENERY if "{" not in s), key=len, reverse=True)
SCENERY = re.compile(rf"\b({'|'.join(re.escape(s.replace('-', ' ')) for s in SCENERY)})\b")


def told_by_text(caption, scene):
    "What a reader finds in the text, found without the facts: sets of kinds, colours and sizes."
    text = SCENERY.sub(
        "~", re.sub(r"[,:;()]", "", outside_quotes(caption, scene)).replace("-", " ")
    )
    return {what: _named(text, what) for what in PATTERNS}


def told_by_facts(caption):
    "The same from the facts."
    out = {what: set() for what in PATTERNS}
    for f in caption.facts:
        if f.what in ("object", "count"):
            out["object"].add(f.args[0])
        if f.what == "count" and len(f.args) == 3:
            out["color"].add(f.args[2])
        if f.what == "color":
            out["color"].update(f.args[1:])
        if f.what == "word color":
            out["color"].add(f.args[0])
        if f.what == "size":
            out["size"].add(f.args[1])
    return out


def complain(problems, name, caption, more=""):
    problems[name].append(f"{caption}   {more}")


def check(caption, scene, problems):
    "Facts, articles, doubled words."
    wrong = set(caption.facts) - set(scene_facts(scene))
    if wrong:
        complain(problems, "fact that is not true", caption, list(map(str, wrong)))
    text, facts = told_by_text(caption, scene), told_by_facts(caption)
    for what in text:
        if text[what] != facts[what]:
            complain(problems, f"{what}: text and facts differ", caption, (text[what], facts[what]))
    plain = outside_quotes(caption, scene)
    if SOUND_OF_A_VOWEL.search(plain):
        complain(problems, "article", caption, SOUND_OF_A_VOWEL.search(plain)[0])
    if DOUBLED.search(plain):
        complain(problems, "doubled word", caption, DOUBLED.search(plain)[0])
    if re.search(r"[{}\[\]<>~\ue000]|  | [,.;:]", str(caption)):
        complain(problems, "stray sign", caption)


def check_dense(caption, scene, problems):
    "What only holds for dense captions."
    check(caption, scene, problems)
    needed = {f for f in scene_facts(scene) if f.what in ("object", "color", "count", "word")}
    said = set(caption.facts)
    missing = {f for f in needed - said if not (f.what == "count" and len(f.args) == 3)}
    if missing:
        complain(problems, "dense leaves out", caption, list(map(str, missing)))
    if not any(c.islower() for c in caption) or not any(
        c.isupper() for c in outside(caption, scene)
    ):
        return
    for s in caption.sentences:
        first = re.search(r"\w", s)[0]
        if first.islower():
            complain(problems, "no capital", caption)
    for s in caption.sentences:
        check_relation(s, problems)
    one = first_sentence(caption, scene)
    if not set(one.facts) <= said:
        complain(problems, "first sentence", caption)


def check_relation(caption, problems):
    "Does a sentence that tells one relation name the two things in the right order?"
    frames = [
        f
        for f in caption.frames
        if re.match(r"(relation|inside|overlapping|brief (pair|ring|overlap)( free)?): ", f)
    ]
    facts = [f.args for f in caption.facts if f.what == "relation"]
    if len(frames) != 1 or len(facts) != 1 or any(f.startswith("tag") for f in caption.frames):
        return
    pattern, names = PATTERNS["object"]
    text = SCENERY.sub("~", re.sub(r"[,:;()]", "", caption.lower()).replace("-", " "))
    kinds = list(dict.fromkeys(names[m] for m in pattern.findall(text)))
    order = list(dict.fromkeys(re.findall(r"\{([ab])\}", frames[0])))
    if len(kinds) != 2 or len(order) != 2:
        return
    by_slot = dict(zip(order, kinds))
    a, b = by_slot["a"], by_slot["b"]
    if frames[0].startswith(("inside", "brief ring")):
        ok = b == "ring" and facts[0] in ((a, "inside", b), (b, "around", a))
    elif "overlap" in frames[0].split(":")[0]:
        ok = facts[0] == (a, "overlapping", b)
    else:
        told = [r for r in INVERSE if f"{r}/" in " ".join(w for w in caption.words)]
        ok = len(told) == 1 and facts[0] in ((a, told[0], b), (b, INVERSE[told[0]], a))
        if "{inverse}" in frames[0]:
            ok = len(told) == 1 and facts[0] in ((a, INVERSE[told[0]], b), (b, told[0], a))
    check_relation.done += 1
    if not ok:
        complain(problems, "relation told wrongly", caption, (facts, frames))


check_relation.done = 0


def outside(caption, scene):
    return str(caption).replace(scene.sign.word, "") if scene.sign else str(caption)


def check_skill(caption, scene, skill, problems):
    "Does a brief caption state what its skill needs?"
    check(caption, scene, problems)
    said = set(caption.facts)
    true = scene_facts(scene)
    for what in NEEDED[skill]:
        facts = [f for f in true if f.what == what and not (what == "count" and len(f.args) == 3)]
        ok = any(f in said for f in facts) if what == "relation" and facts else set(facts) <= said
        if skill == "position" and what == "object" and any(f.what == "relation" for f in said):
            ok = True
        if not ok:
            complain(problems, f"brief for {skill} lacks {what}", caption, list(map(str, facts)))


def histogram(lengths, step):
    counts = collections.Counter(n // step * step for n in lengths)
    for n in sorted(counts):
        share = counts[n] / len(lengths)
        print(f"  {n:4d} to {n + step - 1:4d}  {share:6.1%}  {'#' * round(share * 100)}")


def variety(name, captions):
    frames = collections.Counter(f for c in captions for f in c.frames)
    words = collections.Counter(w for c in captions for w in c.words)
    print(
        f"{name}: {len(frames)} frames, {len(words)} synonyms, {len(set(captions))} of {len(captions)} captions distinct"
    )
    return frames, words


def held_out(frames, words):
    return set(frames) & english_frames.HELD_OUT_FRAMES, set(words) & HELD_OUT_WORDS


def leaks(captions, scenes):
    "Held-out nouns, colours and sizes that stand in captions for training, as strings."
    held = [w.split("/")[1] for w in HELD_OUT_WORDS if w.split("/")[0] in (*KINDS, *COLORS, *SIZES)]
    pattern = re.compile(rf"\b({'|'.join(held + [PLURALS[h] for h in held])})\b")
    return collections.Counter(
        m for c, s in zip(captions, scenes) for m in pattern.findall(outside_quotes(c, s))
    )


def shares(captions, scenes):
    "Share of the facts of each kind that captions state."
    told, true = collections.Counter(), collections.Counter()
    for c, s in zip(captions, scenes):
        true.update(f.what for f in scene_facts(s))
        told.update(f.what for f in c.facts)
    return {what: round(told[what] / true[what], 2) for what in true}


def filler_share(captions):
    total = extra = 0
    most = 0
    for c in captions:
        n = len(c.split())
        e = sum(len(s.split()) for s in c.sentences if any(f.startswith(FILLERS) for f in s.frames))
        total, extra, most = total + n, extra + e, max(most, e / n)
    return extra / total, most


def main(number=4000, seed=0):
    rng, problems = random.Random(seed), collections.defaultdict(list)
    scenes = [sample_scene(rng, part=rng.choice(list(PARTS)[:2])) for _ in range(number)]
    start = time.process_time()
    dense = [dense_caption(s, rng) for s in scenes]
    middle = time.process_time()
    brief = [brief_caption(s, rng) for s in scenes]
    print(
        f"a second: {number / (middle - start):.0f} dense, {number / (time.process_time() - middle):.0f} brief"
    )
    for c, s in zip(dense, scenes):
        check_dense(c, s, problems)
    for c, s in zip(brief, scenes):
        check(c, s, problems)
        check_relation(c, problems)
    print("sentences with a relation looked at:", check_relation.done)
    skilled = []
    for skill in SKILLS:
        for _ in range(number // 7):
            scene = sample_scene(rng, skill)
            skilled.append(brief_caption(scene, rng, skill=skill))
            check_skill(skilled[-1], scene, skill, problems)
    for name, captions, step in (
        ("dense", dense, 10),
        ("brief", brief, 2),
        ("brief with skill", skilled, 2),
    ):
        lengths = [len(c.split()) for c in captions]
        print(
            f"{name}: {sum(lengths) / len(lengths):.1f} words on average, {min(lengths)} to {max(lengths)}"
        )
        histogram(lengths, step)
    print("share of fillers in dense captions (mean, most): %.2f %.2f" % filler_share(dense))
    print("facts told, dense:", shares(dense, scenes))
    print("facts told, brief:", shares(brief, scenes))
    print("first sentence:", shares([first_sentence(c, s) for c, s in zip(dense, scenes)], scenes))
    for name, captions in (
        ("dense", dense),
        ("brief", brief + skilled),
        ("both", dense + brief + skilled),
    ):
        frames, words = variety(name, captions)
        frames_held, words_held = held_out(frames, words)
        if frames_held or words_held:
            problems["held out in train"].append(str((frames_held, words_held)))
    print("held-out words in other words or frames:", dict(leaks(dense + brief, scenes + scenes)))
    print(
        f"in all {sum(map(len, english_frames.FRAMES.values()))} frames, {len(english_frames.HELD_OUT_FRAMES)} held out;"
        f" {sum(map(len, MEANINGS.values()))} synonyms, {len(HELD_OUT_WORDS)} held out"
    )
    for wording in ("all", "other", "synonyms"):
        both = [f(s, rng, wording=wording) for s in scenes for f in (dense_caption, brief_caption)]
        for c, s in zip(both, [s for s in scenes for _ in range(2)]):
            check(c, s, problems)
        frames, words = variety(wording, both)
        share_frames = sum(
            n for f, n in frames.items() if f in english_frames.HELD_OUT_FRAMES
        ) / sum(frames.values())
        share_words = sum(n for w, n in words.items() if w in HELD_OUT_WORDS) / sum(words.values())
        print(f"  share held out: frames {share_frames:.2f}, words {share_words:.2f}")
        if wording == "other" and held_out((), words)[1]:
            problems["held-out word in other"].append(str(held_out((), words)[1]))
        if wording == "synonyms" and held_out(frames, ())[0]:
            problems["held-out frame in synonyms"].append(str(held_out(frames, ())[0]))
    frames = variety(
        "all again",
        [f(s, rng, wording="all") for s in scenes for f in (dense_caption, brief_caption)],
    )[0]
    unused = [f for f in english_frames.FRAMES for f in english_frames.FRAMES[f]]
    print("frames never met in 'all':", sorted(set(unused) - set(frames)))
    for name, cases in problems.items():
        print(f"PROBLEM {name}: {len(cases)}")
        for case in cases[:6]:
            print("   ", case)
    print("problems:", sum(map(len, problems.values())))
    return not problems


if __name__ == "__main__":
    sys.exit(not main(*map(int, sys.argv[1:])))
