"""The transformer against the recorded values of the released code, and its input checks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.utils._python_dispatch import TorchDispatchMode

from lens_ref.core.config import ConfigError, DataError
from lens_ref.dit.flow import interpolate, per_sample_loss, sample_timesteps, training_mu
from lens_ref.dit.positions import grid_mask, rope_table
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, SwiGLU, init_weights
from lens_ref.text.gpt_oss import RMSNorm
from lens_ref.pretrain.cost import count_params
from lens_ref.pretrain.speed import compare_speed, time_parts

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=["dit_tiny", "dit_tiny_no_text_row"])
def recorded(request):
    with safe_open(GOLDEN / f"{request.param}.safetensors", "pt") as f:
        tensors = {k: f.get_tensor(k) for k in f.keys()}
        meta = {k: json.loads(v) for k, v in f.metadata().items()}
    model = LensTransformer2DModel(**meta["config"])
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if "weights." in k}
    model.load_state_dict(weights)
    return model, tensors, meta


def run(model, tensors, meta, latents):
    text = [tensors[k] for k in sorted(tensors) if k.startswith("in.text")]
    return model(latents, text, tensors.get("in.mask"), tensors["in.timestep"], tuple(meta["grid"]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_velocity_and_every_gradient_equal_the_released_code(recorded, checkpointing):
    model, tensors, meta = recorded
    if checkpointing:
        model.enable_gradient_checkpointing()
        model.train()
    x = tensors["in.latents"].clone().requires_grad_()
    v = run(model, tensors, meta, x)
    torch.testing.assert_close(v, tensors["out.velocity"], atol=1e-5, rtol=0)
    v.pow(2).mean().backward()
    torch.testing.assert_close(x.grad, tensors["out.grad_latents"], atol=1e-5, rtol=0)
    for name, p in model.named_parameters():
        want = meta["grad_norms"][name]
        assert (p.grad is None) == (want is None), name
        if want is not None:
            assert p.grad.norm().item() == pytest.approx(want, abs=1e-5), name


def test_shapes_are_the_released_ones():
    released = json.loads((GOLDEN / "released_dit_shapes.json").read_text())
    with torch.device("meta"):
        model = LensTransformer2DModel(**released["config"])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == released["state_dict"]
    assert count_params(preset("lens"))["total"] == released["parameters"] == 4_104_225_152
    assert model.num_parameters() == released["parameters"]


def test_masked_text_changes_nothing():
    torch.manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()
    text, x, t = [torch.randn(1, 9, 160) for _ in range(3)], torch.randn(1, 16, 32), torch.rand(1)
    mask = torch.arange(9)[None] < 4
    other = [torch.where(mask[..., None], a, torch.randn_like(a)) for a in text]
    a, b = (model(x, s, mask, t, (4, 4)) for s in (text, other))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        a, model(x, [s[:, :4] for s in text], mask[:, :4], t, (4, 4)), atol=1e-5, rtol=1e-5
    )


def test_saved_and_loaded_is_the_same(tmp_path):
    model = init_weights(LensTransformer2DModel(**preset("toy", num_layers=1).to_dict()))
    model.save_pretrained(tmp_path)
    again = LensTransformer2DModel.from_pretrained(tmp_path)
    for name, saved in again.state_dict().items():
        assert torch.equal(saved, model.state_dict()[name])


@pytest.mark.parametrize(
    "wrong, field",
    [
        (dict(inner_dim=100), "inner_dim"),
        (dict(axes_dims_rope=(8, 12, 11)), "axes_dims_rope"),
        (dict(in_channels=60), "in_channels"),
        (dict(num_layer=2), "num_layers"),
        (dict(selected_layer_index=()), "selected_layer_index"),
    ],
)
def test_impossible_configs_name_the_field(wrong, field):
    with pytest.raises(ConfigError, match=field):
        LensTransformer2DModel(**{**preset("toy").to_dict(), **wrong})


def test_wrong_inputs_are_named():
    model = LensTransformer2DModel(**preset("toy", num_layers=1).to_dict())
    text, t = [torch.zeros(1, 3, 160)] * 3, torch.zeros(1)
    for args, said in [
        ((torch.zeros(1, 15, 32), text, None, t, (4, 4)), "grid"),
        ((torch.zeros(1, 16, 32), text[:2], None, t, (4, 4)), "text has 2"),
        ((torch.zeros(1, 16, 32), text, None, torch.zeros(2), (4, 4)), "t has shape"),
    ]:
        with pytest.raises(DataError, match=said):
            model(*args)


def small_inputs(b=2, s=5):
    text = [torch.randn(b, s, 160) for _ in range(3)]
    mask = torch.arange(s)[None] < torch.tensor([[s]] * (b - 1) + [[0]])
    return torch.randn(b, 16, 32), text, mask, torch.rand(b), (4, 4)


def test_a_batch_without_any_text_is_finite_with_gradients():
    torch.manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict())
    latents, text, mask, t, grid = small_inputs()
    v = model(latents, text, torch.zeros_like(mask), t, grid)
    v.pow(2).mean().backward()
    assert torch.isfinite(v).all()
    for p in model.parameters():
        assert p.grad is None or torch.isfinite(p.grad).all()


def test_all_true_mask_is_no_mask():
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()
    latents, text, mask, t, grid = small_inputs()
    assert torch.equal(
        model(latents, text, torch.ones_like(mask), t, grid), model(latents, text, None, t, grid)
    )


def test_a_rope_table_made_while_sampling_serves_in_training():
    rope_table.cache_clear()
    model = LensTransformer2DModel(**preset("toy", num_layers=1).to_dict())
    inputs = small_inputs()
    with torch.inference_mode():
        model(*inputs)
    model(*inputs).sum().backward()


def test_bfloat16_and_autocast_stay_close():
    torch.manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()
    inputs = small_inputs()
    exact = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        auto = model(*inputs)
    latents, text, mask, t, grid = inputs
    half = model.to(torch.bfloat16)(latents.bfloat16(), [x.bfloat16() for x in text], mask, t, grid)
    for v in (auto, half):
        assert (v.float() - exact).norm() < 0.03 * exact.norm()


class Doubled(torch.nn.Module):
    "Stands in for what LoRA puts in the place of a linear."

    def __init__(self, base):
        super().__init__()
        self.base, self.weight = base, base.weight

    def forward(self, x):
        return 2 * self.base(x)


def operations(config):
    "Names of the operations of one pass and its way back, in order."
    rope_table.cache_clear()
    model = LensTransformer2DModel(**config.to_dict())
    text = [torch.randn(2, 5, config.enc_hidden_dim) for _ in config.selected_layer_index]
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            seen.append(str(op))
            return op(*args, **(kwargs or {}))

    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with Watch():
        v = model(torch.randn(2, 16, config.in_channels), text, mask, torch.rand(2), (4, 4))
        v.pow(2).mean().backward()
    return seen


def test_a_preset_changes_numbers_never_code_paths():
    same = dict(num_layers=2, selected_layer_index=(0, 1, 2, 3))
    toy = operations(preset("toy", **same))
    thin = dict(num_attention_heads=2, inner_dim=128)  # the released sizes, not their cost
    assert len(toy) > 100 and operations(preset("lens", **thin, **same)) == toy
    assert operations(preset("toy", num_attention_heads=3, inner_dim=96, **same)) == toy


def test_rms_norm_and_swiglu_are_their_formulas():
    norm, mlp, x = RMSNorm(12, eps=1e-3), SwiGLU(12, 31), torch.randn(2, 5, 12)
    norm.weight.data.normal_()
    root = (x.double().square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(norm(x), (x / root * norm.weight).float())
    hidden = torch.nn.functional.silu(x @ mlp.w1.weight.T) * (x @ mlp.w3.weight.T)
    torch.testing.assert_close(mlp(x), hidden @ mlp.w2.weight.T)


def test_lora_of_peft_reaches_every_linear_of_the_blocks():
    peft = pytest.importorskip("peft")
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict())
    inputs = small_inputs()
    before = model(*inputs)
    linears = r"img_qkv|txt_qkv|to_out\.0|to_add_out|w1|w2|w3|img_mod\.1|txt_mod\.1"
    targets = rf"transformer_blocks\..*\.({linears})"
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    adapted = peft.inject_adapter_in_model(config, model)
    after = adapted(*inputs)
    assert not torch.allclose(before, after)
    after.pow(2).mean().backward()
    grads = {k: p.grad for k, p in adapted.named_parameters() if "lora_" in k}
    unread = ("1.attn.to_add_out", "1.txt_mlp")  # the last block's text reaches nobody
    read = [g for k, g in grads.items() if not any(u in k for u in unread)]
    assert len(read) == 2 * (2 * 12 - 4) and all(g is not None and g.any() for g in read)


def test_adapters_are_not_bypassed():
    model = LensTransformer2DModel(**preset("toy", num_layers=1).to_dict()).eval()
    inputs = small_inputs()
    before = model(*inputs)
    model.transformer_blocks[0].img_mlp.w3 = Doubled(model.transformer_blocks[0].img_mlp.w3)
    assert not torch.allclose(before, model(*inputs))


# ---- several sizes in one batch

GRIDS = [(4, 4), (3, 6), (6, 4), (2, 5)]


@pytest.fixture
def mixed():
    "A model with every weight in play, and four samples of 24 padded tokens, one without text."
    g = torch.Generator().manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=3).to_dict())
    for p in model.parameters():
        p.data = 0.08 * torch.randn(p.shape, generator=g)
    x0, noise = (torch.randn(4, 24, 32, generator=g) for _ in range(2))
    text = [torch.randn(4, 7, 160, generator=g) for _ in range(3)]
    mask = torch.arange(7)[None] < torch.tensor([[7], [4], [0], [5]])
    t = sample_timesteps(4, torch.tensor([training_mu(h * w) for h, w in GRIDS]), g)
    return model, x0, noise, text, mask, t


def loss_and_gradient(model, x0, noise, text, mask, t, grid, i=slice(None), n=24):
    model.zero_grad()
    v = model(interpolate(x0[i, :n], noise[i, :n], t[i]), [x[i] for x in text], mask[i], t[i], grid)
    real = grid_mask(grid, n) if isinstance(grid, list) else None
    loss = per_sample_loss(v, x0[i, :n], noise[i, :n], real)
    loss.sum().backward()
    named = model.named_parameters()
    return loss.detach(), {k: p.grad.clone() for k, p in named if p.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_padded_batch_equals_its_samples_alone(mixed, checkpointing):
    model = mixed[0].train()
    if checkpointing:
        model.enable_gradient_checkpointing()
    together, gradient = loss_and_gradient(*mixed, GRIDS)
    alone = [
        loss_and_gradient(*mixed, (h, w), slice(i, i + 1), h * w) for i, (h, w) in enumerate(GRIDS)
    ]
    torch.testing.assert_close(together, torch.cat([loss for loss, _ in alone]), atol=1e-5, rtol=0)
    for k, got in gradient.items():
        torch.testing.assert_close(
            got, sum(g[k] for _, g in alone), atol=1e-6, rtol=1e-4, msg=lambda m: f"{k}: {m}"
        )
    for i, grid in enumerate(GRIDS):  # and one sample's own gradient, from within the batch
        picked = torch.zeros(4).index_fill(0, torch.tensor(i), 1)
        model.zero_grad()
        v = model(interpolate(*mixed[1:3], mixed[5]), *mixed[3:], GRIDS)
        (per_sample_loss(v, *mixed[1:3], grid_mask(GRIDS, 24)) * picked).sum().backward()
        for k, p in model.named_parameters():
            if p.grad is not None:
                torch.testing.assert_close(
                    p.grad, alone[i][1][k], atol=1e-6, rtol=1e-4, msg=lambda m: f"{grid} {k}: {m}"
                )


@pytest.mark.parametrize("rubbish", [3.0, 1e30, float("nan")])
def test_padding_reaches_nobody(mixed, rubbish):
    model, x0, noise, text, mask, t = mixed
    clean = model(x0, text, mask, t, GRIDS)
    for j, (h, w) in enumerate(GRIDS):
        x = x0.clone()
        x[j, h * w :] = rubbish
        assert torch.equal(model(x, text, mask, t, GRIDS), clean)
        assert (clean[j, h * w :] == 0).all()
    x = x0.clone().requires_grad_()
    model(x, text, mask, t, GRIDS).pow(2).sum().backward()
    assert (x.grad.norm(dim=2) > 0).equal(grid_mask(GRIDS, 24))


def test_a_sample_does_not_depend_on_its_neighbours(mixed):
    model, x0, noise, text, mask, t = mixed
    other = [torch.cat([x[:1], torch.randn_like(x[1:])]) for x in (x0, *text)]
    a, b = model(x0, text, mask, t, GRIDS), model(other[0], other[1:], mask, t, GRIDS)
    assert torch.equal(a[0], b[0]) and not torch.allclose(a[1], b[1])


def test_a_list_of_equal_sizes_is_the_single_size(mixed):
    model, x0, noise, text, mask, t = mixed
    assert torch.equal(model(x0, text, mask, t, [(4, 6)] * 4), model(x0, text, mask, t, (4, 6)))


@pytest.mark.parametrize(
    "grid, said",
    [
        ([(4, 4), (3, 6)], "2 sizes for 4 samples"),
        ([(4, 4), (3, 6), (5, 4), (2, 5)], "24 tokens, but .* needs 20"),
    ],
)
def test_wrong_lists_of_sizes_are_named(mixed, grid, said):
    model, x0, noise, text, mask, t = mixed
    with pytest.raises(DataError, match=said):
        model(x0, text, mask, t, grid)


def test_benchmarks_answer():
    sizes = dict(config=preset("toy", num_layers=2), batch=2, text_tokens=6, repeats=1)
    speed, parts = compare_speed(**sizes), time_parts(**sizes)
    assert speed["ratio"] > 0
    assert speed["qwen_image_params"] == pytest.approx(speed["ours_params"], rel=0.02)
    assert sum(v for k, v in parts.items() if k != "step") == pytest.approx(parts["step"])
