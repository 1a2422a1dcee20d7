"""Muon for all matrices of one shape at once, and AdamW for the rest."""

import torch
from torch import Tensor

NS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration (Muon, Jordan et al. 2024)


def orthogonalised(g: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrices with singular values near one, by Newton-Schulz in bfloat16.

    g [N, R, C], R at most C, or the transpose is worked on."""
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).bfloat16()
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = NS
    for _ in range(steps):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (arXiv 2502.16982: scaled to the size of AdamW's).

    Stacked matrices, such as those of experts, are taken apart. Matrices of one shape are worked
    on together, which is what makes it cheap for a small network."""

    def __init__(self, params, lr=2e-3, momentum=0.95, weight_decay=0.1):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape[-2:], []).append(p)
            for params in by_shape.values():
                self._update(params, group)

    def _update(self, params, group):
        looks = []
        for p in params:
            m = self.state[p].setdefault("momentum", torch.zeros_like(p))
            m.lerp_(p.grad, 1 - group["momentum"])
            look = p.grad.lerp(m, group["momentum"])
            looks.append(look.reshape(-1, *p.shape[-2:]))
        updates = orthogonalised(torch.cat(looks)).float().split([len(x) for x in looks])
        for p, u in zip(params, updates):
            scale = 0.2 * max(p.shape[-2:]) ** 0.5
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(u.reshape(p.shape), alpha=-group["lr"] * scale)
