"""Distillation: closed forms, terms switched off, exact resume, divergence, shared weights, several
processes, the pipeline's own defaults."""

import json
import math
from pathlib import Path

import pytest
import torch

from lens_ref.rl import policies as rl_policies
from lens_ref.turbo import config as turbo_config
from lens_ref.turbo import rounds as turbo_rounds
from lens_ref.core import parallel as core_parallel
from lens_ref.pretrain import pipeline as pretrain_pipeline
from lens_ref.turbo import distil as D
from lens_ref.turbo import stage as T
from lens_ref.turbo import run as R
from lens_ref.core.config import ConfigError
from lens_ref.core.files import data_path
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.evaluate import generate, grade_all
from lens_ref.pretrain.splits import split_prompts
from lens_ref.dit.flow import GaussianMixture, to_x0
from lens_ref.dit.solvers import guide, sample, sigma_schedule
from lens_ref.core.parallel import Shard, together
from lens_ref.pretrain.pipeline import LensPipeline
from lens_ref.rl.scene_prompts import toy_prompts
from lens_ref.rl.held_out import diversity
from lens_ref.core.runs import InMemoryData, checkpoints
from lens_ref.core.averages import trainable
from lens_ref.core.loop import DivergedError, run_state

PARTS = {}


def teacher(seed=0):
    torch.manual_seed(seed)
    model = init_weights(
        LensTransformer2DModel(
            **preset(
                "toy", num_layers=2, inner_dim=32, num_attention_heads=1, enc_hidden_dim=12
            ).to_dict()
        )
    )
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(
            p
        )  # the last layer starts at zero: nothing would depend on anything
    return model


def pipe(seed=0):
    if not PARTS:
        PARTS["toy"] = LensPipeline.from_pretrained(data_path("toy"))
    return LensPipeline(teacher(seed), PARTS["toy"].vae, None)


def data(batch_size=4, grid=(2, 2)):
    g = torch.Generator().manual_seed(0)
    mask = torch.arange(5)[None] < torch.randint(2, 6, (16, 1), generator=g)
    return InMemoryData(
        torch.randn(16, grid[0] * grid[1], 32, generator=g),
        [torch.randn(16, 5, 12, generator=g) for _ in range(3)],
        mask,
        grid,
        batch_size,
    )


def config(**changes):
    return turbo_config.TurboConfig.preset(
        "toy",
        **{
            **dict(
                steps=6,
                batch_size=4,
                fake_updates=2,
                lr=1e-3,
                fake_lr=2e-3,
                gan_lr=1e-3,
                checkpoint_every=4,
                warm_steps=0,
                spread_limit=100.0,
            ),
            **changes,
        },
    )


def new(c, p=None, d=None, **kw):
    return turbo_rounds.new_turbo(p or pipe(), d or data(), c, **kw)


def drain(run, folder=None, **kw):
    return list(turbo_rounds.run_turbo(run, folder, log=kw.pop("log", str), **kw))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or a != a and b != b


def state(run):
    return {k: v for k, v in run_state(run.learner, run.step, run.rounds).items() if k != "config"}


# ---------------------------------------------------------------------------------------------- the
# maths


def test_matching_gradient_of_two_gaussians_is_the_closed_form():
    """Student N(b, s^2) against data N(m, s^2): x0_fake - x0_real = (b - m) t^2 / V at every point,
    and it vanishes where they are one."""
    g = torch.Generator().manual_seed(0)
    m, b, s = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 0.0]]), 0.7
    x_t, t = torch.randn(64, 2, generator=g), torch.rand(64, generator=g) * 0.9 + 0.05
    real, fake = GaussianMixture(m, [s]), GaussianMixture(b, [s])
    V = ((1 - t) ** 2 * s**2 + t**2)[:, None]
    got = D.dmd_gradient(fake.velocity(x_t, t), real.velocity(x_t, t), t)
    torch.testing.assert_close(got, (b - m) * t[:, None] ** 2 / V, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        got,
        to_x0(x_t, fake.velocity(x_t, t), t) - to_x0(x_t, real.velocity(x_t, t), t),
        rtol=1e-4,
        atol=1e-5,
    )
    assert not D.dmd_gradient(real.velocity(x_t, t), real.velocity(x_t, t), t).any()


def test_two_forces_add_up_and_ca_vanishes_at_guidance_one():
    g = torch.Generator().manual_seed(0)
    t, (c, u, f) = torch.rand(8, generator=g), torch.randn(3, 8, 4, 6, generator=g)
    for rescale in (False, True):
        whole = D.dmd_gradient(f, guide(c, u, 3.0, rescale), t)
        torch.testing.assert_close(
            whole, D.dmd_gradient(f, c, t) + D.ca_gradient(c, u, t, 3.0, rescale)
        )
        assert not D.ca_gradient(c, u, t, 1.0, rescale).any()
    torch.testing.assert_close(D.ca_gradient(c, u, t, 3.0), 2 * t[:, None, None] * (c - u))


def test_matching_loss_has_the_gradient_it_was_given():
    x, pull = torch.randn(3, 4, 2, requires_grad=True), torch.randn(3, 4, 2)
    pull[1, 0, 0] = math.nan
    (grad,) = torch.autograd.grad(D.matching_loss(x, pull).sum(), x)
    torch.testing.assert_close(grad, pull.nan_to_num() / 8)
    far, near = D.error_size(torch.ones(2, 3), torch.tensor([[3.0] * 3, [1.0] * 3]))[:, 0]
    assert far == 2 and near == pytest.approx(1e-3)  # never a division by zero


@pytest.mark.parametrize(
    "side, low, high", [("any", 0.02, 0.98), ("noisier", 0.6, 0.98), ("cleaner", 0.02, 0.6)]
)
def test_levels_stay_on_their_side(side, low, high):
    t = D.renoise_levels(torch.linspace(0, 1, 101), torch.full((101,), 0.6), side)
    assert t.min() == pytest.approx(low) and t.max() == pytest.approx(high)
    assert (
        D.renoise_levels(torch.rand(9), torch.ones(9), "noisier") == torch.tensor(0.98)
    ).all()  # before the first step nothing is noisier


def test_approximate_r1_of_a_linear_discriminator():
    g = torch.Generator().manual_seed(0)
    w, x, eps = torch.randn(6, generator=g), *torch.randn(2, 100_000, 6, generator=g)
    assert D.approx_r1(x @ w, (x + 0.1 * eps) @ w, 2.0).mean() / 0.1**2 == pytest.approx(
        w.square().sum().item(), rel=0.03
    )
    loss, fooled = D.gan_losses(torch.zeros(2), torch.zeros(2))
    assert loss.tolist() == pytest.approx(
        [2 * math.log(2)] * 2
    ) and fooled.tolist() == pytest.approx([math.log(2)] * 2)


def test_ida_is_exact_and_wants_equal_lists():
    fake, student = [torch.ones(2, 2), torch.zeros(3)], [torch.full((2, 2), 3.0), torch.ones(3)]
    D.ida_update(fake, student, 0.25)
    assert fake[0].eq(1.5).all() and fake[1].eq(0.25).all() and student[0].eq(3).all()
    with pytest.raises(ValueError):
        D.ida_update(fake, student[:1], 0.25)


def test_backward_simulation_is_the_sampler():
    v = GaussianMixture([[1.0, 0.0], [-1.0, 2.0]], [0.3, 0.5]).velocity
    noise, sigmas = (
        torch.randn(32, 2, generator=torch.Generator().manual_seed(0)),
        sigma_schedule(16, 4),
    )
    reached = []
    end = sample(v, noise, sigmas, callback=lambda i, t, x, x0: reached.append(x))
    assert sigma_schedule(4096, 4).tolist() == pytest.approx(
        [1.0, 0.967, 0.908, 0.767, 0.0], abs=1e-3
    )  # the released four levels of a 1024 x 1024 picture
    for k in range(4):
        assert torch.equal(D.backward_simulation(v, noise, sigmas, k), [noise, *reached][k])
    torch.testing.assert_close(
        D.one_step(v, D.backward_simulation(v, noise, sigmas, 3), sigmas[3]), end
    )


# ----------------------------------------------------------------------------------------------
# settings


@pytest.mark.parametrize(
    "field, changes",
    [
        ("ca_side", dict(ca_side="left")),
        ("ida", dict(ida=1.5)),
        ("dm", dict(dm=0.0, ca=0.0, gan=0.0)),
        ("fake_updates", dict(fake_updates=0)),
        ("checkpoint_every", dict(checkpoint_every=3)),
        ("checkpoint_every", dict(keep_last=1)),
        ("spread_limit", dict(spread_limit=1.0)),
        ("lr", dict(lr=0.0)),
        ("copies", dict(copies=1)),
        ("warm_solver", dict(warm_solver="rk4")),
        ("guidance", dict(guidance=-1.0)),
    ],
)
def test_impossible_setting_is_named(field, changes):
    with pytest.raises(ConfigError, match=rf"Config\.{field}="):
        config(**changes)


def test_lens_preset_has_the_papers_numbers():
    c = turbo_config.TurboConfig.preset("lens")
    assert (
        c.steps,
        c.batch_size,
        c.student_steps,
        c.guidance,
        c.match,
        c.gan,
        c.r1_gamma,
        c.r1_alpha,
        c.fake_updates,
        c.ida,
        c.lr,
        c.fake_lr,
        c.gan_lr,
        c.betas,
    ) == (1000, 32, 4, 5.0, 0.1, 0.001, 1.0, 0.1, 4, 0.03, 5e-7, 5e-7, 1e-4, (0.0, 0.9))
    assert len(c.sizes) == 27 and c.warm_steps == 0 and c.lora_rank == 0 and c.samples == 100_000
    assert turbo_config.TurboConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c
    with pytest.raises(ConfigError, match="no preset"):
        turbo_config.TurboConfig.preset("huge")


# ---------------------------------------------------------------------------------------------- the
# run


def test_teacher_stays_and_everything_else_moves():
    p = pipe()
    before, run = [w.clone() for w in p.transformer.parameters()], new(config(), p)
    states = drain(run)
    assert len(states) == 6 and all(
        torch.equal(a, b) for a, b in zip(before, run.teacher.parameters())
    )
    assert all(
        any(not torch.equal(a, b) for a, b in zip(before, m.parameters()))
        for m in (run.learner.model, run.rounds.fake.model)
    )
    assert run.rounds.fake.step == run.rounds.judge.step == 12  # two time scales
    assert {"fake_loss", "accuracy", "ca_dm", "cosine", "spread"} <= states[-1].metrics.keys()


def test_switched_off_terms_leave_no_trace():
    "A weight of zero gives the run that never had the term."
    run = new(config(gan=0.0, ida=0.0))
    assert run.rounds.judge is None
    assert "accuracy" not in drain(run)[-1].metrics
    states = drain(new(config(steps=1, ca=0.0, gan=0.0)))
    assert states[0].metrics["ca_dm"] == 0
    a, b = (
        drain(new(config(steps=1, gan=0.0, fake_updates=1, fake_lr=1e-12, **c)))[0]
        for c in (dict(ca=0.0, guidance=3.0), dict(ca=0.0, guidance=1.0))
    )
    assert (
        a.loss
        == b.loss
        < 1e-4 * drain(new(config(steps=1, gan=0.0, fake_lr=1e-12, guidance=3.0)))[0].loss
    )  # fake = teacher and no CA: nothing to learn


def test_plain_dmd2_uses_the_guided_teacher():
    """One level and one noise: the sum of both forces is DMD2's gradient with guidance, up to the
    size it is divided by."""
    c = config(decoupled=False, rescale=False, guidance=3.0)
    run, batch = new(c), data().batch(0)
    x = torch.randn(4, 4, 32)
    pull, _ = run.step.forces(x, 0.5, batch, [rl_policies.stream(i) for i in range(4)])
    x_t, t = T.noised(x, 0.5, "any", [rl_policies.stream(i) for i in range(4)])
    v_fake = pretrain_pipeline.velocity_field(run.rounds.fake.model, *T.condition(batch))(x_t, t)
    guided = pretrain_pipeline.velocity_field(run.teacher, *T.condition(batch), 3.0, False)(x_t, t)
    plain = pretrain_pipeline.velocity_field(run.teacher, *T.condition(batch))(x_t, t)
    torch.testing.assert_close(
        pull,
        D.dmd_gradient(v_fake, guided, t) / D.error_size(x, to_x0(x_t, plain, t)),
        rtol=1e-3,
        atol=1e-5,
    )


def test_shared_weights_are_one_memory_and_equal_full_copies_at_first():
    model = teacher().requires_grad_(False).eval()
    inputs = (
        torch.randn(2, 4, 32),
        [torch.randn(2, 5, 12) for _ in range(3)],
        torch.ones(2, 5, dtype=torch.bool),
        torch.tensor([0.3, 0.9]),
        (2, 2),
    )
    full, thin, other = (
        T.twin(model, config()),
        *(T.twin(model, config(lora_rank=4)) for _ in range(2)),
    )
    torch.testing.assert_close(thin(*inputs), full(*inputs), rtol=1e-4, atol=1e-5)
    frozen = {p.data_ptr() for p in model.parameters()}
    assert {
        p.data_ptr() for m in (thin, other) for p in m.parameters() if not p.requires_grad
    } == frozen
    assert (
        not {p.data_ptr() for _, p in trainable(thin)} & {p.data_ptr() for _, p in trainable(other)}
        and not {p.data_ptr() for p in full.parameters()} & frozen
    )
    assert (
        T.storage(model, thin, other)
        < 1.9 * T.storage(model)
        < T.storage(model, full, T.twin(model, config()))
    )
    run = new(config(lora_rank=4))
    before = [w.clone() for w in run.teacher.parameters()]
    drain(run)
    assert all(torch.equal(a, b) for a, b in zip(before, run.teacher.parameters()))
    merged = run.improved().transformer
    with run.learner.ema.applied(run.learner.model):
        torch.testing.assert_close(
            merged(*inputs), run.learner.model(*inputs), rtol=1e-4, atol=1e-5
        )


def test_killed_run_goes_on_exactly(tmp_path):
    whole = new(config())
    drain(whole)
    for s in turbo_rounds.run_turbo(new(config()), tmp_path, log=str):
        if s.step == 3:
            break  # leaves the loop: saved at 3, off the beat
    again = new(config())
    drain(again, tmp_path)
    assert same(state(again), state(whole))
    with pytest.raises(ConfigError, match="TurboConfig.guidance"):
        drain(new(config(guidance=4.0)), tmp_path)
    with pytest.raises(ConfigError, match="another teacher"):
        drain(new(config(), pipe(1)), tmp_path)


def test_divergence_ends_at_the_last_good_checkpoint(tmp_path):
    said, c = [], config(steps=40, lr=0.3, ema=0.0, spread_limit=1.6)
    run = new(c)
    states = drain(run, tmp_path, log=said.append)
    assert run.diverged and "out of bounds since step" in run.diverged and "went back" in said[-1]
    since = turbo_rounds.diverging(
        [dict(step=s.step, spread=s.metrics["spread"]) for s in states], 1.6
    )
    assert run.learner.step < since <= len(states) < 40
    assert all(int(p.stem.split("_")[1]) < since for p in checkpoints(tmp_path))
    assert all(torch.isfinite(p).all() for p in run.learner.model.parameters())
    with pytest.raises(DivergedError):
        drain(new(c))  # nowhere to go back to
    rows = [dict(step=i, spread=s) for i, s in enumerate([1.0, 2.0, 2.0, 1.0, 2.0, 0.1, math.nan])]
    assert [turbo_rounds.diverging(rows[:n], 1.5) for n in range(1, 8)] == [None] * 6 + [
        4
    ]  # three running, NaN among them


def _pair(out, c):
    run = turbo_rounds.new_turbo(pipe(), Shard(data()), c)
    for _ in turbo_rounds.run_turbo(run, log=str):
        pass
    if core_parallel.rank() == 0:
        torch.save(
            [
                {n: p.detach() for n, p in trainable(m)}
                for m in (run.learner.model, run.rounds.fake.model, run.rounds.judge.model)
            ],
            out,
        )


def test_two_processes_make_the_same_run(tmp_path):
    c = config(steps=2, eps=1e-2)  # a coarse eps: Adam turns a rounding of nothing into a step
    _pair(tmp_path / "one.pt", c)
    together(2, _pair, tmp_path / "two.pt", c)
    for one, two in zip(*(torch.load(tmp_path / f"{n}.pt") for n in ("one", "two"))):
        for k in one:
            torch.testing.assert_close(two[k], one[k], rtol=1e-3, atol=2e-6, msg=k)


def test_split_networks_make_the_same_run_and_resume(tmp_path):
    """FSDP2 on teacher, student and fake score (a group of one process): the plain run, and a
    resumed one to the bit."""
    from lens_ref.pretrain.sharding import ParallelLearner, ScaleConfig, launched, parallelize

    fsdp, c, plain = (
        ScaleConfig(parallel="fsdp"),
        config(steps=4, checkpoint_every=4, eps=1e-2),
        new(config(steps=4, eps=1e-2)),
    )
    drain(plain)
    weights = lambda L: {n: rl_policies.local(p.detach()).clone() for n, p in trainable(L.model)}
    with launched("cpu"):
        split = lambda: new(
            c, make=lambda m, tc: ParallelLearner(m, tc, fsdp), ready=lambda m: parallelize(m, fsdp)
        )
        whole, first = split(), split()
        drain(whole)
        for s in turbo_rounds.run_turbo(first, tmp_path, log=str):
            if s.step == 2:
                first.learner.save(tmp_path, first.step, first.rounds)
                break
        again = split()
        drain(again, tmp_path)
        for one, two, three in (
            (getattr(r.rounds, "fake") if k else r.learner for r in (plain, whole, again))
            for k in (0, 1)
        ):
            for n, w in weights(one).items():
                torch.testing.assert_close(weights(two)[n], w, rtol=1e-3, atol=2e-6, msg=n)
            assert same(weights(two), weights(three))


def test_warm_start_learns_the_teachers_stretches():
    """The loss falls, and an exact student of one-step stretches would have loss 0: with one
    substep the guided teacher's own velocity is the answer."""
    c = config(warm_steps=30, warm_lr=3e-3, guidance=1.0, warm_substeps=1, warm_solver="euler")
    step = R.WarmStep(teacher().eval(), c)
    loss, _ = step(teacher().eval(), data().batch(0), None, torch.Generator().manual_seed(0))
    assert loss.item() < 1e-9
    losses = []
    R.warm_up(
        teacher().requires_grad_(False).eval(),
        data(),
        c.replace(guidance=3.0, warm_substeps=3),
        log=lambda s: losses.append(float(s.split("loss ")[1].split()[0])),
    )
    assert losses[-1] < 0.7 * losses[0]


# ---------------------------------------------------------------------------------------------- the
# stage


def test_command_makes_a_pipeline_that_knows_its_steps(tmp_path):
    from lens_ref.cli.main import main

    settings = tmp_path / "c.json"
    settings.write_text(
        json.dumps(
            dict(
                batch_size=2,
                fake_updates=1,
                samples=16,
                warm_steps=2,
                warm_substeps=1,
                checkpoint_every=4,
                copies=2,
            )
        )
    )
    argv = [
        "distill",
        "--out",
        str(tmp_path / "turbo"),
        "--config",
        str(settings),
        "--steps",
        "2",
        "--workers",
        "1",
        "--held-out",
        "1",
        "--per-skill",
        "0",
    ]
    assert main(argv) == 0
    for folder in ("pipeline", "change"):
        p = LensPipeline.from_pretrained(tmp_path / "turbo" / folder)
        assert (p.defaults["num_inference_steps"], p.defaults["guidance_scale"]) == (4, 1.0)
        made = json.loads((tmp_path / "turbo" / folder / "lineage.json").read_text())["turbo"]
        assert made["updates"] == 2 and made["config"]["samples"] == 16 and not made["diverged"]
        calls = []
        handle = p.transformer.register_forward_hook(lambda *a: calls.append(len(a[1][0])))
        image = p(toy_prompts(1, 0)[0].text, generator=torch.Generator().manual_seed(0)).images[0]
        handle.remove()
        assert image.size == (64, 64) and calls == [1] * 4  # four passes of one row: no guidance
    small = sum(f.stat().st_size for f in (tmp_path / "turbo/change").iterdir())
    assert small < 0.4 * sum(
        f.stat().st_size for f in Path(data_path("toy", "transformer")).iterdir()
    )
    assert (
        main([*argv[:3], "--config", str(settings), "--workers", "3"]) == 2
    )  # a batch of two for three


def test_mixed_sizes_are_drawn_in_turn(tmp_path):
    toy = LensPipeline.from_pretrained(data_path("toy"))
    c = config(
        batch_size=2, steps=3, fake_updates=1, samples=48, sizes=((64, 64), (64, 96)), gan=0.001
    )
    d = R.turbo_data(tmp_path, toy, c, str)
    grids = {d.batch(i)["grid"] for i in range(12)}
    assert grids == {(4, 4), (4, 6)}
    assert all(math.isfinite(s.loss) for s in drain(turbo_rounds.new_turbo(toy, d, c)))


# ----------------------------------------------------------------------------------------------
# comparison and the whole lineage


def test_shipped_student_draws_like_its_teacher_in_a_tenth_of_the_passes():
    teacher, student = (
        LensPipeline.from_pretrained(data_path(name)) for name in ("toy-rl", "toy-turbo")
    )
    assert student.defaults["num_inference_steps"] == 4 and student.defaults["guidance_scale"] == 1
    calls, forward = [], student.transformer.forward
    student.transformer.forward = lambda *a, **k: calls.append(1) or forward(*a, **k)
    prompts = split_prompts("dense", 2, 20_000)

    def good(p, **how):
        images = generate(p, [q.text for q in prompts], 0, **how)
        return sum(g["passed"] for g in grade_all(prompts, images))

    assert good(student) >= 10 and len(calls) == 4  # of fourteen, in one batch

    def variety(p, **how):
        return diversity(
            p(
                prompts[0].text,
                generator=torch.Generator().manual_seed(0),
                num_images_per_prompt=6,
                output_type="latent",
                **how,
            ).images[None]
        ).item()

    few = dict(num_inference_steps=4, guidance_scale=1.0)
    assert (
        variety(student) > 0.8 * variety(teacher) > variety(teacher, **few)
    )  # what the teacher's own four steps lose
    made = json.loads((data_path("toy-turbo") / "lineage.json").read_text())
    assert (
        [s for s in ("rl", "turbo") if s in made] == ["rl", "turbo"]
        and made["turbo"]["updates"] == 400
        and made["turbo"]["minutes"] < 20
        and made["turbo"]["config"]["warm_steps"] == 0
    )


def test_frechet_distance_is_the_closed_form():
    """Covariances that commute: squared distance of the means plus squared differences of the
    spreads."""
    from lens_ref.turbo.findings import frechet

    g = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64))[0]

    def cloud(spreads, mean):
        x = torch.randn(500, 4, generator=g, dtype=torch.float64)
        x = (x - x.mean(0)) @ torch.linalg.inv(
            torch.linalg.cholesky(torch.cov(x.T))
        ).T  # sample covariance exactly 1
        return x * torch.tensor(spreads) @ turn.T + torch.tensor(mean)

    a, b = (
        cloud([1.0, 2.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]),
        cloud([2.0, 2.0, 0.1, 0.3], [1.0, 0.0, -2.0, 0.0]),
    )
    assert frechet(a, b) == pytest.approx(5 + 1 + 0 + 0.16 + 0.09, abs=1e-4) and frechet(
        a, a
    ) == pytest.approx(0, abs=1e-6)


def test_detail_is_the_mean_absolute_laplacian():
    from lens_ref.turbo.findings import detail

    board = (
        torch.arange(8)[:, None] + torch.arange(8)
    ) % 2 * 2.0 - 1  # four neighbours differ by 2 everywhere
    slope = torch.arange(8.0)[:, None] + 2 * torch.arange(8.0)
    assert detail(board.expand(2, 3, 8, 8)) == 8 and detail(
        slope.expand(1, 3, 8, 8)
    ) == 0 == detail(torch.ones(1, 3, 8, 8))


def test_whole_lineage_keeps_what_is_finished(tmp_path, monkeypatch):
    from lens_ref.lens import lineage as W

    ran = []

    def stage(name, stop=False):
        def run(out, *args, **kw):
            ran.append(name)
            if stop and len(ran) == 2:
                return None  # a signal in the second stage
            (Path(out) / "pipeline").mkdir(parents=True, exist_ok=True)
            (Path(out) / "pipeline/model_index.json").write_text("{}")
            return True

        return run

    for name, fn in (
        ("build", stage("base")),
        ("rl", stage("rl", stop=True)),
        ("distill", stage("turbo")),
    ):
        monkeypatch.setattr(W, name, fn)
    c = W.WholeConfig(workers=1)
    assert W.build_whole(tmp_path, c, str) is None and ran == ["base", "rl"]
    assert list(W.build_whole(tmp_path, c, str)) == ["base", "rl", "turbo"] and ran == [
        "base",
        "rl",
        "rl",
        "turbo",
    ]
    W.build_whole(tmp_path, c, str)
    assert len(ran) == 4
    with pytest.raises(ConfigError, match="steps"):
        W.build_whole(tmp_path, c.replace(steps=9), str)
    with pytest.raises(ConfigError, match="ca_side"):
        W.WholeConfig(turbo=dict(ca_side="left"))


@pytest.mark.gpu
def test_updates_on_a_gpu_start_where_the_cpus_do(tmp_path):
    def run(device):
        settings = turbo_config.TurboConfig.preset(
            "toy",
            steps=2,
            batch_size=16,
            samples=64,
            warm_steps=2,
            evaluate_every=1,
            checkpoint_every=4,
        )
        run = R.stage_turbo(
            tmp_path / device, data_path("toy"), settings, toy_prompts(2, 0), log=str, device=device
        )
        return run.learner.history[0], run.watch.scores[0], run.learner.device.type

    (cpu, base, _), (gpu, own, device) = run("cpu"), run("cuda")
    assert (
        device == "cuda"
        and own["diversity"] == pytest.approx(base["diversity"], rel=0.01)
        and own["reward"] == pytest.approx(base["reward"], abs=0.3)
    )
    for k in ("fake_loss", "cosine", "spread"):
        assert gpu[k] == pytest.approx(cpu[k], rel=0.3), k  # a GPU draws other levels and noise
