"""Scores: which stated facts a picture shows, by skill, with intervals, and differences of runs on the same prompts."""

import math
import time
from statistics import NormalDist, fmean

import torch
from scipy import stats

from lens_ref.core.config import DataError
from lens_ref.core.runs import duration

from .reader import holds
from .splits import split as make_split

_Z = NormalDist().inv_cdf(0.975)  # half the width of a 95% interval in standard errors


# ---- shares and ratios
def wilson(passed: float, n: int) -> tuple[float, float]:
    "95% interval of a share: (low, high). Wilson 1927. Raises `DataError` for no pictures."
    if not n:
        raise DataError("a share of no pictures has no interval; score at least one")
    found = stats.binomtest(round(passed), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def share(outcome: list) -> dict:
    "Passes as dict(score, low, high, n)."
    passed, n = sum(outcome), len(outcome)
    low, high = wilson(passed, n)
    return dict(score=passed / n, low=low, high=high, n=n)


def ratio(parts: list, wholes: list) -> dict:
    """Sum of `parts` over sum of `wholes`, one of each for every prompt: dict(score, low, high, n).

    The 95% interval takes the prompts as drawn at random (the ratio's linearised variance), so a
    prompt with several facts or pictures counts as one. Raises `DataError` for less than two
    prompts or wholes of zero."""
    n, whole = len(wholes), sum(wholes)
    if n < 2 or not whole:
        raise DataError(f"ratio: {n} prompts with a sum of {whole}; give at least two, above zero")
    score = sum(parts) / whole
    rest = sum((p - score * w) ** 2 for p, w in zip(parts, wholes))
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(rest * n / (n - 1)) / whole
    return dict(score=score, low=max(0.0, score - half), high=score + half, n=n)


def paired(first: list, second: list) -> dict:
    """Mean of `second` minus mean of `first`, for the same prompts in the same order: passes, or
    means over seeds, in [0, 1].

    dict(difference, low, high, better, worse, p, n). The 95% interval adds half a prompt that got
    better and half a prompt that got worse to those that changed, and one to those that did not
    (Agresti and Min 2005), which also holds where few prompts change. `p`: of the exact sign test
    (McNemar's for passes). Raises `DataError` for unequal lengths or no prompts."""
    n = len(first)
    if n != len(second) or not n:
        raise DataError(f"paired: {n} and {len(second)} results; give the same prompts to both")
    gains = [float(b) - float(a) for a, b in zip(first, second)]
    total, squares = sum(gains), sum(g * g for g in gains)
    middle = total / (n + 2)
    half = _Z * math.sqrt((squares + 1) / (n + 2) - middle**2) / math.sqrt(n + 2)
    better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
    p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    found = dict(difference=total / n, low=middle - half, high=middle + half)
    return found | dict(better=better, worse=worse, p=p, n=n)


# ---- grading
def failures(prompt, reading) -> list:
    "The stated facts that do not hold in the reading of a picture: list of Fact."
    return [f for f in prompt.facts if not holds(f, reading)]


def grade(prompt, reading) -> dict:
    """One picture: dict(name, skill, passed, wrong, facts). Only stated facts are graded.

    `wrong`: the stated facts that do not hold, as strings; `facts`: {kind: [right, stated]}."""
    wrong, tally = failures(prompt, reading), {}
    for fact in prompt.facts:
        row = tally.setdefault(fact.what, [0, 0])
        row[0] += fact not in wrong
        row[1] += 1
    passed = not any(f.what in prompt.decides for f in wrong)
    named = dict(name=prompt.name, skill=prompt.skill, passed=passed)
    return named | dict(wrong=[str(f) for f in wrong], facts=tally)


def summarize(grades: list) -> dict:
    """A table of `grade` rows: {skill: dict(score, low, high, n)}, and as 'overall' the mean of
    the skills with the interval of that share of all pictures."""
    table = {}
    for skill in dict.fromkeys(g["skill"] for g in grades):
        table[skill] = share([g["passed"] for g in grades if g["skill"] == skill])
    mean = fmean(row["score"] for row in table.values())
    low, high = wilson(mean * len(grades), len(grades))
    return table | {"overall": dict(score=mean, low=low, high=high, n=len(grades))}


def summarize_facts(grades: list) -> dict:
    """Beside the passes: 'stated', the share of stated facts that hold; 'all_facts', the share of
    pictures in which all of them do; 'by_fact', {kind: dict(score, right, n)}."""
    right = [sum(r for r, _ in g["facts"].values()) for g in grades]
    stated = [sum(n for _, n in g["facts"].values()) for g in grades]
    by_fact = {}
    for what in sorted({what for g in grades for what in g["facts"]}):
        rows = [g["facts"][what] for g in grades if what in g["facts"]]
        a, n = (sum(column) for column in zip(*rows))
        by_fact[what] = dict(score=a / n, right=a, n=n)
    whole = share([r == n for r, n in zip(right, stated)])
    return dict(stated=ratio(right, stated), all_facts=whole, by_fact=by_fact)


# ---- drawing and scoring
def generate(
    pipe, prompts: list, seed: int = 0, batch: int = 50, progress=None, **kwargs
) -> torch.Tensor:
    """Pictures [N, 3, H, W] in [-1, 1] for texts. The noise of each depends only on the seed and
    its place in the list. `progress`: a function of a line, called after every batch; kwargs go
    to the pipeline."""
    out, since = [], time.monotonic()
    for start in range(0, len(prompts), batch):
        some = prompts[start : start + batch]
        noise = [torch.Generator().manual_seed(seed * 2**20 + start + i) for i in range(len(some))]
        out.append(pipe(some, generator=noise, output_type="signed", **kwargs).images)
        done, seconds = start + len(some), time.monotonic() - since
        if progress:
            left = duration(seconds / done * (len(prompts) - done))
            progress(f"{done} of {len(prompts)} pictures, ETA {left}")
    return torch.cat(out)


def evaluate(
    pipe,
    split: str = "dense",
    per_skill: int = 100,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    sealed: bool = False,
    *,
    reader,
    keep: bool = False,
    **kwargs,
) -> dict:
    """Toy GenEval of a pipeline on one split, ready for JSON: every skill's and 'overall'
    dict(score, low, high, n), the rows of `summarize_facts`, and the settings.

    steps, guidance: None for the pipeline's own. `seed`: of the noise; the prompts do not depend
    on it. `sealed`: the test set whose scores go into tables and decide nothing. `reader.read`
    turns pictures into readings. `keep`: also the `grade` of every prompt with its text, for
    `compare`. kwargs go to `generate` and the pipeline. Raises `DataError` for an unknown split."""
    prompts = make_split(split, per_skill, sealed=sealed)
    steps = pipe.defaults["num_inference_steps"] if steps is None else steps
    guidance = pipe.defaults["guidance_scale"] if guidance is None else guidance
    asked = dict(num_inference_steps=steps, guidance_scale=guidance)
    images = generate(pipe, [p.text for p in prompts], seed, **asked, **kwargs)
    grades = [grade(p, r) for p, r in zip(prompts, reader.read(images))]
    how = dict(split=split, sealed=sealed, per_skill=per_skill, seed=seed)
    found = how | dict(steps=steps, guidance=guidance) | summarize(grades) | summarize_facts(grades)
    if keep:
        found["prompts"] = [dict(text=p.text, **g) for p, g in zip(prompts, grades)]
    return found


def evaluate_sizes(pipe, sizes: list, **kwargs) -> dict:
    """The overall row of `evaluate` for the same prompts in each of `sizes`, (height, width) in
    pixels: {'64x96': dict(score, low, high, n)}."""
    return {f"{h}x{w}": evaluate(pipe, height=h, width=w, **kwargs)["overall"] for h, w in sizes}


# ---- comparing runs
def _by_name(results):
    "{name: (skill, mean of its passes over results)}, of one result of `evaluate` or a list."
    runs = [results] if isinstance(results, dict) else list(results)
    if not runs or any("prompts" not in run for run in runs):
        raise DataError("prompts: a result has none; evaluate with keep=True to compare")
    names = [[g["name"] for g in run["prompts"]] for run in runs]
    if any(n != names[0] for n in names):
        raise DataError("prompts: the runs of one side differ in their prompts; score the same")
    rows = zip(*(run["prompts"] for run in runs))
    return {row[0]["name"]: (row[0]["skill"], fmean(g["passed"] for g in row)) for row in rows}


def compare(first, second) -> dict:
    """Two results of `evaluate` with keep=True on the same scenes (or two lists of results over
    seeds, whose passes are averaged prompt by prompt): {'overall' or skill: `paired`}.

    The runs may differ in anything else: model, steps, wording. Raises `DataError` where the
    scenes are not the same."""
    a, b = _by_name(first), _by_name(second)
    if list(a) != list(b):
        raise DataError("prompts: the two sides are not about the same scenes; see `split`")
    table = {}
    for skill in dict.fromkeys(skill for skill, _ in a.values()):
        mine = [name for name in a if a[name][0] == skill]
        table[skill] = paired([a[name][1] for name in mine], [b[name][1] for name in mine])
    values = [[passed for _, passed in side.values()] for side in (a, b)]
    return table | {"overall": paired(*values)}


def over_seeds(results: list) -> dict:
    """One score from results of `evaluate` with keep=True that differ in the noise alone:
    dict(score, low, high, n), n prompts; the interval counts prompts, not pictures."""
    passed = [p for _, p in _by_name(results).values()]
    return ratio(passed, [1.0] * len(passed))
