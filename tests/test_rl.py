"""Reinforcement learning: exact resume, useless groups, missing verdicts, fooled judges."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lens_ref.cli.main import main
from lens_ref.core import runs
from lens_ref.core.config import ConfigError, DataError
from lens_ref.core.files import data_path
from lens_ref.core.averages import trainable
from lens_ref.core.loop import lr_at, run_state
from lens_ref.core.parallel import together
from lens_ref.core.runs import checkpoints, read_checkpoint
from lens_ref.dit import solvers as dit_solvers
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.pipeline import LensPipeline
from lens_ref.rl import grpo as G
from lens_ref.rl import nft as N
from lens_ref.rl import run as C
from lens_ref.rl import stage as R
from lens_ref.rl.config import RLConfig
from lens_ref.rl.judges import Verdict
from lens_ref.rl.policies import local
from lens_ref.rl.scene_prompts import toy_prompts

ROOT = Path(__file__).resolve().parents[1]
PARTS = {}


@dataclass
class Prompt:
    text: str
    category: str = "animal"
    skill: str = "single"


PROMPTS = [
    Prompt(f"{n} cat") for n in ("A red", "A blue", "A large", "A small", "A green", "A pink")
]
HELD = [Prompt("A dog", "plant"), Prompt("A cow")]


def pipe(seed=0, layers=1):
    "The toy's autoencoder and text encoder around a small transformer with random weights."
    if not PARTS:
        PARTS["toy"] = LensPipeline.from_pretrained(data_path("toy"))
    torch.manual_seed(seed)
    model = init_weights(
        LensTransformer2DModel(
            **preset("toy", num_layers=layers, inner_dim=32, num_attention_heads=1).to_dict()
        )
    )
    for p in model.parameters():
        p.data += 0.02 * torch.randn_like(
            p
        )  # the last layer starts at zero: nothing would depend on the prompt
    return LensPipeline(model, PARTS["toy"].vae, PARTS["toy"].text_encoder)


def bright(images, prompts):
    "Graded brightness: rewards differ between any two pictures."
    return [
        Verdict({f"Light ({i})": int(m > i / 500 - 1) for i in range(1000)})
        for m in images.clamp(-1, 1).mean((1, 2, 3))
    ]


def config(**changes):
    return RLConfig.preset(
        "toy",
        **{
            **dict(
                steps=4,
                prompts=2,
                images=3,
                levels=2,
                rollout_steps=4,
                eval_steps=3,
                evaluate_every=2,
                checkpoint_every=1,
                batch=4,
                lr=1e-3,
                alarm="off",
            ),
            **changes,
        },
    )


def new(c, judge=bright, **kw):
    return R.new_run(
        kw.pop("pipe", None) or pipe(),
        kw.pop("prompts", PROMPTS),
        judge,
        c,
        kw.pop("held_out", HELD),
        log=kw.pop("log", str),
        **kw,
    )


def drain(run, folder=None, **kw):
    return list(R.reinforce(run, folder, log=kw.pop("log", str), **kw))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a != a and b != b


def state(run):
    return {
        k: v for k, v in run_state(run.learner, run.step, run.rollouts).items() if k != "config"
    }


# ---- the maths


def test_optimum_on_a_discrete_toy_is_the_closed_form():
    "Four samples seen at one x_t: the plain loss is least at (1/beta) mean((2r - 1)(u - v_old))."
    g = torch.Generator().manual_seed(0)
    x_t, t, r = (
        torch.randn(1, 3, generator=g, dtype=torch.float64).expand(4, 3),
        torch.full((4,), 0.37, dtype=torch.float64),
        torch.tensor([1.0, 0.8, 0.5, 0.0], dtype=torch.float64),
    )
    x0, v_old = (
        torch.randn(4, 3, generator=g, dtype=torch.float64),
        torch.randn(1, 3, generator=g, dtype=torch.float64).expand(4, 3),
    )
    u = (x_t - x0) / t[:, None]
    for beta in (0.1, 1.0, 2.0):
        delta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        loss = lambda: N.nft_loss(v_old + delta, v_old, x_t, x0, t, r, beta, adaptive=False).mean()
        step = torch.autograd.functional.hessian(
            lambda d: N.nft_loss(v_old + d, v_old, x_t, x0, t, r, beta, adaptive=False).mean(),
            delta.detach(),
        )
        best = -torch.linalg.solve(
            step, torch.autograd.grad(loss(), delta)[0]
        )  # a parabola: one Newton step is exact
        torch.testing.assert_close(best, ((2 * r - 1)[:, None] * (u - v_old)).mean(0) / beta)


@pytest.mark.parametrize("adaptive", [False, True])
def test_beta_does_not_matter_where_the_old_policy_is_the_trained_one(adaptive):
    "The first update of a round: both sides are the old velocity, and the factor 1/beta cancels."
    g = torch.Generator().manual_seed(2)
    x_t, x0, v_old = torch.randn(3, 5, 4, generator=g, dtype=torch.float64)
    t, r = torch.rand(2, 5, generator=g, dtype=torch.float64)

    def gradient(v, beta):
        v = v.clone().requires_grad_()
        loss = N.nft_loss(v, v_old, x_t, x0, t + 0.1, r, beta, adaptive).sum()
        return torch.autograd.grad(loss, v)[0]

    torch.testing.assert_close(gradient(v_old, 0.1), gradient(v_old, 2.0))
    assert (gradient(v_old + 1, 0.1) - gradient(v_old + 1, 2.0)).abs().max() > 0.1


def test_adaptive_weight_is_a_constant_and_never_divides_by_zero():
    x0, v_old = torch.ones(2, 4), torch.zeros(2, 4)
    t = torch.tensor([0.5, 0.5])
    v = torch.zeros(2, 4, requires_grad=True)
    exact = N.nft_loss(v, v_old, x0, x0, t, torch.ones(2))  # the prediction is right: error 0
    assert (
        torch.equal(exact, torch.zeros(2))
        and torch.isfinite(torch.autograd.grad(exact.sum(), v)[0]).all()
    )
    a, b = (
        N.nft_loss(
            torch.zeros(1, 4),
            torch.zeros(1, 4),
            s * torch.ones(1, 4),
            torch.zeros(1, 4),
            t[:1],
            torch.ones(1),
        )
        for s in (1.0, 3.0)
    )
    assert b / a == pytest.approx(
        3
    )  # |error|^2 / |error|: it grows like the error, not like its square
    low = N.nft_loss(
        v.bfloat16(), v_old.bfloat16(), x0.bfloat16(), 0 * x0.bfloat16(), t, torch.ones(2)
    )
    assert low.dtype == torch.float32


def test_rewards_that_are_missing_or_equal():
    nan = math.nan
    r = torch.tensor([[1.0, 0.0, nan], [nan, nan, 0.5], [0.3, 0.3, 0.3], [nan, nan, nan]])
    assert N.useful(r).tolist() == [[True, True, False], [False] * 3, [False] * 3, [False] * 3]
    for z in ("global", "group", 0.25):
        assert (
            (N.optimality(r, z)[1:] == 0.5).all()
            and N.optimality(r, z)[0, 2] == 0.5
            and torch.isfinite(N.advantages(r, z)).all()
        )
    assert N.advantages(r, 0.25, floor=0)[0].tolist() == [2, -2, 0] and N.optimality(r, 0.01)[
        0
    ].tolist() == [1, 0, 0.5]
    assert N.optimality(torch.full((2, 3), nan)).unique().tolist() == [0.5]
    with pytest.raises(DataError, match="at least 2 pictures"):
        N.optimality(torch.zeros(4, 1))
    with pytest.raises(ConfigError, match="z='globl'.*global"):
        N.advantages(r, "globl")


def test_grpo_of_one_step_is_the_policy_gradient():
    "In one dimension the gradient of the first inner step is -A d log p / d v."
    g = torch.Generator().manual_seed(1)
    x, z, t, t_next, adv = (
        *torch.randn(2, 6, 1, generator=g),
        torch.full((6,), 0.8),
        torch.full((6,), 0.6),
        torch.tensor([1.0, -1, 2, 0, 0.5, -2]),
    )
    v = torch.zeros(6, 1, requires_grad=True)
    mean, std = G.sde_mean_std(v, x, t, t_next)
    new = mean.detach() + std[:, None] * z
    log_p = G.log_prob(new, mean, std)
    (grad,) = torch.autograd.grad(G.grpo_loss(log_p, log_p.detach(), adv).sum(), v)
    s = 0.7 * (0.8 / 0.2) ** 0.5
    gain = -0.2 * (1 + s**2 * 0.2 / 1.6)  # d mean / d v
    torch.testing.assert_close(grad[:, 0], -adv * z[:, 0] * gain / std)
    assert torch.isfinite(
        G.sde_mean_std(x, x, torch.ones(6), t_next)[1]
    ).all()  # t = 1 divides by 1 - t_next


# ---- settings


@pytest.mark.parametrize(
    "field, changes",
    [
        ("images", dict(images=1)),
        ("decay", dict(decay=1.5)),
        ("levels", dict(levels=5)),
        ("levels", dict(algorithm="grpo", levels=4)),
        ("mix", dict(mix=3)),
        ("mix", dict(algorithm="grpo", mix=1)),
        ("solver", dict(solver="rk4")),
        ("spread", dict(spread="none")),
        ("images", dict(sizes=((64, 64),) * 4)),
        ("lr", dict(lr=0.0)),
        ("beta", dict(beta=math.inf)),
        ("copies", dict(copies=1)),
        ("warmup", dict(warmup=9)),
        ("algorithm", dict(algorithm="ppo")),
        ("ema", dict(ema=1.0)),
    ],
)
def test_impossible_setting_is_named(field, changes):
    with pytest.raises(ConfigError, match=rf"Config\.{field}="):
        config(**changes)


def test_rate_falls_to_nothing_over_the_last_share_of_the_rounds():
    rates = lambda **c: [
        lr_at(i, RLConfig.preset("toy", steps=10, lr=1.0, updates=2, **c).train_config())
        for i in range(20)
    ]
    assert rates() == [1.0] * 20 and rates(decay=1.0) == pytest.approx(
        [1 - i / 20 for i in range(20)]
    )
    assert rates(decay=0.5) == pytest.approx([1.0] * 10 + [1 - i / 10 for i in range(10)])


def test_skills_of_the_prompts_may_be_named_and_named_twice():
    train, held = C.choose_prompts(
        "toy", 0, n=40, held_out=6, skills=("single", "position", "position")
    )
    count = [sum(p.skill == k for p in train) for k in ("single", "position")]
    assert count == [14, 26] and [p.skill for p in held] == ["single", "position"] * 3
    assert {p.skill for p in C.choose_prompts("toy", 0, n=14)[0]} == {
        "single",
        "two",
        "counting",
        "colors",
        "position",
        "attribute",
        "text",
    }


def test_several_processes_do_not_share_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="workers: 2 processes cannot share the device cuda"):
        C.rl(
            tmp_path,
            data_path("toy"),
            config(),
            PROMPTS,
            HELD,
            C.exact_judge,
            workers=2,
            device="cuda",
        )
    assert not list(tmp_path.iterdir())


def test_lens_preset_has_the_papers_numbers():
    c = RLConfig.preset("lens")
    assert (
        c.steps,
        c.prompts,
        c.images,
        c.lora_rank,
        c.lora_alpha,
        c.lr,
        c.betas,
        c.eps,
        c.weight_decay,
        c.beta,
        c.kl,
        c.mix,
        c.spread,
    ) == (180, 48, 24, 64, 128, 3e-4, (0.9, 0.999), 1e-8, 1e-4, 1.0, 1e-4, 1, "global")
    assert (
        len(c.sizes) == 9
        and (1024, 1024) in c.sizes
        and all(abs(h * w / 1024**2 - 1) < 0.06 for h, w in c.sizes)
    )
    assert RLConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c
    with pytest.raises(ConfigError, match="no preset"):
        RLConfig.preset("huge")


def test_the_parts_of_the_settings_are_one_flat_list_of_keys():
    "Saved settings and the command's JSON know no parts; each part checks its own fields."
    c = RLConfig.preset("toy", images=4, beta=0.5)
    flat = json.loads(json.dumps(c.to_dict()))
    assert RLConfig.from_dict(flat) == c and not any(isinstance(v, dict) for v in flat.values())
    assert len(flat) == 36 and {"images", "beta", "alarm"} < set(flat)


def test_run_is_refused_before_it_draws():
    with pytest.raises(DataError, match="prompts: 1 are fewer than the 2"):
        new(config(), prompts=PROMPTS[:1])


# ---- a round


def table(values):
    "Gives fixed rewards by prompt and image: `values[p][k]`, None = no verdict. It sees chunks."
    seen = {}

    def judge(images, prompts):
        out = []
        for p in prompts:
            k = seen[p.text] = seen.get(p.text, -1) + 1
            v = values[[q.text for q in PROMPTS].index(p.text)][k % len(values[0])]
            out.append(
                Verdict({"a": None, "b": None, "c": None})
                if v is None
                else Verdict({str(i): int(i < 4 * v) for i in range(4)})
            )
        return out

    return judge


def test_groups_without_spread_and_pictures_without_verdict_do_not_train():
    values = [
        [1.0, 0.5, None],
        [0.5, 0.5, 0.5],
        [None, None, 0.25],
        [0.0, 1.0, 0.5],
        [1.0, 1.0, None],
        [0.25, 0.75, 0.75],
    ]
    lines = []
    run = new(
        config(prompts=6, images=3, mix=0, kl=0.0), table(values), held_out=[], log=lines.append
    )
    pieces = run.rollouts.batch(0)
    place = {(p, k): i for i, (p, k) in enumerate((p, k) for p in range(6) for k in range(3))}
    order = [PROMPTS.index(run.rollouts.prompts[i]) for i in runs.batch_indices(0, 6, 6, 0)]
    good = {
        place[i, k]
        for i, p in enumerate(order)
        for k in range(3)
        if values[p][k] is not None and p in (0, 3, 5)
    }
    assert {key[3] for piece in pieces for key in piece["keys"]} == good and len(good) == 8
    assert sum(len(p["latents"]) * p["scale"] for p in pieces) == pytest.approx(
        len(pieces)
    )  # a mean over all that count
    row = run.rollouts.rounds[0]
    assert row["useless"] == pytest.approx(3 / 6) and row["unjudged"] == pytest.approx(4 / 18)
    known = [v for p in values for v in p if v is not None]
    assert row["reward"] == pytest.approx(sum(known) / len(known))
    by_place = {key[3]: r for piece in pieces for key, r in zip(piece["keys"], piece["r"].tolist())}
    first = order.index(0)
    assert by_place[place[first, 0]] + by_place[place[first, 1]] == pytest.approx(
        1
    )  # .75 is the mean of the two that were judged


def test_a_round_in_which_all_rewards_are_equal_changes_nothing_and_says_so():
    lines = []
    run = new(
        config(steps=1, weight_decay=0.0, mix=0, kl=0.0, ema=0.0),
        lambda images, prompts: [Verdict({"a": 1})] * len(images),
        held_out=[],
        log=lines.append,
    )
    before = {n: p.detach().clone() for n, p in trainable(run.learner.model)}
    (state,) = drain(run)
    assert (
        same(before, dict(trainable(run.learner.model)))
        and state.grad_norm == 0
        and run.rollouts.rounds[0]["useless"] == 1
    )
    assert any("nothing to learn" in line and "1.00" in line for line in lines), lines


def test_judge_that_never_answers_stops_the_run_and_leaves_the_checkpoint(tmp_path):
    calls = []

    def silent(images, prompts):
        calls.append(1)
        return bright(images, prompts) if len(calls) <= 4 else [Verdict({"a": None})] * len(images)

    with pytest.raises(DataError, match="judge: gave no score to any of the 6 images of round 3"):
        drain(new(config(), silent, held_out=[]), tmp_path)
    assert read_checkpoint(checkpoints(tmp_path)[0])["step"] == 2


def test_verdicts_find_their_pictures_however_late_they_come():
    "Also of a judge in the background whose first answers come last."

    class Late:
        def __init__(self):
            self.threads, self.n = ThreadPoolExecutor(8), 0

        def submit(self, images, prompts):
            self.n += 1
            return self.threads.submit(
                lambda wait: (time.sleep(wait), bright(images.clone(), prompts))[1], 0.05 / self.n
            )

    a, b = new(config(steps=2)), new(config(steps=2), Late())
    drain(a), drain(b)
    assert same(state(a), state(b))


def test_pictures_of_one_prompt_come_in_all_sizes_and_train_on_their_own_grid():
    seen = []

    def judge(images, prompts):
        seen.extend((tuple(images.shape[2:]), p.text) for p in prompts)
        return bright(images, prompts)

    sizes = ((64, 64), (48, 80), (80, 48))
    run = new(config(images=4, sizes=sizes), judge, held_out=[])
    pieces = run.rollouts.batch(0)
    for text in {t for _, t in seen}:
        assert sorted(s for s, t in seen if t == text) == sorted((*sizes, (64, 64)))
    assert {p["grid"] for p in pieces} == {(4, 4), (3, 5), (5, 3)} and all(
        p["latents"].shape[1] == math.prod(p["grid"]) for p in pieces
    )
    assert all(
        len(
            set(p["t"].tolist()) - set(dit_solvers.sigma_schedule(math.prod(p["grid"]), 4).tolist())
        )
        == 0
        for p in pieces
    )  # the rollout's own levels


def test_old_policy_draws_and_follows_its_schedule():
    run = new(config(steps=3, mix=0), held_out=[])
    drain(run)
    trained = dict(trainable(run.learner.model))
    assert not same(
        run.rollouts.policy.old, {n: p.detach() for n, p in trained.items()}
    )  # a round behind
    run.rollouts.policy.mix(0.25)
    old = {n: x.clone() for n, x in run.rollouts.policy.old.items()}
    run.rollouts.policy.mix(1.0)
    assert same(old, run.rollouts.policy.old)
    run.rollouts.policy.mix(0.0)
    assert same(run.rollouts.policy.old, {n: p.detach() for n, p in trained.items()})


def test_grpo_ratio_is_one_at_the_first_update_and_not_at_the_second():
    run = new(config(algorithm="grpo", mix=0, kl=0.0, updates=2, images=4, lr=1e-2))
    first, second, *_ = drain(run)
    assert first.metrics["moved"] < 1e-5 < 1e-4 < second.metrics["moved"]


def test_with_one_update_a_round_the_trained_policy_is_the_old_one():
    "So NFT's beta and Flow-GRPO's clip have no say in such a run; with two updates they do."
    once, twice = (drain(new(config(updates=n, images=4, steps=3, lr=1e-2))) for n in (1, 2))
    assert max(s.metrics["moved"] for s in once) < 1e-5
    assert max(s.metrics["moved"] for s in twice) > 1e-4


def test_nft_raises_the_reward_it_is_given():
    run = new(
        config(steps=25, prompts=2, images=8, mix=0, evaluate_every=25, lr=2e-3),
        pipe=LensPipeline.from_pretrained(data_path("toy")),
        prompts=toy_prompts(8, 0),
        held_out=toy_prompts(4, 1),
    )
    drain(run)
    first, last = run.rollouts.held_out.scores[0], run.rollouts.held_out.scores[-1]
    assert last["reward"] > first["reward"] + 0.02, (first["reward"], last["reward"])


# ---- LoRA


def test_reference_under_lora_is_the_base_bit_for_bit():
    base, run = pipe(), new(config(lora_rank=4, lora_alpha=8, steps=3))
    text, mask = base.encode_prompt(["A red cat", "A dog with a hat"])
    x, t = (
        torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.3, 0.9]),
    )
    look = lambda m: m.eval()(x, text, mask, t, (4, 4)).detach()
    drain(run)
    assert all("lora_" in n for n, _ in trainable(run.learner.model)) and not torch.equal(
        look(run.learner.model), look(base.transformer)
    )
    with run.rollouts.policy.as_reference():
        assert torch.equal(look(run.learner.model), look(base.transformer))
    better = run.improved()
    with run.learner.ema.applied(run.learner.model):
        torch.testing.assert_close(
            look(better.transformer), look(run.learner.model), atol=1e-5, rtol=1e-4
        )
    assert better.transformer.state_dict().keys() == base.transformer.state_dict().keys()


def test_lora_checkpoint_refuses_another_base(tmp_path):
    c = config(lora_rank=2, lora_alpha=4, steps=1)
    drain(new(c), tmp_path)
    with pytest.raises(ConfigError, match="other weights"):
        drain(new(c.replace(steps=2), pipe=pipe(seed=5)), tmp_path)


# ---- resume


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        dict(),
        dict(lora_rank=4, lora_alpha=8, mix=2, beta=0.1),
        dict(algorithm="grpo", mix=0, updates=2),
        dict(updates=3, sizes=((64, 64), (48, 80))),
    ],
    ids=["full", "lora", "grpo", "updates"],
)
def test_killed_while_judging_then_resumed_is_the_run_that_never_stopped(changes, tmp_path):
    straight = new(config(**changes))
    drain(straight)
    calls = []

    def dies(images, prompts):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return bright(images, prompts)

    with pytest.raises(Killed):
        drain(new(config(**changes), dies), tmp_path)
    again = new(config(**changes), pipe=pipe())
    drain(again, tmp_path)
    assert same(state(straight), state(again))


@pytest.mark.parametrize("changes", [dict(), dict(lora_rank=4, lora_alpha=8)], ids=["full", "lora"])
def test_split_network_makes_the_same_run_and_resumes(changes, tmp_path):
    "FSDP2 (a group of one process): the rounds of the plain run, and a resumed one to the bit."
    from lens_ref.pretrain.sharding import ParallelLearner, ScaleConfig, launched

    c, plain = (
        config(steps=4, eps=1e-2, checkpoint_every=2, **changes),
        new(config(steps=4, eps=1e-2, **changes)),
    )
    drain(plain)
    own = lambda run: (
        {n: local(p.detach()).clone() for n, p in trainable(run.learner.model)},
        {n: local(w) for n, w in run.rollouts.policy.old.items()},
    )
    with launched("cpu"):
        split = lambda: new(
            c, make=lambda m, tc: ParallelLearner(m, tc, ScaleConfig(parallel="fsdp"))
        )
        whole, first = split(), split()
        drain(whole)
        for s in R.reinforce(first, tmp_path, log=str):
            if s.step == 2:
                break
        again = split()
        drain(again, tmp_path)
        assert [r["reward"] for r in whole.rollouts.rounds] == pytest.approx(
            [r["reward"] for r in plain.rollouts.rounds], abs=2e-3
        )
        for one, two, three in zip(own(plain), own(whole), own(again)):
            assert same(two, three)
            for n, w in one.items():
                torch.testing.assert_close(two[n], w, rtol=1e-3, atol=5e-6, msg=n)


def test_stop_between_two_updates_keeps_the_judged_round(tmp_path):
    "The judge is not asked again, and the result is that of a run in one go."
    c, asked = config(updates=2, images=4, steps=2), []
    straight = new(c, held_out=[])
    drain(straight)
    for i, s in enumerate(R.reinforce(new(c, held_out=[]), tmp_path, log=str)):
        if i == 2:
            break  # round 2, first of two updates

    def counting(images, prompts):
        asked.append(len(images))
        return bright(images, prompts)

    again = new(c, counting, held_out=[])
    drain(again, tmp_path)
    assert not asked and same(state(straight), state(again))


def test_resume_refuses_other_settings_and_prompts(tmp_path):
    drain(new(config(steps=1)), tmp_path)
    with pytest.raises(ConfigError, match="batch_size=8"):
        drain(new(config(steps=2, images=4)), tmp_path)
    with pytest.raises(ConfigError, match="RLConfig.prompt_set"):
        drain(new(config(steps=2), prompts=PROMPTS[:5]), tmp_path)
    assert len(drain(new(config(steps=2)), tmp_path)) == 1  # more rounds are no other setting


SCRIPT = """
import sys, time
sys.path.insert(0, "tests")
import test_rl as T
run = T.new(T.config(steps=200, evaluate_every=100))
for state in T.R.reinforce(run, sys.argv[1], log=str): print(state.step, flush=True)
"""


def test_sigterm_saves_and_sigkill_loses_nothing_before(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    for sign, least in ((signal.SIGTERM, 2), (signal.SIGKILL, 4)):
        p = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        steps = []
        for line in p.stdout:
            steps.append(int(line))
            if steps[-1] >= least:
                p.send_signal(sign)
                break
        steps += [int(line) for line in p.stdout]
        p.wait(60)
        saved = read_checkpoint(checkpoints(tmp_path)[0])
        assert (
            saved["step"] >= least
            and len(saved["data"]["rounds"]) == saved["step"]
            and len(saved["data"]["scores"]) == 1
        )
    assert steps[0] >= 3  # the second process went on where the first was stopped


# ---- alarm and time


def test_fooled_judge_stops_the_run_and_is_saved(tmp_path):
    "Held-out rewards rise while the independent checker's fall; training rewards are honest."
    n = SimpleNamespace(judge=0, checker=0)

    def judge(images, prompts):
        if prompts[0] not in HELD:
            return bright(images, prompts)
        n.judge += 1
        return [Verdict({str(i): int(i < 48 + 3 * n.judge) for i in range(100)})] * len(images)

    def checker(images, prompts):
        n.checker += 1
        return [Verdict({str(i): int(i < 90 - 10 * n.checker) for i in range(100)})] * len(images)

    lines, c = [], config(steps=30, evaluate_every=2, alarm="stop")
    run = new(c, judge, checker=checker, log=lines.append)
    states = drain(run, tmp_path, log=lines.append)
    assert (
        len(states) == 4
        and "independent checker" in run.stopped
        and sum("reward hacking" in line for line in lines) == 1
    )
    assert read_checkpoint(checkpoints(tmp_path)[0])["step"] == 4
    n.judge = n.checker = 0
    warned = new(c.replace(alarm="warn", steps=6), judge, checker=checker)
    assert len(drain(warned)) == 6 and warned.stopped is None


def test_minutes_end_the_run_in_order(tmp_path):
    run = new(config(steps=1000, evaluate_every=1000), held_out=[])
    states = drain(run, tmp_path, minutes=0.05)
    assert (
        0 < len(states) < 1000
        and read_checkpoint(checkpoints(tmp_path)[0])["step"] == states[-1].step
        and run.learner.stopped is None
    )


# ---- several processes


def rounds_of(folder, changes, idle):
    run = new(
        config(steps=2, weight_decay=0.0, eps=1e-2, **changes),
        one_sided if idle else bright,
        held_out=HELD + [Prompt("A tree")],
    )
    drain(run, folder)
    return (
        run.rollouts.rounds,
        run.rollouts.held_out.scores,
        torch.cat(
            [
                (p.detach() - run.rollouts.policy.first[n]).flatten()
                for n, p in trainable(run.learner.model)
            ]
        ),
    )


def one_sided(images, prompts):
    "Spread in the groups of one prompt in two only: a process may have nothing to train on."
    even = {p.text for i, p in enumerate(PROMPTS) if i % 2 == 0}
    return [
        v if p.text in even else Verdict({"Light (0)": 1})
        for p, v in zip(prompts, bright(images, prompts))
    ]


@pytest.mark.parametrize(
    "changes, idle",
    [(dict(prompts=4, mix=0), False), (dict(prompts=2, algorithm="grpo", mix=0), True)],
    ids=["nft", "one idle"],
)
def test_two_processes_do_what_one_does(changes, idle, tmp_path):
    one, two = (together(n, rounds_of, tmp_path / str(n), changes, idle) for n in (1, 2))
    for a, b in ((x, y) for i in (0, 1) for x, y in zip(one[i], two[i])):
        assert (
            a.keys() == b.keys()
            and all(b[k] == pytest.approx(a[k], rel=1e-3, abs=1e-3) for k in ("reward", "unjudged"))
            and a["categories"].keys() == b["categories"].keys()
        )
    assert (
        (one[2] - two[2]).norm() < 0.01 * one[2].norm() > 0
    )  # with a large eps: Adam makes much of the last bit of a gradient near 0


# ---- the command


def test_command_improves_resumes_and_records(tmp_path, capsys):
    settings = tmp_path / "c.json"
    settings.write_text(
        json.dumps(
            dict(
                prompts=2,
                images=2,
                levels=1,
                rollout_steps=3,
                eval_steps=3,
                evaluate_every=2,
                checkpoint_every=1,
            )
        )
    )
    argv = [
        "rl",
        "--out",
        str(tmp_path / "rl"),
        "--config",
        str(settings),
        "--workers",
        "1",
        "--held-out",
        "2",
        "--per-skill",
        "1",
    ]
    assert main([*argv, "--steps", "1"]) == 0 and main([*argv, "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "rl  round 2/2" in out and "no guidance" in out and "resumed at step 1" in out
    made = json.loads((tmp_path / "rl/pipeline/lineage.json").read_text())
    assert (
        made["rl"]["rounds"] == 2
        and made["rl"]["config"]["images"] == 2
        and set(made["scores_after_rl"]) == {"no guidance", "guided"}
    )
    assert (
        LensPipeline.from_pretrained(tmp_path / "rl/pipeline")(
            "a cat", num_inference_steps=2
        ).images
        and (tmp_path / "rl/curves.png").is_file()
    )


def test_a_judge_that_costs_money_stops_at_its_budget_and_goes_on_with_a_larger_one(
    tmp_path, capsys
):
    from fake_endpoint import COMPLETION_TOKENS, PROMPT_TOKENS, FakeEndpoint
    from lens_ref.rl.prompts import write_prompts

    write_prompts(tmp_path / "p.jsonl", toy_prompts(20, 0))
    settings = tmp_path / "c.json"
    settings.write_text(
        json.dumps(dict(steps=1, prompts=2, images=2, levels=1, rollout_steps=3, eval_steps=3))
    )
    price = (2 * PROMPT_TOKENS + 8 * COMPLETION_TOKENS) / 1e6
    with FakeEndpoint(
        answer=lambda q, body: str(len(body["messages"][1]["content"][0]["image_url"]["url"]) % 2)
    ) as server:

        def run(answers):
            code = main(
                [
                    "rl",
                    "--out",
                    str(tmp_path / "rl"),
                    "--config",
                    str(settings),
                    "--prompts",
                    str(tmp_path / "p.jsonl"),
                    "--judge",
                    server.url,
                    "--workers",
                    "1",
                    "--price-in",
                    "2",
                    "--price-out",
                    "8",
                    "--budget",
                    str(answers * price),
                ]
            )
            return code, len(server.calls), capsys.readouterr()

        code, paid, said = run(9.5)
        assert code == 2 and 10 <= paid < 30 and "budget" in said.err and said.err.count("\n") == 1
        assert run(9.5)[:2] == (2, paid)
        code, paid, _ = run(1000)
        assert (
            code == 0
            and len({json.dumps(c["body"]) for c in server.calls}) == paid
            and (tmp_path / "rl/pipeline/model_index.json").is_file()
        )  # nothing was paid twice


def test_shipped_checkpoint_is_a_small_change_of_the_shipped_toy_and_says_how_it_was_made():
    base, after = (LensPipeline.from_pretrained(data_path(name)) for name in ("toy", "toy-rl"))
    images = [
        p(
            "A large red cat in the centre, set in a plain light grey studio.",
            generator=torch.Generator().manual_seed(0),
            guidance_scale=1.0,
            num_inference_steps=4,
            output_type="signed",
        ).images
        for p in (base, after)
    ]
    assert 0 < (images[0] - images[1]).abs().mean() < 0.2 and base.defaults == after.defaults
    made = json.loads((data_path("toy-rl") / "lineage.json").read_text())
    assert (
        made["rl"]["rounds"] == 34
        and made["scores_after_rl"]["no guidance"]["overall"]
        > made["scores_before_rl"]["no guidance"]["overall"] + 0.03
    )
    skills = {
        k: v - made["scores_before_rl"]["no guidance"][k]
        for k, v in made["scores_after_rl"]["no guidance"].items()
    }
    assert min(skills.values()) >= -0.03


@pytest.mark.parametrize(
    "argv, named",
    [
        (["--model", "nowhere"], "nowhere"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--algorithm", "ppo"], "algorithm"),
        (["--device", "nowhere"], "--device"),
        (["--skills", "singel"], "singel"),
        (["--skills", "single", "--prompts", "mine.jsonl"], "--skills"),
        (["--steps", "0"], "--steps"),
        (["--minutes", "-1"], "--minutes"),
        (["--budget", "3"], "--judge"),
        (["--judge", "http://127.0.0.1:9/v1", "--budget", "3"], "--price-in"),
        (["--workers", "5"], "workers"),
        (["--preset", "huge"], "huge"),
    ],
)
def test_command_names_the_culprit(argv, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["rl", *argv]) == 2
    err = capsys.readouterr().err
    assert named in err and err.count("\n") == 1, err


@pytest.mark.gpu
@pytest.mark.parametrize("algorithm", ["nft", "grpo"])
def test_rounds_on_a_gpu_are_those_of_the_cpu(algorithm, tmp_path):
    def rounds(device):
        settings = RLConfig.preset(
            "toy",
            algorithm=algorithm,
            steps=2,
            prompts=4,
            images=4,
            rollout_steps=5,
            evaluate_every=1,
        )
        C.rl(
            tmp_path / f"{device}_{algorithm}",
            data_path("toy"),
            settings,
            toy_prompts(8, 0),
            toy_prompts(4, 1),
            C.exact_judge,
            log=str,
            device=device,
        )
        return json.loads((tmp_path / f"{device}_{algorithm}" / "curves.json").read_text())

    cpu, gpu = rounds("cpu"), rounds("cuda")
    assert gpu["made"]["device"] != "CPU" and gpu["rounds"][0]["reward"] == pytest.approx(
        cpu["rounds"][0]["reward"], abs=0.02
    )
    assert gpu["scores"][0]["diversity"] == pytest.approx(cpu["scores"][0]["diversity"], rel=0.01)
    assert gpu["history"][0]["grad_norm"] == pytest.approx(cpu["history"][0]["grad_norm"], rel=0.2)
