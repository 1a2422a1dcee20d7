"""Flow matching against recorded schedules, diffusers' solvers, closed forms and bad input."""

import json
import math
import pathlib

import numpy as np
import pytest
import torch

from lens_ref.dit import flow
from lens_ref.dit import solvers as dit_solvers
from lens_ref.core.config import ConfigError, DataError, LensError
from lens_ref.dit.flow import GaussianMixture
from lens_ref.dit.solvers import sample, sigma_schedule

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/sigma_schedules.json").read_text())


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=torch.float64)


@pytest.fixture
def ring():
    angles = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5
    return GaussianMixture(
        torch.stack([angles.cos(), angles.sin()], 1),
        torch.tensor([0.1, 0.2, 0.3, 0.2, 0.1]),
        [1.0, 2, 3, 4, 5],
    )


# ---- schedules


@pytest.mark.parametrize("row", GOLDEN, ids=lambda r: f"{r['image_tokens']}x{r['steps']}")
def test_schedule_equals_the_recorded_one_exactly(row):
    assert dit_solvers.empirical_mu(row["image_tokens"], row["steps"]) == pytest.approx(
        row["mu"], abs=1e-12
    )
    ours = sigma_schedule(row["image_tokens"], row["steps"])
    assert ours.dtype == torch.float32 and ours.tolist() == row["sigmas"]


@pytest.mark.parametrize("tokens", [1, 16, 300, 4096, 4300, 4301, 8100])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20, 33, 50, 100, 250])
def test_schedule_equals_diffusers_exactly(tokens, steps):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    mu = compute_empirical_mu(tokens, steps)
    assert dit_solvers.empirical_mu(tokens, steps) == pytest.approx(mu, abs=1e-12)
    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    assert torch.equal(sigma_schedule(tokens, steps, mu=mu), theirs.sigmas)
    dit_solvers.check_sigmas(sigma_schedule(tokens, steps))


def test_shift_is_an_addition_in_logit():
    s = torch.rand(1000, generator=gen(), dtype=torch.float64)
    torch.testing.assert_close(torch.logit(flow.shift_sigmas(s, 1.3)), torch.logit(s) + 1.3)
    torch.testing.assert_close(flow.shift_sigmas(flow.shift_sigmas(s, 1.3), -1.3), s)
    assert flow.shift_sigmas(torch.tensor([0.0, 1.0]), 2.0).tolist() == [0.0, 1.0]
    assert torch.equal(
        flow.shift_sigmas(s, torch.tensor(0.0, dtype=s.dtype)), flow.shift_sigmas(s, 0)
    )


def test_training_mu_is_the_papers_line():
    assert [flow.training_mu(n) for n in (16, 256, 1024, 2304, 4096, 8100)] == pytest.approx(
        [0.98125, 1.0, 1.06, 1.16, 1.3, 1.6128125]
    )


# ---- the laws of t


def test_logit_normal_moments_and_dtype():
    t = flow.sample_timesteps(200_000, 1.06, gen(), std=0.7)
    z = torch.logit(t.double())
    assert t.dtype == torch.float32 and 0 <= t.min() and t.max() <= 1
    assert abs(z.mean() - 1.06) < 0.01 and abs(z.std() - 0.7) < 0.01
    assert abs((z - z.mean()).pow(3).mean() / z.std() ** 3) < 0.03  # symmetric in logit


def test_mu_may_differ_per_sample():
    mu = torch.tensor([-3.0, 3.0]).repeat(5000)
    t = flow.sample_timesteps(10_000, mu, gen())
    assert torch.logit(t[0::2]).mean() < -2.9 and torch.logit(t[1::2]).mean() > 2.9


def test_shifted_uniform_is_the_law_of_the_schedule():
    t = flow.sample_timesteps(200_000, 1.9, gen(), law="shifted_uniform").sort().values
    even = torch.linspace(1, 0, 201)[1:-1]
    assert (t[(even * 200_000).long()] - flow.shift_sigmas(even, 1.9)).abs().max() < 0.01
    u = flow.sample_timesteps(200_000, 1.9, gen(), law="uniform")
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002


def test_same_generator_same_levels():
    assert torch.equal(flow.sample_timesteps(8, 1.0, gen(3)), flow.sample_timesteps(8, 1.0, gen(3)))
    assert not torch.equal(
        flow.sample_timesteps(8, 1.0, gen(3)), flow.sample_timesteps(8, 1.0, gen(4))
    )


# ---- interpolation and loss


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 6, 3), (4, 3, 8, 8)])
def test_both_ends_come_back_from_the_velocity(shape):
    x0, noise = rand(*shape), rand(*shape, seed=1)
    t = torch.tensor([0.0, 0.25, 0.9, 1.0], dtype=torch.float64)
    x_t, v = flow.interpolate(x0, noise, t), flow.velocity_target(x0, noise)
    torch.testing.assert_close(flow.to_x0(x_t, v, t), x0)
    assert torch.equal(x_t[0], x0[0]) and torch.equal(x_t[3], noise[3])


def test_bf16_samples_are_mixed_in_float32():
    x0, noise = rand(2, 4).bfloat16(), rand(2, 4, seed=1).bfloat16()
    x_t = flow.interpolate(x0, noise, torch.tensor([0.003, 0.997]))
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(
        x_t, flow.interpolate(x0.float(), noise.float(), torch.tensor([0.003, 0.997]))
    )


def test_loss_is_a_mean_of_sample_means():
    v, x0, noise = rand(3, 5, 4), rand(3, 5, 4, seed=1), rand(3, 5, 4, seed=2)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    error = (v - (noise - x0)) ** 2
    each = flow.per_sample_loss(v, x0, noise, mask)
    torch.testing.assert_close(
        each, torch.stack([error[0].mean(), error[1, 0].mean(), error.new_zeros(())])
    )
    torch.testing.assert_close(flow.flow_matching_loss(v, x0, noise), error.mean())
    weight = torch.tensor([2.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        flow.flow_matching_loss(v, x0, noise, weight, mask), each.dot(weight) / 3
    )
    assert flow.per_sample_loss(v.bfloat16(), x0, noise).dtype == torch.float32
    assert (
        flow.flow_matching_loss(v.bfloat16(), x0.bfloat16(), noise.bfloat16()).dtype
        == torch.float32
    )


def test_masked_tokens_get_no_gradient():
    v = rand(1, 3, 2).requires_grad_()
    flow.flow_matching_loss(
        v, rand(1, 3, 2, seed=1), rand(1, 3, 2, seed=2), mask=torch.tensor([[True, False, True]])
    ).backward()
    assert v.grad[0, 1].abs().sum() == 0 and v.grad[0, 0].abs().sum() > 0


def test_the_minimum_of_the_loss_is_the_conditional_mean():
    "At t = 1 the point tells nothing of x0, so the best constant is mean(noise) - mean(x0)."
    x0, noise = rand(5000, 2) + 3, rand(5000, 2, seed=1)
    best = (noise - x0).mean(0)
    base = flow.flow_matching_loss(best.expand(5000, 2), x0, noise)
    for step in ([0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]):
        assert (
            flow.flow_matching_loss((best + torch.tensor(step)).expand(5000, 2), x0, noise) > base
        )


# ---- closed forms


def test_one_gaussian_is_solved_by_hand():
    "For one blob the flow is affine: x(0) = m + s * noise / 1, reached exactly by a fine solver."
    one = GaussianMixture(torch.tensor([[1.0, -2.0]], dtype=torch.float64), [0.5])
    noise = rand(50, 2)
    exact = one.means[0] + 0.5 * noise
    torch.testing.assert_close(
        sample(one, noise, torch.linspace(1, 0, 401, dtype=torch.float64), "heun"),
        exact,
        atol=1e-4,
        rtol=0,
    )
    point = GaussianMixture(
        torch.tensor([[1.0, -2.0]], dtype=torch.float64), [1e-9]
    )  # a point: straight paths, one Euler step is exact
    torch.testing.assert_close(
        sample(point, noise, [1, 0]), point.means.expand(50, 2), atol=1e-6, rtol=0
    )


def test_velocity_score_and_continuity_agree(ring):
    x, t = rand(200, 2), torch.rand(200, generator=gen(1), dtype=torch.float64) * 0.9 + 0.05
    x.requires_grad_()
    t.requires_grad_()
    dx, dt = torch.autograd.grad(ring.log_prob(x, t).sum(), (x, t))
    v = ring.velocity(x, t)
    torch.testing.assert_close(ring.score(x, t), dx)
    torch.testing.assert_close(v, -(x + t[:, None] * dx) / (1 - t[:, None]))
    divergence = sum(
        torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)
    )
    torch.testing.assert_close(
        dt, -divergence - (v * dx).sum(1)
    )  # continuity equation, in log density


def test_velocity_is_finite_at_both_ends_and_takes_any_leading_axes(ring):
    x = rand(3, 4, 2)
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    v = ring(x, t)
    assert v.shape == x.shape and v.isfinite().all()
    for i in range(3):
        torch.testing.assert_close(v[i], ring(x[i], float(t[i])))
    torch.testing.assert_close(
        v[2], x[2] - (ring.weights @ ring.means)
    )  # t = 1: noise minus the mean of the data
    torch.testing.assert_close(v[0], -x[0])  # t = 0: mean noise is 0, x0 is known
    assert ring.reweight([0.0, 0, 1, 0, 0])(x, t).isfinite().all()


@pytest.mark.parametrize("solver", dit_solvers.SOLVERS)
def test_ideal_velocity_reproduces_the_mixture(ring, solver):
    x = sample(ring, rand(20_000, 2), torch.linspace(1, 0, 61, dtype=torch.float64), solver)
    share = ring.posterior(x).mean(0)
    assert (share - ring.weights).abs().max() < 0.012
    data, _ = ring.sample(20_000, gen(5))
    assert (x.mean(0) - data.mean(0)).abs().max() < 0.03 and (
        x.T.cov() - data.T.cov()
    ).abs().max() < 0.03


@pytest.mark.parametrize("solver,order", [("euler", 1), ("heun", 2), ("dpmpp_2m", 2)])
def test_order_of_convergence(ring, solver, order):
    levels = lambda n: torch.sin(torch.linspace(math.pi / 2, 0, n + 1, dtype=torch.float64)) ** 2
    noise = rand(100, 2)
    exact = sample(ring, noise, levels(1000), "heun")
    error = [
        (sample(ring, noise, levels(n), solver) - exact).norm(dim=1).median() for n in (48, 96, 192)
    ]
    assert (
        abs(torch.log2(error[1] / error[2]) - order) < 0.25
        and abs(torch.log2(error[0] / error[1]) - order) < 0.35
    )


@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_enlarging_the_data_is_a_shift_of_mu(ring, solver):
    "n equal pixels are the data sqrt(n) times larger; log sqrt(n) more mu gives the same samples."
    big, noise = GaussianMixture(ring.means * 4, ring.stds * 4, ring.weights), rand(50, 2)
    levels = flow.shift_sigmas(torch.linspace(1, 0, 13, dtype=torch.float64), 0.4)
    torch.testing.assert_close(
        sample(big, noise, flow.shift_sigmas(levels, math.log(4)), solver) / 4,
        sample(ring, noise, levels, solver),
    )


# ---- solvers against diffusers


def test_euler_equals_diffusers(ring):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12), mu=dit_solvers.empirical_mu(1024, 12))
    small = ring.to(torch.float32)
    x = noise = rand(64, 2).float()
    for t in theirs.timesteps:
        x = theirs.step(small(x, t / 1000), t, x).prev_sample
    torch.testing.assert_close(sample(small, noise, sigma_schedule(1024, 12)), x, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # inside diffusers
@pytest.mark.parametrize("steps", [4, 10, 25])
def test_dpmpp_2m_equals_diffusers(ring, steps):
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        solver_order=2,
        algorithm_type="dpmsolver++",
    )
    theirs.set_timesteps(steps)
    sigmas = sigma_schedule(64, steps, mu=0.5)
    theirs.sigmas, theirs.timesteps = sigmas, sigmas[:-1] * 1000
    small = ring.to(torch.float32)
    x = noise = rand(64, 2).float()
    for i, t in enumerate(theirs.timesteps):
        x = theirs.step(small(x, sigmas[i]), t, x).prev_sample
    torch.testing.assert_close(sample(small, noise, sigmas, "dpmpp_2m"), x, atol=2e-5, rtol=0)


# ---- the sampling loop


@pytest.mark.parametrize("solver,calls", [("euler", 5), ("heun", 9), ("dpmpp_2m", 5)])
def test_calls_levels_and_callback(solver, calls):
    asked, seen = [], []

    def field(x, t):
        asked.append(t)
        return torch.zeros_like(x)

    noise = rand(3, 4, 2).float()
    x = sample(field, noise, sigma_schedule(16, 5), solver, callback=lambda *a: seen.append(a))
    torch.testing.assert_close(x, noise)
    assert len(asked) == calls
    assert all(
        t.shape == (3,) and t.dtype == torch.float32 and t.min() > 0 for t in asked
    )  # never asked at t = 0
    assert [s[0] for s in seen] == [0, 1, 2, 3, 4] and [s[1] for s in seen] == sigma_schedule(
        16, 5
    )[1:].tolist()
    assert seen[-1][2] is x


@pytest.mark.parametrize("solver", dit_solvers.SOLVERS)
def test_low_precision_state_keeps_fine_levels(solver):
    asked = []

    def field(x, t):
        asked.append(t)
        return x.float()

    x = sample(field, rand(2, 3).bfloat16(), [1, 0.9985, 0.9965, 0], solver)
    assert (
        x.dtype == torch.bfloat16
        and all(t.dtype == torch.float32 for t in asked)
        and asked[-1][0] == pytest.approx(0.9965)
    )


@pytest.mark.parametrize("solver", dit_solvers.SOLVERS)
def test_gradients_flow_through_sampling(solver):
    w = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def run(w):
        ends = sample(lambda x, t: w * x, rand(4, 2), [1, 0.6, 0.3, 0.1, 0], solver)
        return ends.square().sum()

    run(w).backward()
    slope = (run(w + 1e-6) - run(w - 1e-6)) / 2e-6
    assert w.grad == pytest.approx(slope.item(), rel=1e-6)


def test_a_partial_schedule_stops_where_it_says(ring):
    noise = rand(10, 2)
    levels = torch.linspace(1, 0, 9, dtype=torch.float64)
    half = sample(ring, noise, levels[:5])
    torch.testing.assert_close(sample(ring, half, levels[4:]), sample(ring, noise, levels))


# ---- guidance


def test_guidance_keeps_norm_and_direction():
    c, u = rand(2, 7, 16), rand(2, 7, 16, seed=1)
    plain, kept = dit_solvers.guide(c, u, 5.0, rescale=False), dit_solvers.guide(c, u, 5.0)
    torch.testing.assert_close(plain, u + 5 * (c - u))
    torch.testing.assert_close(kept.norm(dim=-1), c.norm(dim=-1))
    torch.testing.assert_close(
        torch.cosine_similarity(kept, plain, dim=-1), torch.ones(2, 7, dtype=torch.float64)
    )
    assert torch.equal(dit_solvers.guide(c, None, 1), c)
    torch.testing.assert_close(
        dit_solvers.guide(c, u, 0.0),
        u * (c.norm(dim=-1, keepdim=True) / u.norm(dim=-1, keepdim=True)),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_guidance_survives_zero_tokens(dtype):
    zero = torch.zeros(1, 2, 4, dtype=dtype)
    out = dit_solvers.guide(zero, zero, 5.0)
    assert out.dtype == dtype and torch.equal(out, zero)
    assert (
        dit_solvers.guide(torch.ones_like(zero), torch.full_like(zero, 1.25), 5.0).isfinite().all()
    )  # 1.25 + 5 * (1 - 1.25) = 0 exactly


def test_guided_spares_the_second_call_outside_the_interval():
    calls = []
    cond = lambda x, t: x

    def uncond(x, t):
        calls.append(float(t[0]))
        return torch.zeros_like(x)

    field = dit_solvers.guided(cond, uncond, 3.0, rescale=False, interval=(0.2, 0.6))
    x = torch.ones(2, 3, 4)
    assert torch.equal(field(x, torch.tensor([0.9, 0.1])), x) and not calls
    out = field(x, torch.tensor([0.4, 0.9]))
    assert torch.equal(out[0], 3 * x[0]) and torch.equal(out[1], x[1]) and len(calls) == 1
    assert (
        torch.equal(dit_solvers.guided(cond, uncond, 1.0)(x, torch.tensor([0.4, 0.4])), x)
        and len(calls) == 1
    )


def test_guidance_moves_samples_away_from_the_rest(ring):
    wanted = ring.reweight([0.0, 0, 0, 1, 0])
    levels, noise = torch.linspace(1, 0, 41, dtype=torch.float64), rand(500, 2)
    far = [
        sample(dit_solvers.guided(wanted, ring, s, rescale=r), noise, levels, "heun")
        .norm(dim=1)
        .mean()
        for s, r in [(1.0, False), (5.0, False), (5.0, True)]
    ]
    assert far[1] > far[0] * 1.15 and abs(far[2] - far[0]) < 0.5 * (far[1] - far[0])


# ---- bad input names the argument

BAD = {
    "solver": lambda: sample(None, torch.zeros(1, 2), [1, 0], solver="dpmp_2m"),
    "law": lambda: flow.sample_timesteps(2, 0.0, law="logitnormal"),
    "std": lambda: flow.sample_timesteps(2, 0.0, std=0.0),
    "sigmas must fall": lambda: dit_solvers.check_sigmas([1, 0.5, 0.5, 0]),
    "sigmas must fall at": lambda: dit_solvers.check_sigmas([1, float("nan"), 0]),
    "sigmas must lie": lambda: dit_solvers.check_sigmas(torch.tensor([1000.0, 500.0, 0.0])),
    "sigmas needs": lambda: dit_solvers.check_sigmas([1.0]),
    "steps": lambda: dit_solvers.sigma_schedule(16, 0),
    "steps must": lambda: dit_solvers.sigma_schedule(16, 0, mu=0.0),
    "tokens": lambda: flow.training_mu(0),
    "tokens must": lambda: dit_solvers.empirical_mu(0, 4),
    "interval": lambda: dit_solvers.guided(None, None, 5.0, interval=(0.6, 0.2)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_setting_is_named(name):
    with pytest.raises(ConfigError, match=name) as e:
        BAD[name]()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("t", [[-0.1, 0.5], [0.5, 1.1], [0.5, float("nan")], [0.5, 999.0]])
def test_t_outside_the_range_is_named(t):
    x = torch.zeros(2, 3)
    for f in (flow.interpolate, flow.to_x0):
        with pytest.raises(DataError, match="t must lie in"):
            f(x, x, torch.tensor(t))


def test_other_bad_tensors_are_named():
    x = torch.zeros(4, 3)
    with pytest.raises(DataError, match="t holds 3 levels"):
        flow.interpolate(x, x, torch.zeros(3))
    with pytest.raises(DataError, match="t must be a tensor"):
        flow.interpolate(x, x, 0.5)
    with pytest.raises(DataError, match="velocity is"):
        flow.per_sample_loss(torch.zeros(4, 2), x, x)
    with pytest.raises(DataError, match="mask is"):
        flow.per_sample_loss(
            torch.zeros(4, 3, 2),
            torch.zeros(4, 3, 2),
            torch.zeros(4, 3, 2),
            torch.ones(4, 2).bool(),
        )
    with pytest.raises(DataError, match="means"):
        GaussianMixture(torch.zeros(3), 1.0)
    with pytest.raises(DataError, match="weights"):
        GaussianMixture(torch.zeros(3, 2), 1.0, [1.0, 1.0])
    with pytest.raises(DataError, match="weights"):
        GaussianMixture(torch.zeros(2, 2), 1.0, [1.0, -1.0])
    assert issubclass(DataError, LensError)
