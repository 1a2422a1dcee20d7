"Muon: equal to torch's where that exists, weights taken apart, AdamW for the rest, exact resume."

import pytest
import torch

from lens_ref.core.config import ConfigError
from lens_ref.core.loop import Learner, LoopConfig, train
from lens_ref.core.muon import Muon, as_matrices, muon_optimiser, orthogonal


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stepped(make, *shapes, count=8):
    "Weights of these shapes after some steps along random gradients."
    weights = [torch.nn.Parameter(randn(*s, seed=i)) for i, s in enumerate(shapes)]
    optimiser = make(*weights)
    for step in range(count):
        for i, w in enumerate(weights):
            w.grad = randn(*w.shape, seed=100 * step + i + 7)
        optimiser.step()
    return [w.detach() for w in weights]


def close(a, b, start, within=0.02):
    "Equal but for the rounding of bfloat16, measured against how far the weight has moved."
    return (a - b).norm() <= within * (a - start).norm()


@pytest.mark.parametrize("shape", [(32, 32), (24, 72), (72, 24)])
def test_lengths_become_equal_and_directions_stay(shape):
    x = randn(3, *shape)
    x[:, :, 0] *= 20  # lopsided
    lengths = torch.linalg.svdvals(orthogonal(x).float())
    assert lengths[:, : min(shape) // 2].min() > 0.6 and lengths.max() < 1.3
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    inner = u.mT @ orthogonal(x) @ v.mT  # diagonal where directions are kept
    off = inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 0.1 and inner.diagonal(dim1=1, dim2=2)[:, 0].min() > 0.6


def test_each_matrix_of_a_batch_is_as_if_alone_and_zeros_stay_zeros():
    x = randn(4, 16, 40)
    x[1] = 0
    alone = torch.cat([orthogonal(m[None]) for m in x])
    assert torch.allclose(orthogonal(x), alone, atol=0.02) and not orthogonal(x)[1].any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has it since 2.9")
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_steps_are_those_of_torch(shape):
    kwargs = dict(lr=0.02, momentum=0.9, weight_decay=0.1)
    (ours,) = stepped(lambda w: Muon([(w, 1)], **kwargs), shape)
    adjusted = dict(adjust_lr_fn="match_rms_adamw")
    (theirs,) = stepped(lambda w: torch.optim.Muon([w], **kwargs, **adjusted), shape)
    assert close(ours, theirs, randn(*shape))


def test_the_rest_is_adamw_at_its_own_rate():
    shapes = (7,), (5, 3)
    betas = dict(betas=(0.8, 0.9), eps=1e-6)
    ours = stepped(lambda *w: Muon([], w, lr=0.01, rest=0.5, weight_decay=0.3, **betas), *shapes)
    adamw = lambda *w: torch.optim.AdamW(w, lr=0.005, weight_decay=0.0, **betas)
    for a, b in zip(ours, stepped(adamw, *shapes)):
        assert torch.allclose(a, b, atol=1e-6)


def test_fused_stacked_and_convolution_weights_are_taken_apart():
    "Each part moves as it would as a weight of its own."
    kwargs = dict(lr=0.02, weight_decay=0.1)
    for shape, parts, pieces in (
        ((3 * 16, 24), 3, lambda x: x.view(3, 16, 24)),
        ((4, 16, 24), 1, lambda x: x),
        ((16, 6, 2, 2), 1, lambda x: x.view(1, 16, 24)),
    ):
        start = pieces(randn(*shape))
        (whole,) = stepped(lambda w: Muon([(w, parts)], **kwargs), shape)
        alone = [torch.nn.Parameter(p.clone()) for p in start]
        optimiser = Muon([(p, 1) for p in alone], **kwargs)
        for step in range(8):
            for p, g in zip(alone, pieces(randn(*shape, seed=100 * step + 7))):
                p.grad = g
            optimiser.step()
        for a, b, s in zip(pieces(whole), alone, start):
            assert close(a, b.detach(), s)


def test_kernels_may_lie_with_channels_last():
    kernel = lambda x: x.contiguous(memory_format=torch.channels_last)
    plain, last = (torch.nn.Parameter(f(randn(8, 4, 3, 3))) for f in (torch.clone, kernel))
    for w in (plain, last):
        w.grad = torch.empty_like(w).copy_(randn(8, 4, 3, 3, seed=1))
        Muon([(w, 1)]).step()
    assert torch.equal(plain, last) and last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape, parts", [((8,), 1), ((9, 4), 2), ((2, 4, 4), 2), ((), 1)])
def test_what_is_no_matrix_is_refused(shape, parts):
    with pytest.raises(ConfigError, match="AdamW"):
        as_matrices(torch.zeros(shape), parts)
    with pytest.raises(ConfigError, match="AdamW"):
        Muon([(torch.nn.Parameter(torch.zeros(shape)), parts)])


class Net(torch.nn.Module):
    "Fused, stacked, shared and unused weights, and one that something else moves."

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.fused = torch.nn.Linear(8, 24)
        self.experts = torch.nn.Parameter(0.3 * torch.randn(2, 8, 8))
        self.unused = torch.nn.Linear(8, 8)
        self.moved = torch.nn.Parameter(torch.zeros(8))
        self.frozen = torch.nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, x):
        q, k, v = self.fused(x).chunk(3, -1)
        return ((q * k).tanh() + v + self.moved) @ self.experts[0] @ self.experts[1]


def rule(name, weight):
    if name == "moved":
        return None
    return 3 if name == "fused.weight" else int(weight.ndim > 1)


class Killed(Exception):
    pass


class Data:
    def __init__(self, dies_at=None):
        self.dies_at = dies_at

    def batch(self, step):
        if step == self.dies_at:
            raise Killed
        return dict(x=randn(16, 8, seed=step))


def net_step(model, batch, config, generator):
    noise = torch.randn(batch["x"].shape, generator=generator)
    return (model(batch["x"] + 0.1 * noise) - batch["x"].roll(1, 1)).square().mean(), {}


def learner(seed=0, **changes):
    config = LoopConfig(
        **dict(steps=12, lr=0.02, warmup=2, ema=0.9, checkpoint_every=3, weight_decay=0.1) | changes
    )
    model = Net(seed)
    return Learner(model, config, muon_optimiser(model, config, rule, rest=0.5))


def run(learner, data, folder=None):
    for _ in train(learner, net_step, data, folder=folder, log=lambda line: None):
        pass
    return learner


def test_a_run_learns_and_leaves_alone_what_is_not_its_own():
    done, start = run(learner(steps=60), Data()), Net()
    assert done.history[-1]["loss"] < 0.7 * done.history[0]["loss"]
    for name in ("unused.weight", "unused.bias", "moved", "frozen"):
        assert torch.equal(done.model.state_dict()[name], start.state_dict()[name]), name
    assert not torch.equal(done.model.fused.weight, start.fused.weight)


def test_a_run_killed_and_resumed_is_bit_equal(tmp_path):
    whole = run(learner(), Data())
    with pytest.raises(Killed):
        run(learner(), Data(dies_at=7), tmp_path)
    again = run(learner(seed=1), Data(), tmp_path)  # all must come from the file
    for k, v in whole.model.state_dict().items():
        assert torch.equal(v, again.model.state_dict()[k]) or k == "frozen"
    assert all(torch.equal(v, again.ema.shadow[k]) for k, v in whole.ema.shadow.items())


def test_the_schedule_sets_one_rate_and_the_rest_keeps_its_multiple():
    L = learner()
    state = L.advance(net_step, Data().batch(0))
    assert {g["lr"] for g in L.optimiser.param_groups} == {state.lr}
    assert [g.get("rest") for g in L.optimiser.param_groups] == [None, 0.5]
