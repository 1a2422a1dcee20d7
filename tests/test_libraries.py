"""What a kept library computes now is what our own lines computed before."""

import math
import random
import re

import numpy as np
import pytest
import torch

from lens_ref.core.config import ConfigError, DataError
from lens_ref.lens.lineage import whole_table
from lens_ref.pretrain.evaluate import table_markdown
from lens_ref.pretrain.intervals import share, wilson
from lens_ref.reasoner.search import paired_bootstrap
from lens_ref.rl.judges import edit_distance, likeness


def old_wilson(passed, n, z=1.96):
    p, d = passed / n, 1 + z * z / n
    middle = (p + z * z / (2 * n)) / d
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return max(0.0, middle - half), min(1.0, middle + half)


def test_the_interval_of_a_share_is_the_same():
    "scipy has 1.95996 where 1.96 stood: nothing that is shown in percent moves."
    for n in (1, 7, 50, 350, 10_000):
        for passed in {0, 1, n // 3, n - 1, n}:
            new, old = wilson(passed, n), old_wilson(passed, n)
            assert new == pytest.approx(old, abs=2e-5) and all(type(x) is float for x in new)
    assert wilson(0.1 * 3 * 10, 10) == wilson(3, 10)  # a mean times a number, rounded by floats
    assert share([True, False]) == dict(score=0.5, n=2, **dict(zip(("low", "high"), wilson(1, 2))))
    with pytest.raises(DataError, match="no pictures"):
        share([])


def old_bootstrap(before, after, n=4000, seed=0):
    d = torch.tensor(after, dtype=torch.float64) - torch.tensor(before, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    means = d[torch.randint(len(d), (n, len(d)), generator=generator)].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return dict(gain=d.mean().item(), low=low, high=high, p=(means <= 0).double().mean().item())


@pytest.mark.parametrize("n", [1, 2, 10, 200])
def test_the_bootstrap_is_the_same_but_for_its_draws(n):
    rng = random.Random(n)
    before = [rng.random() < 0.5 for _ in range(n)]
    after = [rng.random() < 0.7 for _ in range(n)]
    before, after = ([int(x) for x in xs] for xs in (before, after))
    new, old = (f(before, after, 20_000) for f in (paired_bootstrap, old_bootstrap))
    width = np.std(np.subtract(after, before)) / math.sqrt(n)
    assert new["gain"] == pytest.approx(old["gain"], abs=1e-12)
    for k in ("low", "high"):
        assert new[k] == pytest.approx(old[k], abs=0.1 * width + 1.0 / n * (n < 30) + 1e-12), k
    assert new["p"] == pytest.approx(old["p"], abs=0.015)
    assert paired_bootstrap(before, after) == paired_bootstrap(before, after)


def test_the_bootstrap_of_equal_differences_and_of_nothing():
    same = paired_bootstrap([0, 0, 0], [1, 1, 1])
    assert same == dict(gain=1.0, low=1.0, high=1.0, p=0.0)
    assert paired_bootstrap([0, 1], [0, 1])["p"] == 1.0
    for pair in (([], []), ([1], []), ([1, 2], [1])):
        with pytest.raises(ConfigError):
            paired_bootstrap(*pair)


def old_distance(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        old, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(row[-1] + 1, old[j] + 1, old[j - 1] + (x != y)))
    return row[-1]


def test_the_edit_distance_is_the_same():
    rng = random.Random(0)
    letters = "ab \xe9\u732b\U0001f63a\u0301"
    words = ["", *("".join(rng.choices(letters, k=rng.randrange(9))) for _ in range(60))]
    for a in words:
        for b in words:
            assert edit_distance(a, b) == old_distance(a, b), (a, b)
    assert likeness("OPEN", ["the OPFN sign"]) == 0.75 and likeness("OPEN", []) == 0


def cells(text):
    "A Markdown table as lists of its cells, and on which side each column stands."
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]
    sides = ["right" if re.fullmatch(r"-+:", c) else "left" for c in rows[1]]
    return [rows[0], *rows[2:]], sides


def test_tables_have_the_cells_they_had():
    table = {"two words": dict(score=0.5, low=0.0951, high=0.9049, n=2), "all": share([True] * 9)}
    rows, sides = cells(table_markdown(table, "size"))
    assert rows == [
        ["size", "passed, %", "95% interval", "images"],
        ["two words", "50", "10 to 90", "2"],
        ["all", "100", "70 to 100", "9"],
    ]
    assert sides == ["left"] * 4
    rows, sides = cells(whole_table([dict(name="007", score=0.5, seconds=1, passes=40)]))
    assert rows[1] == ["007", "50", "1.00", "40"] and sides == ["left", *["right"] * 3]
