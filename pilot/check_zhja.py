"""Checks of the Chinese and Japanese captions: facts, frames, text and speed."""
import random
import re
import time

from toyworld import ja, zh
from toyworld.telling import NEEDED
from toyworld.world import SKILLS, sample_scene, scene_facts

DOUBLED = re.compile(
    r"的的|[，。；、！？]{2}|色色|一个个|一一|[{}]|None|^[，。；、]| |在在|有有|是是|です[でだ]|だだ"
    r"|はは|がが|をを|にに|のの|でで|とと(?!ても)|はが|がは|はを|をは|がを|をが|にが|がに"
    r"|にを|をに|のを|とを|とが|とは|[赤青色さき]いの(?!ぬ)|なの|いな"
)
WORDS = {  # tables of words by module
    zh: {"short": zh._SHORT, "size": (zh.SIZES, zh._SIZED)},
    ja: {
        "short": ja._COLOR_NOUNS,
        "size": (ja.SIZES, ja._SIZE_NOUNS, {k: (v,) for k, v in ja._SIZE_LEVELS.items()}),
    },
}


def templates(module):
    "All frames of a module: {id: template}."
    out = {}

    def walk(value):
        if isinstance(value, dict):
            out.update({k: v for k, v in value.items() if str(k)[:3] in ("zh ", "ja ")})
            for v in value.values():
                walk(v)

    for name, value in vars(module).items():
        if name.startswith("_") and name.isupper():
            walk(value)
    return out


def said(module, fact, text):
    "Is a fact's wording in the text? Numbers and relations are not looked for."
    words = WORDS[module]
    if fact.what == "object":
        return any(name in text for name, _ in module.NOUNS[fact.args[0]])
    if fact.what in ("color", "word color"):
        colors = fact.args[1:] if fact.what == "color" else fact.args
        names = [(*module.COLORS[c], *words["short"].get(c, ())) for c in colors]
        return all(any(w in text for w in some) for some in names)
    if fact.what == "size":
        return any(w in text for table in words["size"] for w in table[fact.args[1]])
    if fact.what == "place":
        return any(w in text for w in module.PLACES[fact.args[1:]])
    if fact.what == "word place":
        return any(w in text for w in module._BOARD_PLACES[fact.args[0]])
    if fact.what == "setting":
        return any(w in text for some in module.SETTINGS[fact.args[0]] for w in some)
    return True


def unsaid(module, scene, facts, text):
    "Kinds, colours and sizes that the text names without a fact."
    words, what = WORDS[module], {f.what for f in facts}
    bare = re.sub(r"[^，。；、]*(背景|场景|情景|絵で|景色|場面|看板)[^，。；、]*", "", text)
    kinds = {f.args[0] for f in facts if f.what == "object"}
    out = []
    for kind in scene.groups:
        if kind not in kinds and any(len(n) > 1 and n in bare for n, _ in module.NOUNS[kind]):
            out.append(kind)
    if not what & {"color", "word color", "count"}:
        out += [c for c, ws in module.COLORS.items() if any(w in bare for w in ws)]
    if "size" not in what:
        sizes = [w for table in words["size"] for ws in table.values() for w in ws]
        out += [w for w in sizes if len(w) > 1 and w in bare]
    return out


def check(module, n=6000):
    "Facts true, needed facts stated, no doubled words; prints counts of frames, lengths and speed."
    rng = random.Random(3)
    frames, lengths, told, faults = set(), {"dense": [], "brief": []}, {}, 0
    for i in range(n):
        skill = SKILLS[i % len(SKILLS)] if i % 2 else None
        scene = sample_scene(rng, skill)
        true = set(scene_facts(scene))
        for name, (text, facts, ids) in (
            ("dense", module.dense(scene, rng)),
            ("brief", module.brief(scene, rng, skill)),
        ):
            assert set(facts) <= true and len(set(facts)) == len(facts), (text, facts)
            frames |= set(ids)
            missing = [f for f in facts if not said(module, f, text)]
            assert not missing, (text, missing)
            extra = unsaid(module, scene, facts, text)
            assert not extra, (extra, text)
            lengths[name].append(len(text))
            found = DOUBLED.search(text.replace("さかな", "魚").replace("にんじん", "人参"))
            if found:
                faults += 1
                if faults < 12:
                    print("  doubled?", found.group(), text)
            if scene.sign and (name == "dense" or skill == "text"):
                assert re.search(rf"[“「『‘\"]{scene.sign.word}[”」』’\"]", text), text
            if name == "brief":
                need = {f for f in true if f.what in NEEDED.get(skill, ())}
                assert need <= set(facts), (skill, text, need - set(facts))
                continue
            for f in true:
                share = told.setdefault(f.what, [0, 0])
                share[0] += f in facts
                share[1] += 1
    print(module.__name__, len(frames), "frames;", faults, "doubled")
    known = templates(module)
    bare = {re.sub(r"[，。；、！？]", "", v) for v in known.values()}
    print(f"  {len(known)} written, {len(bare)} differ in more than punctuation")
    assert frames <= set(known) and len(bare) == len(known) and len(frames) >= 30
    assert not faults
    for name, some in lengths.items():
        some.sort()
        low, high = some[n // 20], some[-n // 20]
        print(f"  {name}: mean {sum(some) / n:.0f}, 5% {low}, 95% {high} characters")
    print("  dense states", {k: round(a / b, 2) for k, (a, b) in told.items()})


def speed(module, n=3000):
    "Captions a second."
    rng = random.Random(5)
    scenes = [sample_scene(rng) for _ in range(n)]
    start = time.process_time()
    for scene in scenes:
        module.dense(scene, rng)
    middle = time.process_time()
    for scene in scenes:
        module.brief(scene, rng)
    end = time.process_time()
    print(f"  a second: dense {n / (middle - start):.0f}, brief {n / (end - middle):.0f}")


for module in (zh, ja):
    check(module)
    speed(module)
    again = [module.dense(sample_scene(random.Random(7)), random.Random(1)) for _ in range(2)]
    assert again[0] == again[1]
print("all fine")
