"""Properties of buckets: where images land, what a step costs, who draws what, restarts, and
joined batches."""

import json
import random

import numpy as np
import pytest
import torch

from lens_ref.data import shards as data_shards
from lens_ref.pretrain.buckets import (
    Bucket,
    Buckets,
    MixedData,
    ReadAhead,
    bucket_caches,
    bucket_preset,
    draws,
    equal_batches,
    fit_into,
    load_caches,
    make_buckets,
    open_cache,
    pad_batches,
    rank_batches,
    save_caches,
    shard_caches,
    spread,
)
from lens_ref.core.config import ConfigError, DataError
from lens_ref.pretrain.caches import join_caches
from lens_ref.dit.positions import grid_mask
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.cost import count_flops
from lens_ref.dit.flow import per_sample_loss, training_mu
from lens_ref.core.loop import Learner, train
from lens_ref.pretrain.step import TrainConfig, pretrain_step
from lens_ref.data.drawing import render
from lens_ref.data.world import sample_scene

quiet = lambda line: None


def flops(name, text):
    return lambda n: count_flops(preset(name), n, text)["total"]


# ---- where images land


@pytest.mark.parametrize("name", ["lens", "toy"])
def test_every_image_lands_in_one_bucket_and_loses_least(name):
    buckets, rng = Buckets.preset(name), random.Random(0)
    for _ in range(400):
        h, w = (round(2 ** rng.uniform(4, 12.5)) for _ in range(2))
        fit = buckets.assign(h, w)
        (rh, rw), (x0, y0, x1, y1), b = fit.resize, fit.box, fit.bucket
        assert (
            (y1 - y0, x1 - x0) == (b.height, b.width)
            and 0 <= x0
            and 0 <= y0
            and x1 <= rw
            and y1 <= rh
        )
        assert (
            abs(y0 - (rh - y1)) <= 1
            and abs(x0 - (rw - x1)) <= 1
            and (rh == b.height or rw == b.width)
        )
        others = [fit_into(o, h, w) for o in buckets.all if o.base == b.base]
        assert (
            fit.kept == max(o.kept for o in others) and sum(o.kept == fit.kept for o in others) >= 1
        )
        assert (
            fit.kept == pytest.approx(b.height * b.width / (rh * rw), rel=0.04)
            or max(h, w) / min(h, w) > 30
        )  # whole pixels
        enlarged = lambda f: f.resize[0] > h or f.resize[1] > w
        assert not enlarged(fit) or b.base == buckets.bases[0]
        larger = [base for base in buckets.bases if base > b.base]
        assert all(enlarged(buckets.best(h, w, base)) for base in larger)
        assert buckets.assign(h, w) == fit and buckets(h, w) == (fit.resize, fit.box)


def test_a_picture_of_a_buckets_size_is_left_whole():
    for name in ("lens", "toy"):
        buckets = Buckets.preset(name)
        for b in buckets.all:
            f = buckets.assign(b.height, b.width)
            assert (f.bucket, f.kept, f.resize, f.box) == (
                b,
                1,
                (b.height, b.width),
                (0, 0, b.width, b.height),
            )


def test_turned_images_land_in_turned_buckets():
    buckets, rng = Buckets.preset("lens"), random.Random(1)
    for _ in range(200):
        h, w = rng.randint(100, 3000), rng.randint(100, 3000)
        a, b = buckets.assign(h, w).bucket, buckets.assign(w, h).bucket
        assert (a.height, a.width) == (b.width, b.height)


@pytest.mark.parametrize("bases", [(64, 96), (128, 192, 256), (80,)])
def test_buckets_over_other_areas_are_whole_tokens_of_about_that_area(bases):
    found = make_buckets(bases)
    assert len({b.grid for b in found}) == len(found) and {b.base for b in found} == set(bases)
    for b in found:
        assert (
            b.height % 16 == b.width % 16 == 0
            and 0.7 < b.height * b.width / b.base**2 < 1.35
            and 0.4 < b.height / b.width < 2.4
        )
    assert {(b.width, b.height) for b in found} == {(b.height, b.width) for b in found}


def test_every_scene_can_be_drawn_in_every_toy_bucket():
    rng = random.Random(0)
    for scene in [sample_scene(rng) for _ in range(60)]:
        for b in bucket_preset("toy"):
            assert render(scene, b.height, b.width).shape == (b.height, b.width, 3)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: bucket_preset("lense"), "did you mean 'lens'"),
        (lambda: Buckets([]), "at least one"),
        (lambda: Buckets.preset("toy").assign(5, 5, base=70), "base=70"),
        (lambda: rank_batches(bucket_preset("toy"), lambda n: n, 64, per="shape"), "per="),
        (lambda: equal_batches({"a": 1.0, "b": 9.0}, 4), "single sample of b"),
    ],
)
def test_impossible_settings_are_named(wrong, said):
    with pytest.raises(ConfigError, match=said):
        wrong()


# ---- what a step costs


def test_equal_tokens_give_the_papers_batches():
    assert rank_batches(bucket_preset("lens"), lambda n: n, 24) == {
        b.grid: {512: 24, 768: 10, 1024: 6}[b.base] for b in bucket_preset("lens")
    }


@pytest.mark.parametrize(
    "name, cost, largest, within",
    [
        ("lens", lambda n: n, 24, 0.12),
        ("lens", flops("lens", 150), 24, 0.13),
        ("lens", flops("lens", 150), 96, 0.12),
        ("toy", flops("toy", 40), 64, 0.16),
    ],
)
def test_steps_cost_about_the_same(name, cost, largest, within):
    buckets = bucket_preset(name)
    costs = {b.grid: cost(b.tokens) for b in buckets}
    for per in ("base", "bucket"):
        batches = rank_batches(buckets, cost, largest, per)
        assert all(n >= 1 for n in batches.values()) and max(batches.values()) <= largest
        assert spread(batches, costs) < (
            within if per == "base" else 0.18 if largest == 24 else 0.04
        ), (per, spread(batches, costs))


def test_no_budget_is_broken_and_more_room_evens_out():
    rng = random.Random(0)
    for _ in range(100):
        costs = {i: rng.uniform(1, 8) for i in range(rng.randint(1, 6))}
        few, many = (equal_batches(costs, n) for n in (10, 200))
        assert all(n * costs[k] <= 10 * min(costs.values()) * (1 + 1e-6) for k, n in few.items())
        assert spread(many, costs) <= 0.06


# ---- who draws what


def test_draws_are_a_function_of_seed_step_and_rank():
    weights = np.random.default_rng(0).random(27)
    steps, ranks = np.arange(300_000, 302_000)[:, None], np.arange(16)
    all_at_once = draws(3, steps, ranks, weights)
    for step, rank in [(300_000, 0), (301_234, 15), (301_999, 7)]:
        assert draws(3, step, rank, weights) == all_at_once[step - 300_000, rank]
    assert (draws(4, steps, ranks, weights) != all_at_once).mean() > 0.8
    got = np.bincount(all_at_once.ravel(), minlength=27) / all_at_once.size
    assert abs(got - weights / weights.sum()).max() < 0.006
    same = (
        (all_at_once[:, :-1] == all_at_once[:, 1:]).mean(),
        (all_at_once[:-1] == all_at_once[1:]).mean(),
    )
    assert (
        max(abs(s - (weights**2).sum() / weights.sum() ** 2) for s in same) < 0.01
    )  # neighbours know nothing of each other


def a_cache(n, grid, seed=0, width=160, channels=32):
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (n,), generator=g)
    return dict(
        latents=torch.randn(n, grid[0] * grid[1], channels, generator=g).half(),
        tokens=torch.randn(int(lengths.sum()), 3, width, generator=g).bfloat16(),
        offsets=torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]),
        grid=torch.tensor(grid),
    )


@pytest.fixture
def caches():
    return {
        g: a_cache(n, g, i)
        for i, (g, n) in enumerate({(4, 4): 40, (3, 5): 23, (6, 6): 17, (4, 8): 3}.items())
    }


BATCHES = {(4, 4): 8, (3, 5): 8, (6, 6): 4, (4, 8): 4}


def test_sequence_is_independent_of_restart_and_ranks_share_without_repeats(caches):
    said = []
    views = [MixedData(caches, BATCHES, seed=1, rank=r, world=3, log=said.append) for r in range(3)]
    assert len(said) == 3 and "64x128" in said[0] and views[0].left_out == [(4, 8)]
    latents = lambda d, s: d.batch(s)["latents"]
    places = [p for v in views for p in v.batch(7)["place"]]
    assert (
        len(set(places)) == len(places) == sum(len(v.batch(7)["latents"]) for v in views)
    )  # no two ranks draw the same noise
    straight = [[latents(v, s) for v in views] for s in range(60)]
    for step in (59, 0, 31):
        fresh = [MixedData(caches, BATCHES, seed=1, rank=r, world=3, log=quiet) for r in range(3)]
        assert all(torch.equal(latents(d, step), x) for d, x in zip(fresh, straight[step]))
    assert not torch.equal(
        torch.cat([x.flatten() for x in straight[0]]),
        torch.cat(
            [
                x.flatten()
                for x in [
                    latents(MixedData(caches, BATCHES, seed=2, rank=r, world=3, log=quiet), 0)
                    for r in range(3)
                ]
            ]
        )[: sum(x.numel() for x in straight[0])],
    )
    for k, data in enumerate(
        views[0].data
    ):  # in the order of (step, rank) a bucket runs through whole epochs without a repeat
        rows = [
            x
            for step, xs in enumerate(straight)
            for r, x in enumerate(xs)
            if views[r].draw(step) == k
        ]
        per_epoch = len(data) // data.batch_size
        for a in range(0, len(rows) - per_epoch + 1, per_epoch):
            seen = {
                tuple(p.flatten()[:4].tolist()) for batch in rows[a : a + per_epoch] for p in batch
            }
            assert len(seen) == per_epoch * data.batch_size


def test_far_steps_are_reached_quickly(caches):
    a, b = (MixedData(caches, BATCHES, rank=0, world=64, log=quiet) for _ in range(2))
    for step in range(0, 3000, 7):
        a.before(step)
    assert (a.before(3000) == b.before(3000)).all() and b.before(3000).sum() == 3000 * 64


def test_a_checkpoint_from_other_data_is_refused(caches):
    d = MixedData(caches, BATCHES, seed=1, world=2, log=quiet)
    saved = json.loads(json.dumps(d.state_dict()))
    MixedData(caches, BATCHES, seed=1, rank=1, world=2, log=quiet).load_state_dict(saved)
    for other, field in (
        (dict(seed=2), "seed"),
        (dict(world=3), "world"),
        (dict(weights={(4, 4): 1}), "weights"),
    ):
        with pytest.raises(ConfigError, match=f"data.{field}"):
            MixedData(
                caches, BATCHES, **(dict(seed=1, world=2) | other), log=quiet
            ).load_state_dict(saved)
    with pytest.raises(ConfigError, match="grid"):
        MixedData(caches, {(4, 4): 8}, log=quiet)
    with pytest.raises(DataError, match="no bucket"):
        MixedData(caches, dict.fromkeys(BATCHES, 1000), log=quiet)


def batches_used(views, steps):
    "{bucket: numbers of its batches} in the order of (step, rank)."
    turns = [v.turn(step) for step in steps for v in views]
    return {k: [n for b, n in turns if b == k] for k in range(len(views[0].data))}


def test_another_number_of_ranks_goes_on_where_it_may(caches):
    """Two ranks make 25 steps, three go on for 30, then one: with `world` allowed no picture of an
    epoch is left out or comes twice; a batch of another size begins the next epoch."""
    make = lambda world, batches=BATCHES, **kw: [
        MixedData(caches, batches, seed=1, rank=r, world=world, log=quiet, **kw)
        for r in range(world)
    ]

    def go_on(views, saved, step):
        for v in views:
            v.load_state_dict(json.loads(json.dumps(saved)))
        assert views[0].state_dict() == saved | dict(
            since=views[0].state_dict()["since"]
        )  # until it knows where it stands it is the old one
        return [v.batch(step) for v in views]

    two = make(2)
    used = batches_used(two, range(25))
    with pytest.raises(ConfigError, match=r"data.world: .* 2, this run has 3; .*allow=\['world'\]"):
        make(3)[0].load_state_dict(two[0].state_dict())
    for part in (dict(seed=2), dict(caches=dict(caches) | {(6, 6): a_cache(30, (6, 6))})):
        with pytest.raises(ConfigError, match="data.(seed|items)"):
            MixedData(
                **(
                    dict(
                        caches=caches, batches=BATCHES, seed=1, world=3, log=quiet, allow=["world"]
                    )
                    | part
                )
            ).load_state_dict(two[0].state_dict())
    three = make(3, allow=["world"])
    go_on(three, two[0].state_dict(), 25)
    used = {k: used[k] + x for k, x in batches_used(three, range(25, 55)).items()}
    one = make(1, allow=["world"])
    go_on(one, three[0].state_dict(), 55)
    used = {k: used[k] + x for k, x in batches_used(one, range(55, 80)).items()}
    assert all(x == list(range(len(x))) and x for x in used.values())
    again = make(1)[0]  # that run has a history and resumes exactly
    again.load_state_dict(json.loads(json.dumps(one[0].state_dict())))
    assert all(torch.equal(again.batch(s)["latents"], one[0].batch(s)["latents"]) for s in (80, 61))
    with pytest.raises(DataError, match="steps before 55"):
        again.batch(54)
    halved = make(
        4, {g: n // 2 for g, n in BATCHES.items() if g != (4, 8)} | {(4, 8): 4}, allow=["world"]
    )
    go_on(halved, two[0].state_dict(), 25)
    for k, numbers in batches_used(halved, range(25, 40)).items():
        begun = -(
            -len([n for step in range(25) for v in two for b, n in [v.turn(step)] if b == k])
            // (len(two[0].data[k]) // two[0].data[k].batch_size)
        )
        assert numbers[0] == begun * (
            len(halved[0].data[k]) // halved[0].data[k].batch_size
        ) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_caches_join_save_and_come_out_of_shards(caches, tmp_path):
    save_caches(caches, tmp_path / "c.safetensors")
    again = load_caches(tmp_path / "c.safetensors")
    assert again.keys() == caches.keys() and all(
        torch.equal(again[g][k], v) for g, c in caches.items() for k, v in c.items()
    )
    c = caches[(4, 4)]
    parts = [
        dict(
            latents=c["latents"][i:j],
            tokens=c["tokens"][c["offsets"][i] : c["offsets"][j]],
            offsets=c["offsets"][i : j + 1] - c["offsets"][i],
            grid=c["grid"],
        )
        for i, j in ((0, 1), (1, 25), (25, 40))
    ]
    assert all(torch.equal(join_caches(parts)[k], v) for k, v in c.items())


def test_pictures_reach_the_cache_of_their_bucket_through_shards(tmp_path):
    from test_shards import Encoders, picture
    from lens_ref.data.shards import make_sample, open_samples, write_shards
    from lens_ref.pretrain.caches import cache_shards, cut

    buckets, e = Buckets([Bucket(32, 32, 32), Bucket(16, 64, 32)]), Encoders()
    sizes = [(40, 44), (20, 90), (33, 33), (32, 32), (17, 60)]
    write_shards(
        list(range(5)),
        lambda rows: [
            make_sample(f"{i:08d}", picture(i, *sizes[i]), {"text": "w" * (i + 1)}) for i in rows
        ],
        tmp_path / "s",
        log=quiet,
    )
    cache_shards(tmp_path / "s", tmp_path / "c", e.vae, e, fit=buckets, log=quiet)
    found = shard_caches(tmp_path / "c")
    assert {g: len(c["latents"]) for g, c in found.items()} == {(2, 2): 3, (1, 4): 2} and found[
        (2, 2)
    ]["offsets"].tolist() == [0, 1, 4, 8]
    arrays = [(cut(s, buckets), s.caption(), None) for s in open_samples(tmp_path / "s")]
    memory = bucket_caches(arrays, e.vae, e)
    batches = {(2, 2): 3, (1, 4): 2}
    lazy, eager = MixedData(found, batches, log=quiet), MixedData(memory, batches, log=quiet)
    ahead = ReadAhead(MixedData(shard_caches(tmp_path / "c"), batches, log=quiet))
    for step in (0, 1, 2, 3, 9, 2):
        a, b, c = (d.batch(step) for d in (lazy, eager, ahead))
        assert (
            a["grid"] == b["grid"]
            and torch.equal(a["text_mask"], b["text_mask"])
            and torch.allclose(a["latents"], b["latents"], atol=2e-3)
        )
        assert torch.equal(a["latents"], c["latents"]) and all(
            torch.equal(x, y) for x, y in zip(a["text"], b["text"])
        )
    with pytest.raises(DataError, match="run cache_shards"):
        shard_caches(tmp_path / "s")


@pytest.fixture
def stored(tmp_path):
    "The cache of twelve pictures of one size in two shards, each with a caption of its own length."
    from test_shards import Encoders, picture
    from lens_ref.data.shards import make_sample, write_shards
    from lens_ref.pretrain.caches import cache_shards

    e = Encoders()
    write_shards(
        list(range(12)),
        lambda rows: [
            make_sample(f"{i:08d}", picture(i, 32, 32), {"text": "w" * (i + 1)}) for i in rows
        ],
        tmp_path / "s",
        log=quiet,
    )
    cache_shards(tmp_path / "s", tmp_path / "c", e.vae, e, per_shard=6, log=quiet)
    return shard_caches(tmp_path / "c")[(2, 2)]


def hurt(cache, i):
    path, (_, start, _) = cache["latents"][i]
    raw = bytearray(path.read_bytes())
    raw[start + 700] ^= 1
    path.write_bytes(raw)


def as_rank(monkeypatch, number, n):
    for name, value in (("rank", number), ("world_size", n)):
        monkeypatch.setattr(f"lens_ref.core.parallel.{name}", lambda value=value: value)


def same_batch(a, b):
    return (
        a["place"] == b["place"]
        and torch.equal(a["latents"], b["latents"])
        and torch.equal(a["text_mask"], b["text_mask"])
        and all(map(torch.equal, a["text"], b["text"]))
    )


@pytest.mark.parametrize("n, pieces", [(2, 1), (2, 2), (3, 1)])
def test_each_rank_reads_its_own_rows_and_gets_what_it_got_from_the_whole_batch(
    stored, monkeypatch, n, pieces
):
    from lens_ref.pretrain import buckets
    from lens_ref.core.parallel import Shard, take_rows
    from lens_ref.pretrain.sharding import Pieces

    read, true = [], data_shards.read_or_note
    monkeypatch.setattr(buckets, "read_or_note", lambda *a: read.append(a[1]) or true(*a))

    class Whole:
        def batch(self, step):
            return open_cache(stored, 6, 1).batch(step)  # has no `part`

    for number in range(n):
        as_rank(monkeypatch, number, n)
        for step in (0, 1, 5):
            want, at = Shard(Whole()).batch(step), len(read)
            got = Pieces(open_cache(stored, 6, 1), pieces).batch(step)
            assert len(read) - at == 6 // n
            for j, piece in enumerate(got):
                own = torch.arange(j, 6 // n, pieces)
                assert same_batch(
                    piece, take_rows(want, own) | dict(place=[want["place"][k] for k in own])
                )


def test_a_damaged_sample_is_replaced_by_the_next_whoever_reads_it(stored, monkeypatch):
    from lens_ref.pretrain.scale import cut_caches, model_settings
    from lens_ref.pretrain.sharding import Pieces

    sound = open_cache(stored, 2, 0)
    order, good = (
        sound.order(0).flatten().tolist(),
        [sound.rows(torch.tensor([i]))["latents"] for i in range(12)],
    )
    hurt(stored, 0)
    hurt(stored, order[(order.index(0) + 1) % 12])
    want = [
        good[
            next(
                order[(p + k) % 12]
                for k in range(12)
                if order[(p + k) % 12] not in (0, order[(order.index(0) + 1) % 12])
            )
        ]
        for p in range(12)
    ]
    data = open_cache(stored, 2, 0)
    for number in (0, 1):  # one row each, two of two damaged
        as_rank(monkeypatch, number, 2)
        rows = [Pieces(data, 1).batch(step)[0]["latents"] for step in range(6)]
        assert all(torch.equal(x, want[2 * step + number]) for step, x in enumerate(rows))
    as_rank(monkeypatch, 0, 1)
    assert [len(b["latents"]) for step in range(6) for b in Pieces(data, 2).batch(step)] == [1] * 12
    assert len(data.damage.found) == 2 and all(
        "checksum" in why for why in data.damage.found.values()
    )
    assert all(
        len(MixedData({(2, 2): stored}, {(2, 2): 1}, log=quiet).batch(step)["latents"]) == 1
        for step in range(12)
    )
    with pytest.raises(ConfigError, match="in_channels"):
        model_settings(
            "small", {(2, 2): stored}
        )  # its first sample cannot be read: the next tells what is in it
    assert cut_caches({(2, 2): stored}, 2)[1]["latents"].shape[0] == 2
    hurt(stored, 11)
    assert torch.equal(
        cut_caches({(2, 2): stored}, 2)[1]["latents"], good[10].expand(2, -1, -1)
    )  # of two held out the sound one stands in,
    with pytest.raises(
        DataError, match="held_out=1, .*not one of 1 samples can be read.*or hold out more"
    ):
        cut_caches({(2, 2): stored}, 1)  # never one of those to train on
    hurt(stored, 11)
    for i in range(12):
        hurt(stored, i) if i not in (0, order[(order.index(0) + 1) % 12]) else None
    with pytest.raises(DataError, match="not one of 12 samples can be read"):
        open_cache(stored, 2, 0).batch(0)


def test_features_are_computed_on_the_device_of_each_encoder():
    "A device that only describes its tensors stands in for a GPU: whoever mixes devices fails."
    from lens_ref.vae import autoencoder as V
    from lens_ref.pretrain.caches import build_cache

    autoencoder, sent = V.ToyVAE(width=8).to("meta").eval(), []

    class Encoder:
        def encode(self, prompts):
            return [torch.zeros(len(prompts), 3, 4)] * 2, torch.ones(
                len(prompts), 3, dtype=torch.bool
            )

    true = V.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            V,
            "encode",
            lambda vae, images: sent.append(true(vae, images)) or torch.zeros(sent[-1].shape),
        )
        build_cache([(np.zeros((32, 48, 3), np.uint8), "a", None)] * 2, autoencoder, Encoder())
    assert sent[0].device.type == "meta" and sent[0].shape == (2, 6, 32)


@pytest.mark.gpu
def test_features_from_a_gpu_are_those_of_the_cpu():
    from lens_ref.core.files import data_path
    from lens_ref.data.folders import scene_samples
    from lens_ref.pretrain.caches import build_cache
    from lens_ref.pretrain.pipeline import LensPipeline

    here, there = (
        LensPipeline.from_pretrained(data_path("toy"), device=d) for d in ("cpu", "cuda")
    )
    a, b = (build_cache(scene_samples(8, 0), p.vae, p.text_encoder) for p in (here, there))
    assert all(x.device.type == "cpu" for x in b.values()) and torch.equal(
        a["offsets"], b["offsets"]
    )
    assert torch.allclose(a["latents"], b["latents"], atol=0.02) and torch.allclose(
        a["tokens"].float(), b["tokens"].float(), atol=0.1, rtol=0.02
    )


# ---- training on them


def tiny():
    return init_weights(LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()))


def test_the_training_loop_takes_mixed_batches_and_resumes_exactly(caches, tmp_path):
    def run(steps, folder):
        torch.manual_seed(0)
        learner = Learner(
            tiny(), TrainConfig(steps=steps, warmup=1, checkpoint_every=100, log_every=1)
        )
        losses = [
            s.loss
            for s in train(
                learner,
                pretrain_step,
                MixedData(caches, BATCHES, world=2, rank=1, log=quiet),
                folder=folder,
                log=quiet,
            )
        ]
        return learner, losses

    whole, losses = run(8, tmp_path / "a")
    run(3, tmp_path / "b")
    again, rest = run(8, tmp_path / "b")
    assert rest == losses[3:] and all(
        torch.equal(p, q) for p, q in zip(whole.model.parameters(), again.model.parameters())
    )


def test_joined_batches_equal_their_parts(caches):
    torch.manual_seed(0)
    model = tiny()
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    views = [MixedData(caches, BATCHES, rank=r, world=4, log=quiet) for r in range(4)]
    batches = [v.batch(0) for v in views]
    one = pad_batches(batches)
    assert len({b["grid"] for b in batches}) > 1
    t, noise = torch.rand(len(one["latents"])), torch.randn_like(one["latents"])
    step = lambda b, t, noise, mask=None: per_sample_loss(
        model(
            b["latents"] + t[:, None, None] * (noise - b["latents"]),
            b["text"],
            b["text_mask"],
            t,
            b["grid"],
        ),
        b["latents"],
        noise,
        mask,
    )
    together, at = step(one, t, noise, grid_mask(one["grid"], one["latents"].shape[1])), 0
    for b in batches:
        k, n, _ = b["latents"].shape
        torch.testing.assert_close(
            step(b, t[at : at + k], noise[at : at + k, :n]),
            together[at : at + k],
            atol=1e-5,
            rtol=0,
        )
        at += k
    assert [training_mu(h * w) for h, w in one["grid"]] == [
        training_mu(b["latents"].shape[1]) for b in batches for _ in b["latents"]
    ]
