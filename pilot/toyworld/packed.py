"""GPT-OSS on rows that hold several conversations, none of which sees another."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lens_ref.text.gpt_oss import GptOss, rotate, yarn_rope_table


def visible(document: Tensor, window: int | None = None) -> Tensor:
    """Who may look at whom where a row holds several documents. document long [B, L], a number for
    each -> bool [B, 1, L, L + 1] (query, key): the same document, not later, at most `window` back;
    the last key is the sink."""
    i = torch.arange(document.shape[1], device=document.device)
    back = i[:, None] - i[None, :]
    see = back >= 0
    if window is not None:
        see = see & (back < window)
    see = see & (document[:, :, None] == document[:, None, :])
    return F.pad(see, (0, 1), value=True)[:, None]


def norm(module, x: Tensor) -> Tensor:
    "`RMSNorm`, as a function of its module."
    return F.rms_norm(x, x.shape[-1:], eps=module.eps) * module.weight


def attend(module, x: Tensor, rope, see: Tensor) -> Tensor:
    """`Attention` of rows without padding, its sinks all zero: so it fits PyTorch's fused
    attention, and training leaves them there (our choice). x [B, L, D] -> [B, L, D]"""
    b, length, _ = x.shape
    w = torch.cat([module.q_proj.weight, module.k_proj.weight, module.v_proj.weight])
    bias = torch.cat([module.q_proj.bias, module.k_proj.bias, module.v_proj.bias])
    heads = F.linear(x, w, bias).view(b, length, -1, module.head_dim).transpose(1, 2)
    h, k = len(module.sinks), module.k_proj.out_features // module.head_dim
    q, key, v = heads.split([h, k, k], dim=1)
    q, key = rotate(q, *rope).to(v.dtype), rotate(key, *rope).to(v.dtype)
    nothing = v.new_zeros(b, k, 1, module.head_dim)  # a key that all see, of score 0: the sink
    key, v = torch.cat([key, nothing], dim=2), torch.cat([v, nothing], dim=2)
    key, v = (y.repeat_interleave(h // k, dim=1) for y in (key, v))
    with torch.autocast(x.device.type, enabled=False):  # on a CPU faster than in bfloat16
        q, key, v = q.float(), key.float(), v.float()
        out = F.scaled_dot_product_attention(q, key, v, attn_mask=see)
    return module.o_proj(out.transpose(1, 2).reshape(b, length, -1))


def mix(module, x: Tensor) -> tuple[Tensor, Tensor]:
    "`MoE`, and the share of the tokens that each expert got. x [B, L, D] -> ([B, L, D], [E])"
    flat = x.flatten(0, 1)
    weights, chosen = module.router(flat)
    load = torch.bincount(chosen.flatten(), minlength=module.router.out_features)
    return module.experts(flat, weights, chosen).view(x.shape), load / chosen.numel()


def states(model: GptOss, ids: Tensor, document: Tensor) -> tuple[list, Tensor]:
    """Hidden states after each layer and how many tokens each expert got.

    ids, document long [B, L] -> (list of [B, L, D], load [layers, E], fractions)"""
    c = model.config
    rope = yarn_rope_table(ids.shape[1], c.head_dim, c.rope_parameters, ids.device)
    see = {w: visible(document, w) for w in {layer.window for layer in model.model.layers}}
    x, out, loads = model.model.embed_tokens(ids), [], []
    for layer in model.model.layers:
        x = x + attend(layer.self_attn, norm(layer.input_layernorm, x), rope, see[layer.window])
        part, load = mix(layer.mlp, norm(layer.post_attention_layernorm, x))
        x = x + part
        out.append(x)
        loads.append(load)
    return out, torch.stack(loads)


def token_losses(model: GptOss, ids: Tensor, document: Tensor, chosen=None) -> tuple:
    """Cross-entropy (nats) of next tokens, and the experts' load.

    ids, document long [B, L + 1]; chosen bool [B, L]: the tokens, of ids[:, 1:], that are asked for
    -> ([number of them], [layers, E])"""
    hidden, load = states(model, ids[:, :-1], document[:, :-1])
    last, target = hidden[-1].flatten(0, 1), ids[:, 1:].flatten()
    if chosen is not None:
        last, target = last[chosen.flatten()], target[chosen.flatten()]
    logits = model.lm_head(norm(model.model.norm, last))
    return F.cross_entropy(logits.float(), target, reduction="none"), load
