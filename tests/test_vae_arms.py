"Autoencoders that differ in one thing: steps, cost, measures, and the comparison."

import random

import pytest
import torch

from lens_ref.core.config import ConfigError
from lens_ref.core.loop import Learner, train
from lens_ref.data.world import scene_facts
from lens_ref.pretrain import autoencoders as A
from lens_ref.vae import latents as M
from lens_ref.vae.arms import (
    VAE_ARMS,
    Arm,
    ArmStep,
    arm_steps,
    new_pupil,
    pupil_optimiser,
    vae_arms,
)
from lens_ref.vae.autoencoder import ToyVAE, vae_config, vae_loss
from lens_ref.vae.judge import (
    CELL_COLORS,
    CELL_NAMES,
    FactNet,
    PictureBatches,
    draw_scenes,
    fact_labels,
    fact_maps,
    look_distance,
    numbered_scene,
    signed,
)

TINY = dict(
    arms=("few", "semantic"),
    seeds=1,
    pictures=48,
    held_out=8,
    fact_steps=2,
    vae_steps=3,
    vae_width=8,
    steps=4,
    batch_size=16,
    layers=1,
    score_every=2,
    per_skill=1,
    sampling_steps=2,
    workers=1,
)


class Coin:
    "Reads nothing: a picture's grade hangs on its pixels."

    def read(self, images):
        return [round(1000 * x.mean().item()) for x in images]


@pytest.fixture(autouse=True)
def graded_by_coin(monkeypatch):
    monkeypatch.setattr(A, "passes", lambda facts, reading, skill: reading % 2 == 0)


@pytest.fixture(scope="module")
def pictures():
    return draw_scenes(numbered_scene(i) for i in range(32))


def quiet(line):
    pass


# ---- the network that knows the facts


def test_maps_name_what_was_drawn_and_where():
    rng = random.Random(0)
    for i in range(30):
        scene = numbered_scene(rng.randrange(10**6))
        kinds, colors = fact_maps(scene)
        seen = {CELL_NAMES[k] for k in kinds.flatten().tolist()} - {"nothing"}
        letters = set(scene.sign.word) if scene.sign else set()
        assert seen <= {t.kind for t in scene.things} | letters and letters <= seen
        hues = {t.color for t in scene.things} | ({scene.sign.color} if scene.sign else set())
        assert {CELL_COLORS[c] for c in colors.flatten().tolist()} - {"none"} <= hues
        assert ((kinds > 0) == (colors > 0)).all()
    assert fact_maps(scene, 96, 64)[0].shape == (12, 8)


def test_labels_take_scenes_from_any_iterator():
    scenes = [numbered_scene(i) for i in range(3)]
    one, two = fact_labels(scenes), fact_labels(iter(scenes))
    assert all(torch.equal(one[k], two[k]) and len(one[k]) == 3 for k in one)


def test_the_distance_is_zero_for_the_same_and_grows_with_noise(pictures):
    torch.manual_seed(0)
    net, x = FactNet(width=8).eval(), signed(pictures[:8])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    far = [look_distance(net, x + s * noise, x) for s in (0.0, 0.05, 0.3)]
    assert not far[0].any() and (far[1] > 0).all() and (far[2] > far[1]).all()


# ---- the arms


def test_arms_are_named_and_checked():
    assert [a.name for a in vae_arms(["many", "few"])] == ["many", "few"]
    for wrong in (dict(channels=0), dict(kl=-1.0), dict(semantic=float("inf")), dict(noise=1.0)):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Arm("mine", **wrong)
    with pytest.raises(ConfigError, match="'wide'"):
        vae_arms(["wide"])


def test_the_shipped_arm_has_the_loss_of_the_shipped_autoencoder(pictures):
    arm, net = VAE_ARMS["shipped"], FactNet(width=8)
    pupil, x = new_pupil(arm, 8, 32, seed=0), signed(pictures[:4])
    noise = torch.randn(4, 16, 8, 8, generator=torch.Generator().manual_seed(5))
    wanted, _ = vae_loss(pupil.vae, x, noise)
    g = torch.Generator().manual_seed(5)
    found, _ = ArmStep(arm, net)(pupil, dict(images=x), None, g)
    assert torch.allclose(found, wanted)


def test_only_the_semantic_arms_train_the_map_and_none_trains_the_teacher(pictures):
    net = FactNet(width=8).requires_grad_(False)
    for name in ("few", "semantic", "noisy"):
        arm = VAE_ARMS[name]
        pupil, config = new_pupil(arm, 8, 32, seed=0), vae_config(2)
        learner = Learner(pupil, config, pupil_optimiser(pupil, config))
        before = pupil.head.weight.clone()
        for state in train(learner, ArmStep(arm, net), PictureBatches(pictures, 16)):
            assert not state.skipped
        assert torch.equal(before, pupil.head.weight) == (name != "semantic")


def test_dearer_arms_get_fewer_steps():
    net = FactNet(width=8)
    steps = {n: arm_steps(VAE_ARMS[n], net, 8, 1000) for n in ("few", "loose", "many", "semantic")}
    assert steps["few"] == steps["loose"] == 1000 > steps["many"] > 800 > 2
    assert steps["semantic"] < 1000


# ---- measures


def test_smooth_latents_are_explained_by_their_neighbours_and_noise_is_not():
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 4, 8, 8, generator=g)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    assert M.neighbours_explain(smooth) > 0.4 and M.neighbours_explain(noise) < 0.05


def test_facts_that_lie_in_latents_are_found():
    g = torch.Generator().manual_seed(0)
    kinds = torch.randint(1, 6, (64, 8, 8), generator=g) * (torch.rand(64, 8, 8, generator=g) < 0.3)
    z = torch.nn.functional.one_hot(kinds, 6).permute(0, 3, 1, 2).float()
    assert M.facts_in_latents(z, kinds) > 0.99
    assert M.facts_in_latents(torch.randn(z.shape, generator=g), kinds) < 0.4


def test_the_rank_counts_directions():
    g = torch.Generator().manual_seed(0)
    plane = torch.randn(50, 16, 2, generator=g) @ torch.eye(2, 8)
    shares, rank = M.token_spectrum(plane)
    assert 1.95 < rank < 2.01 and sum(shares) == pytest.approx(1)


def test_all_measures_are_numbers(pictures):
    torch.manual_seed(0)
    vae, net = ToyVAE(8, 8).eval(), FactNet(width=8).eval()
    kinds = fact_labels(numbered_scene(i) for i in range(8))["kinds"]
    found = M.measure_vae(vae, net, signed(pictures[:8]), kinds)
    assert {"db", "db_rough", "distance", "facts", "neighbours", "nats", "rank"} <= set(found)
    assert {*A.VAE_MEASURES} - {"kept"} <= set(found)


# ---- the comparison


def test_tokens_of_facts_share_what_facts_share():
    tokens, scenes = A.FactTokens(), [numbered_scene(i) for i in range(5)]
    (text,), mask = tokens.encode(scenes)
    assert mask.sum(1).tolist() == [len(scene_facts(s)) for s in scenes]
    assert torch.equal(text[2, 0], A.FactTokens().token(scene_facts(scenes[2])[0]))
    assert not text[~mask].any()


@pytest.mark.timeout(200)
def test_a_comparison_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    "The stop comes after a step of the first transformer and before its look."
    config = A.VAEAblationConfig(**TINY)
    whole = A.ablate_vae(tmp_path / "whole", config, Coin(), quiet)
    assert [c["rows"][-1]["cost"] for c in whole["arms"]["few"]["curves"]] == [1.0]
    real, calls = A.arm_grades, []

    def stops(*args):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(A, "arm_grades", stops)
    with pytest.raises(KeyboardInterrupt):
        A.ablate_vae(tmp_path / "broken", config, Coin(), quiet)
    again = A.ablate_vae(tmp_path / "broken", config, Coin(), quiet)
    assert again == whole
    with pytest.raises(ConfigError, match="vae_steps"):
        A.ablate_vae(tmp_path / "broken", config.replace(vae_steps=4), Coin(), quiet)
    assert "| semantic |" in A.vae_table(again) and set(A.score_predictors(again))
    assert A.draw_vae(again).axes


def test_settings_are_checked():
    for wrong in (dict(arms=("many",)), dict(steps=0), dict(pictures=8), dict(workers=-1)):
        with pytest.raises(ConfigError, match=f"VAEAblationConfig.{next(iter(wrong))}"):
            A.VAEAblationConfig(**wrong)


def test_an_interval_of_pairs_is_that_of_scipy():
    from scipy.stats import ttest_rel

    a, b = [0.5, 0.62, 0.55], [0.4, 0.5, 0.52]
    wanted = ttest_rel(a, b).confidence_interval()
    assert A.paired_interval(a, b)[1:] == pytest.approx((wanted.low, wanted.high))
