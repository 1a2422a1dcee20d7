"""The transformer against the recorded values of the released code, and its input checks."""
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from lens_ref.core import ConfigError, DataError
from lens_ref.dit import LensTransformer2DModel, init_weights, preset

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
    norms = {k: None if p.grad is None else p.grad.norm().item() for k, p in model.named_parameters()}
    assert norms == pytest.approx(meta["grad_norms"], abs=1e-5) if None not in norms.values() else {k for k, n in norms.items() if n is None} == {k for k, n in meta["grad_norms"].items() if n is None}


def test_shapes_are_the_released_ones():
    released = json.loads((GOLDEN / "released_dit_shapes.json").read_text())
    with torch.device("meta"): model = LensTransformer2DModel(**released["config"])
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == released["state_dict"]


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
