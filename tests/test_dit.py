"""The transformer against the recorded values of the released code, and its input checks."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lens_ref.core.config import ConfigError, DataError
from lens_ref.dit.positions import grid_mask, rope_table
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights, preset
from lens_ref.pretrain.cost import count_params
from lens_ref.pretrain.speed import compare_speed, time_parts
from lens_ref.dit.flow import interpolate, per_sample_loss, sample_timesteps, training_mu

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=["dit_tiny", "dit_tiny_no_text_row"])
def recorded(request):
    with safe_open(GOLDEN / f"{request.param}.safetensors", "pt") as f:
        tensors, meta = (
            {k: f.get_tensor(k) for k in f.keys()},
            {k: json.loads(v) for k, v in f.metadata().items()},
        )
    model = LensTransformer2DModel(**meta["config"])
    model.load_state_dict(
        {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    )
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
    assert (
        count_params(preset("lens"))["total"]
        == model.num_parameters()
        == released["parameters"]
        == 4_104_225_152
    )


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
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values())
    )


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
    return (
        torch.randn(b, 16, 32),
        text,
        torch.arange(s)[None] < torch.tensor([[s]] * (b - 1) + [[0]]),
        torch.rand(b),
        (4, 4),
    )


def test_a_batch_without_any_text_is_finite_with_gradients():
    torch.manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict())
    latents, text, mask, t, grid = small_inputs()
    v = model(latents, text, torch.zeros_like(mask), t, grid)
    v.pow(2).mean().backward()
    assert torch.isfinite(v).all() and all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )


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
    model, inputs = (
        LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval(),
        small_inputs(),
    )
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


def test_adapters_are_not_bypassed():
    model, inputs = (
        LensTransformer2DModel(**preset("toy", num_layers=1).to_dict()).eval(),
        small_inputs(),
    )
    before = model(*inputs)
    model.transformer_blocks[0].img_mlp.w3 = Doubled(model.transformer_blocks[0].img_mlp.w3)
    assert not torch.allclose(before, model(*inputs))


# ---- several sizes in one batch

GRIDS = [(4, 4), (3, 6), (6, 4), (2, 5)]


@pytest.fixture
def mixed():
    "A model with every weight in play, and four samples padded to 24 tokens, one of them without text."
    g = torch.Generator().manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=3).to_dict())
    for p in model.parameters():
        p.data = 0.08 * torch.randn(p.shape, generator=g)
    x0, noise = (torch.randn(4, 24, 32, generator=g) for _ in range(2))
    text, mask = (
        [torch.randn(4, 7, 160, generator=g) for _ in range(3)],
        torch.arange(7)[None] < torch.tensor([[7], [4], [0], [5]]),
    )
    t = sample_timesteps(4, torch.tensor([training_mu(h * w) for h, w in GRIDS]), g)
    return model, x0, noise, text, mask, t


def loss_and_gradient(model, x0, noise, text, mask, t, grid, i=slice(None), n=24):
    model.zero_grad()
    v = model(interpolate(x0[i, :n], noise[i, :n], t[i]), [x[i] for x in text], mask[i], t[i], grid)
    loss = per_sample_loss(
        v, x0[i, :n], noise[i, :n], grid_mask(grid, n) if isinstance(grid, list) else None
    )
    loss.sum().backward()
    return loss.detach(), {
        k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None
    }


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
    assert speed["ratio"] > 0 and speed["qwen_image_params"] == pytest.approx(
        speed["ours_params"], rel=0.02
    )
    assert sum(v for k, v in parts.items() if k != "step") == pytest.approx(parts["step"])
