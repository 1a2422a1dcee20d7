"""The transformer against the recorded values of the released code, and its input checks."""
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lens_ref.core import ConfigError, DataError
from lens_ref.dit import LensTransformer2DModel, compare_speed, count_params, init_weights, preset, rope_table, time_parts

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(params=["dit_tiny", "dit_tiny_no_text_row"])
def recorded(request):
    with safe_open(GOLDEN / f"{request.param}.safetensors", "pt") as f:
        tensors, meta = {k: f.get_tensor(k) for k in f.keys()}, {k: json.loads(v) for k, v in f.metadata().items()}
    model = LensTransformer2DModel(**meta["config"])
    model.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    return model, tensors, meta


def run(model, tensors, meta, latents):
    text = [tensors[k] for k in sorted(tensors) if k.startswith("in.text")]
    return model(latents, text, tensors.get("in.mask"), tensors["in.timestep"], tuple(meta["grid"]))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_velocity_and_every_gradient_equal_the_released_code(recorded, checkpointing):
    model, tensors, meta = recorded
    if checkpointing: model.enable_gradient_checkpointing(); model.train()
    x = tensors["in.latents"].clone().requires_grad_()
    v = run(model, tensors, meta, x)
    torch.testing.assert_close(v, tensors["out.velocity"], atol=1e-5, rtol=0)
    v.pow(2).mean().backward()
    torch.testing.assert_close(x.grad, tensors["out.grad_latents"], atol=1e-5, rtol=0)
    for name, p in model.named_parameters():
        want = meta["grad_norms"][name]
        assert (p.grad is None) == (want is None), name
        if want is not None: assert p.grad.norm().item() == pytest.approx(want, abs=1e-5), name


def test_shapes_are_the_released_ones():
    released = json.loads((GOLDEN / "released_dit_shapes.json").read_text())
    with torch.device("meta"): model = LensTransformer2DModel(**released["config"])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == released["state_dict"]
    assert count_params(preset("lens"))["total"] == model.num_parameters() == released["parameters"] == 4_104_225_152


def test_masked_text_changes_nothing():
    torch.manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()
    text, x, t = [torch.randn(1, 9, 160) for _ in range(3)], torch.randn(1, 16, 64), torch.rand(1)
    mask = torch.arange(9)[None] < 4
    other = [torch.where(mask[..., None], a, torch.randn_like(a)) for a in text]
    a, b = (model(x, s, mask, t, (4, 4)) for s in (text, other))
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(a, model(x, [s[:, :4] for s in text], mask[:, :4], t, (4, 4)), atol=1e-5, rtol=1e-5)


def test_saved_and_loaded_is_the_same(tmp_path):
    model = init_weights(LensTransformer2DModel(**preset("toy", num_layers=1).to_dict()))
    model.save_pretrained(tmp_path)
    again = LensTransformer2DModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("wrong, field", [(dict(inner_dim=100), "inner_dim"), (dict(axes_dims_rope=(8, 12, 11)), "axes_dims_rope"), (dict(in_channels=60), "in_channels"),
                                          (dict(num_layer=2), "num_layers"), (dict(selected_layer_index=()), "selected_layer_index")])
def test_impossible_configs_name_the_field(wrong, field):
    with pytest.raises(ConfigError, match=field): LensTransformer2DModel(**{**preset("toy").to_dict(), **wrong})


def test_wrong_inputs_are_named():
    model = LensTransformer2DModel(**preset("toy", num_layers=1).to_dict())
    text, t = [torch.zeros(1, 3, 160)] * 3, torch.zeros(1)
    for args, said in [((torch.zeros(1, 15, 64), text, None, t, (4, 4)), "grid"), ((torch.zeros(1, 16, 64), text[:2], None, t, (4, 4)), "text has 2"),
                       ((torch.zeros(1, 16, 64), text, None, torch.zeros(2), (4, 4)), "t has shape")]:
        with pytest.raises(DataError, match=said): model(*args)


def small_inputs(b=2, s=5):
    text = [torch.randn(b, s, 160) for _ in range(3)]
    return torch.randn(b, 16, 64), text, torch.arange(s)[None] < torch.tensor([[s]] * (b - 1) + [[0]]), torch.rand(b), (4, 4)


def test_a_batch_without_any_text_is_finite_with_gradients():
    torch.manual_seed(0)
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict())
    latents, text, mask, t, grid = small_inputs()
    v = model(latents, text, torch.zeros_like(mask), t, grid)
    v.pow(2).mean().backward()
    assert torch.isfinite(v).all() and all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_all_true_mask_is_no_mask():
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()
    latents, text, mask, t, grid = small_inputs()
    assert torch.equal(model(latents, text, torch.ones_like(mask), t, grid), model(latents, text, None, t, grid))


def test_a_rope_table_made_while_sampling_serves_in_training():
    rope_table.cache_clear()
    model = LensTransformer2DModel(**preset("toy", num_layers=1).to_dict())
    inputs = small_inputs()
    with torch.inference_mode(): model(*inputs)
    model(*inputs).sum().backward()


def test_bfloat16_and_autocast_stay_close():
    torch.manual_seed(0)
    model, inputs = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval(), small_inputs()
    exact = model(*inputs)
    with torch.autocast("cpu", torch.bfloat16): auto = model(*inputs)
    latents, text, mask, t, grid = inputs
    half = model.to(torch.bfloat16)(latents.bfloat16(), [x.bfloat16() for x in text], mask, t, grid)
    for v in (auto, half): assert (v.float() - exact).norm() < 0.03 * exact.norm()


class Doubled(torch.nn.Module):
    "Stands in for what LoRA puts in the place of a linear."
    def __init__(self, base):
        super().__init__()
        self.base, self.weight = base, base.weight

    def forward(self, x): return 2 * self.base(x)


def test_adapters_are_not_bypassed():
    model, inputs = LensTransformer2DModel(**preset("toy", num_layers=1).to_dict()).eval(), small_inputs()
    before = model(*inputs)
    model.transformer_blocks[0].img_mlp.w3 = Doubled(model.transformer_blocks[0].img_mlp.w3)
    assert not torch.allclose(before, model(*inputs))


def test_benchmarks_answer():
    sizes = dict(config=preset("toy", num_layers=2), batch=2, text_tokens=6, repeats=1)
    speed, parts = compare_speed(**sizes), time_parts(**sizes)
    assert speed["ratio"] > 0 and speed["qwen_image_params"] == pytest.approx(speed["ours_params"], rel=0.02)
    assert sum(v for k, v in parts.items() if k != "step") == pytest.approx(parts["step"])
