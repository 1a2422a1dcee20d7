"""Muon: momentum whose matrices are made orthogonal before each update, many of one shape at a time."""
import torch
from torch import Tensor


def orthogonal(g: Tensor, rounds: int = 5) -> Tensor:
    """Newton-Schulz: matrices [K, m, n] -> nearly orthogonal ones with the same row and column
    spaces, all K at once, in bfloat16. Coefficients: K. Jordan's quintic."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(1, 2), keepdim=True).bfloat16() + 1e-7)
    for _ in range(rounds):
        s = x @ x.mT
        x = a * x + (b * s + c * s @ s) @ x
    return (x.mT if tall else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Muon on `matrices` ([(parameter, parts)]: fused ones are `parts` stacked matrices), AdamW on
    `others`. Update of a matrix: 0.2 sqrt(longer side) times its orthogonalised Nesterov momentum,
    so that one `lr` serves both."""

    def __init__(self, matrices, others, lr=3e-3, momentum=0.95, weight_decay=0.0, betas=(0.9, 0.99), adam_lr=None, eps=1e-8):
        self.shapes = {}
        for p, parts in matrices:
            rows = p.shape[0] // parts
            self.shapes.setdefault((rows, p.shape[1]), []).append((p, parts))
        params = [p for p, _ in matrices]
        super().__init__([dict(params=params, lr=lr), dict(params=list(others), lr=adam_lr or lr)], dict(lr=lr))
        self.momentum, self.wd, self.betas, self.eps, self.n = momentum, weight_decay, betas, eps, 0

    @torch.no_grad()
    def step(self):
        lr = self.param_groups[0]["lr"]
        self.n += 1
        for (rows, cols), group in self.shapes.items():
            gs = []
            group = [(p, parts) for p, parts in group if p.grad is not None]
            if not group:
                continue
            for p, parts in group:
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.mul_(self.momentum).add_(p.grad)
                g = p.grad + self.momentum * m
                gs.append(g.view(parts, rows, cols))
            o = orthogonal(torch.cat(gs))
            at, scale = 0, 0.2 * max(rows, cols) ** 0.5
            for p, parts in group:
                if self.wd:
                    p.mul_(1 - lr * self.wd)
                p.add_(o[at : at + parts].reshape(p.shape), alpha=-lr * scale)
                at += parts
        lr, (b1, b2) = self.param_groups[1]["lr"], self.betas
        ps = [p for p in self.param_groups[1]["params"] if p.grad is not None]
        for p in ps:
            s = self.state[p]
            if "m" not in s:
                s["m"], s["v"] = torch.zeros_like(p), torch.zeros_like(p)
        g = [p.grad for p in ps]
        m, v = [self.state[p]["m"] for p in ps], [self.state[p]["v"] for p in ps]
        torch._foreach_lerp_(m, g, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, g, g, 1 - b2)
        d = torch._foreach_div(v, 1 - b2**self.n)
        torch._foreach_sqrt_(d)
        torch._foreach_add_(d, self.eps)
        torch._foreach_addcdiv_(ps, m, d, -lr / (1 - b1**self.n))


def split(model):
    "(matrices with parts, others) of a LensTransformer2DModel: modulation, input and output stay with AdamW."
    mats, others = [], []
    for name, p in model.named_parameters():
        inner = name.startswith("transformer_blocks") and p.ndim == 2 and "_mod." not in name
        if inner:
            mats.append((p, 3 if "qkv" in name else 1))
        else:
            others.append(p)
    return mats, others
