"""The transformer does what diffusers asks of its own models."""

import copy
import json

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.dit.manners import SwitchedAttention, adapter_layers
from lens_ref.dit.positions import rope_table
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel

pytestmark = pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")
MODEL = LensTransformer2DModel


def sizes():
    return preset("toy", num_layers=2).to_dict()


def inputs(h=4, w=4, s=5, b=2):
    g = torch.Generator().manual_seed(0)
    return dict(
        latents=torch.randn(b, h * w, 32, generator=g),
        text=[torch.randn(b, s, 160, generator=g) for _ in range(3)],
        text_mask=torch.arange(s)[None] < torch.tensor([[s]] * (b - 1) + [[2]]),
        t=torch.rand(b, generator=g),
        grid=(h, w),
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MODEL(**sizes()).eval()


@torch.no_grad()
def run(model, **how):
    return model(**inputs(), **how, return_dict=False)[0]


def close(a, b, atol=5e-5):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# ---- answers and settings


@torch.no_grad()
def test_the_three_kinds_of_answer(model):
    plain, one, named = (
        model(**inputs()),
        *(model(**inputs(), return_dict=d) for d in (False, True)),
    )
    assert isinstance(plain, torch.Tensor) and isinstance(one, tuple) and len(one) == 1
    assert isinstance(named, Transformer2DModelOutput)
    assert torch.equal(plain, one[0]) and torch.equal(plain, named.sample)
    assert torch.equal(named["sample"], named[0]) and plain.shape == (2, 16, 32)
    assert torch.equal(plain, run(model))  # and the same again


def test_attributes(model, recwarn):
    model.dummy_attribute = 5
    model.register_to_config(test_attribute=5)
    assert model.dummy_attribute == 5 and model.save_pretrained == model.save_pretrained
    assert not recwarn
    with pytest.warns(FutureWarning):
        assert model.test_attribute == 5
    said = "'LensTransformer2DModel' object has no attribute 'does_not_exist'"
    with pytest.raises(AttributeError, match=said):
        model.does_not_exist


# ---- saving and loading


@pytest.mark.parametrize("safe", [True, False])
def test_saved_and_loaded(model, safe, tmp_path):
    model.save_pretrained(tmp_path, safe_serialization=safe)
    again = MODEL.from_pretrained(tmp_path, local_files_only=True)
    assert not again.training
    close(run(again), run(model))
    assert set(again.config) == {*model.config, "_name_or_path"} - (
        set() if "_name_or_path" in again.config else {"_name_or_path"}
    )


def test_a_variant(model, tmp_path):
    model.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(OSError, match="Error no file named diffusion_pytorch_model.bin found"):
        MODEL.from_pretrained(tmp_path)
    close(run(MODEL.from_pretrained(tmp_path, variant="fp16")), run(model))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(model, variant, tmp_path):
    size = model.get_memory_footprint() * 3 // 4 // 1024
    model.save_pretrained(tmp_path, max_shard_size=f"{size}KB", variant=variant)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert list(tmp_path.glob("*index*.json"))
    close(run(MODEL.from_pretrained(tmp_path, variant=variant)), run(model))


def test_shards_in_parallel(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path, max_shard_size="400KB")
    monkeypatch.setattr("diffusers.utils.constants.HF_ENABLE_PARALLEL_LOADING", True)
    close(run(MODEL.from_pretrained(tmp_path)), run(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes(model, dtype, tmp_path):
    model.to(dtype).save_pretrained(tmp_path)
    for how in (dict(torch_dtype=dtype), dict(dtype=dtype, low_cpu_mem_usage=False)):
        assert MODEL.from_pretrained(tmp_path, **how).dtype == dtype
    assert MODEL.from_pretrained(tmp_path, torch_dtype="auto").dtype == dtype
    name = str(dtype).removeprefix("torch.")
    assert MODEL.from_pretrained(tmp_path, torch_dtype=name).dtype == dtype
    with pytest.raises(ConfigError, match="dtype: 'int8' is unknown"):
        MODEL.from_pretrained(tmp_path, torch_dtype="int8")


def test_subfolders_device_maps_and_the_hub(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path / "transformer")
    found = MODEL.from_pretrained(tmp_path, subfolder="transformer", torch_dtype="auto")
    close(run(found), run(model))
    mapped = MODEL.from_pretrained(tmp_path / "transformer", device_map={"": "cpu"})
    close(run(mapped), run(model))
    with pytest.raises(OSError):
        MODEL.from_pretrained("nobody/nothing", local_files_only=True, revision="main")
    sent = []
    monkeypatch.setattr("diffusers.models.modeling_utils.create_repo", lambda r, **k: Repo(r))
    monkeypatch.setattr(MODEL, "_upload_folder", lambda self, folder, repo, **k: sent.append(repo))
    model.save_pretrained(tmp_path / "up", push_to_hub=True, repo_id="me/lens")
    assert sent == ["me/lens"]


class Repo:
    def __init__(self, name):
        self.repo_id = name


def test_offloaded_to_disk_by_a_device_map(model, tmp_path):
    model.save_pretrained(tmp_path)
    places = {name: "cpu" for name, _ in model.named_children()}
    places["transformer_blocks"] = "disk"
    how = dict(device_map=places, offload_folder=str(tmp_path / "off"))
    close(run(MODEL.from_pretrained(tmp_path, **how)), run(model))


# ---- training


def loss_and_gradients(model):
    model.zero_grad()
    out = model(**inputs(), return_dict=False)[0]
    loss = (out - torch.ones_like(out)).square().mean()
    loss.backward()
    return loss.detach(), {k: p.grad for k, p in model.named_parameters()}


def test_gradient_checkpointing(model):
    model.train()
    assert MODEL._supports_gradient_checkpointing and not model.is_gradient_checkpointing
    loss, gradients = loss_and_gradients(model)
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    again, others = loss_and_gradients(model)
    close(again, loss, 1e-5)
    for k, x in gradients.items():
        assert (x is None) == (others[k] is None)
        if x is not None:
            close(others[k], x)
    model.disable_gradient_checkpointing()
    assert not model.is_gradient_checkpointing


def test_gradient_checkpointing_by_a_function_of_ones_own(model):
    calls = []

    def mine(block, *args):
        calls.append(block)
        return block(*args)

    model.train().enable_gradient_checkpointing(mine)
    loss_and_gradients(model)
    assert calls == list(model.transformer_blocks)


def test_ema_is_saved_and_loaded(model, tmp_path):
    ema = EMAModel(model.parameters(), decay=0.5, model_cls=MODEL, model_config=model.config)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss_and_gradients(model)
        optimiser.step()
        ema.step(model.parameters())
    ema.save_pretrained(tmp_path)
    again = EMAModel.from_pretrained(tmp_path, MODEL)
    assert again.decay == 0.5 and again.optimization_step == 3
    for a, b in zip(again.shadow_params, ema.shadow_params):
        assert torch.equal(a, b)
    averaged = MODEL.from_pretrained(tmp_path)
    ema.copy_to(model.parameters())
    close(run(averaged), run(model))


# ---- memory


@pytest.mark.parametrize("storage", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_layerwise_casting(model, storage):
    before, size = run(model), model.get_memory_footprint()
    model.enable_layerwise_casting(storage_dtype=storage, compute_dtype=torch.float32)
    assert model.get_memory_footprint() < 0.6 * size and model.dtype == torch.float32
    kept = {p.dtype for k, p in model.named_parameters() if "norm" in k or "time_text" in k}
    assert kept == {torch.float32}
    after = run(model)
    assert 0 < (after - before).norm() < 0.2 * before.norm()


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
@pytest.mark.parametrize("disk", [False, True])
def test_group_offloading(model, kind, disk, tmp_path):
    before = run(model)
    how = dict(offload_type=kind, num_blocks_per_group=1 if kind == "block_level" else None)
    if disk:
        how["offload_to_disk_path"] = str(tmp_path)
    model.enable_group_offload(torch.device("cpu"), **how)
    close(run(model), before, 1e-5)
    assert not disk or list(tmp_path.glob("*.safetensors"))


# ---- adapters on the model itself

peft = pytest.importorskip("peft")
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]  # diffusers' own; of them this model has the last


def config(**how):
    how = dict(r=4, lora_alpha=4, target_modules=TARGETS, init_lora_weights=False) | how
    return peft.LoraConfig(**how)


@pytest.mark.parametrize(
    "how",
    [
        {},
        dict(lora_alpha=8),
        dict(use_dora=True),
        dict(lora_bias=True),
        dict(target_modules=["img_qkv", "w1", "proj_out"], rank_pattern={"w1": 2, "proj_out": 3}),
        dict(target_modules=r".*\.(txt_qkv|img_mod\.1)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Adapter 'default'", "ignore:.lora_bias=True")
def test_an_adapter_is_saved_and_loaded(model, how, tmp_path):
    plain = run(model)
    model.add_adapter(config(**how))
    adapted = run(model)
    assert (adapted - plain).abs().max() > 1e-3
    model.save_lora_adapter(tmp_path)
    settings = model.peft_config["default"].to_dict()
    model.unload_lora()
    assert not adapter_layers(model)
    close(run(model), plain)
    model.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)
    close(run(model), adapted, 1e-4)
    loaded = model.peft_config["default_0"].to_dict()
    assert {k: loaded[k] for k in ("r", "lora_alpha", "rank_pattern", "use_dora")} == {
        k: settings[k] for k in ("r", "lora_alpha", "rank_pattern", "use_dora")
    }


def test_wrong_names_and_settings_of_adapters(model, tmp_path):
    from safetensors.torch import load_file, save_file

    model.add_adapter(config())
    with pytest.raises(ValueError, match="Adapter name foo not found in the model."):
        model.save_lora_adapter(tmp_path, adapter_name="foo")
    model.save_lora_adapter(tmp_path)
    model.unload_lora()
    file = tmp_path / "pytorch_lora_weights.safetensors"
    header = dict(format="pt", lora_adapter_metadata=json.dumps(dict(r=4, foo=1)))
    save_file(load_file(file), file, header)
    with pytest.raises(TypeError, match="`LoraConfig` class could not be instantiated"):
        model.load_lora_adapter(tmp_path, prefix=None, use_safetensors=True)


def test_adapters_mixed_disabled_deleted(model):
    plain = run(model)
    for name in "ab":
        model.add_adapter(config(), adapter_name=name)
    model.set_adapters(["a", "b"], [0.5, 2.0])
    both = run(model)
    half = run(model, attention_kwargs=dict(scale=0.5))
    assert model.active_adapters() == ["a", "b"] and not torch.allclose(both, half, atol=1e-3)
    close(run(model), both)
    model.disable_lora()
    close(run(model), plain)
    model.enable_lora()
    model.fuse_lora()
    close(run(model), both, 1e-4)
    model.unfuse_lora()
    model.delete_adapters(["a", "b"])
    close(run(model), plain, 1e-4)


def test_an_adapter_is_trained(model):
    model.requires_grad_(False)
    model.add_adapter(config())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=1.0)
    model.train().enable_gradient_checkpointing()
    losses = []
    for _ in range(4):
        loss, _ = loss_and_gradients(model)
        optimiser.step()
        losses.append(loss.item())
    assert trained and losses[-1] < losses[0]


# ---- the kernel of attention


@pytest.mark.parametrize("backend", ["_native_math", "flex", "native"])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_backends_give_the_same_picture(model, backend):
    before = run(model)
    try:
        model.set_attention_backend(backend)
        chosen = run(model)
        with attention_backend(AttentionBackendName(backend)):
            model.reset_attention_backend()
            within = run(model)
    finally:
        model.reset_attention_backend()
    close(chosen, before)
    assert torch.equal(chosen, within)
    with attention_backend(AttentionBackendName.NATIVE):
        assert torch.equal(run(model), before)


def test_the_switch_reaches_the_kernel(model, monkeypatch):
    asked = []

    def kernel(q, k, v, mask, backend):
        asked.append((backend, q.shape, mask.shape))
        return torch.zeros_like(q)

    monkeypatch.setattr("lens_ref.dit.manners.dispatch_attention_fn", kernel)
    run(model)
    assert not asked
    with attention_backend(AttentionBackendName._NATIVE_MATH):
        run(model)
    (one, other) = asked  # the last block's text asks nothing
    assert one == (AttentionBackendName._NATIVE_MATH, (2, 21, 4, 32), (2, 1, 1, 21))
    assert other[1] == (2, 16, 4, 32)


def test_what_the_switch_refuses(model):
    with pytest.raises(ValueError, match="must be one of the following"):
        model.set_attention_backend("magic")
    layer = next(m for m in model.modules() if isinstance(m, SwitchedAttention))
    with pytest.raises(ConfigError, match="this attention has no processors"):
        layer.set_processor(object())
    assert copy.deepcopy(model).transformer_blocks[0].attn.processor is not layer.processor


# ---- one graph


def compiled(model, **how):
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, **how)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_and_the_same_bits(model, backend):
    wanted = run(model)
    with torch._dynamo.config.patch(error_on_recompile=True):
        one = compiled(model, backend=backend)
        assert torch.equal(run(one), wanted) and torch.equal(run(one), wanted)
    with torch.inference_mode():
        assert torch.equal(run(compiled(model, backend=backend)), wanted)


@torch.no_grad()
def test_one_graph_for_all_sizes(model):
    one = compiled(model, backend="eager", dynamic=True)
    alike = torch.fx.experimental._config.patch(use_duck_shape=False)
    with alike, torch._dynamo.config.patch(error_on_recompile=True):
        for h, w in ((4, 4), (4, 8), (6, 6), (10, 4)):
            assert torch.equal(one(**inputs(h, w)), model(**inputs(h, w)))


@torch.no_grad()
def test_one_graph_for_several_sizes_in_a_batch(model):
    given = inputs(5, 5) | dict(grid=[(5, 5), (3, 4)])
    assert torch.equal(compiled(model, backend="eager")(**given), model(**given))


def test_one_graph_with_its_way_back(model):
    loss, gradients = loss_and_gradients(model.train())
    again, others = loss_and_gradients(compiled(model, backend="aot_eager"))
    close(again, loss, 1e-6)
    close(model.img_in.weight.grad, gradients["img_in.weight"], 1e-6)


@torch.no_grad()
def test_repeated_blocks_exported_and_on_meta(model):
    wanted = run(model)
    blocks = copy.deepcopy(model)
    torch._dynamo.reset()
    blocks.compile_repeated_blocks(fullgraph=True, backend="eager")
    assert torch.equal(run(blocks), wanted)
    exported = torch.export.export(model, args=(), kwargs=inputs())
    assert torch.equal(exported.module()(**inputs()), wanted)
    with torch.device("meta"):
        empty, given = MODEL(**sizes()), inputs()
    assert empty(**given).device.type == "meta"


def test_a_table_is_made_on_the_cpu_and_errors_stay_named(model):
    rope_table.cache_clear()
    with torch.device("meta"):
        table = rope_table((4, 4), 5, (8, 12, 12), torch.device("cpu"))
    assert table.device.type == "cpu" and table.abs().allclose(torch.ones(()))
    with pytest.raises(DataError, match="latents has 16 tokens, but grid=.5, 5. needs 25"):
        model(**inputs() | dict(grid=(5, 5)))


def test_features_take_the_precision_of_the_latents(model):
    model.to(torch.bfloat16).enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
    given = inputs()
    low = {k: x.bfloat16() if k in ("latents", "t") else x for k, x in given.items()}
    with torch.no_grad():
        out = model(**low)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_the_config_is_the_same_however_it_was_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    loaded, single = MODEL.from_pretrained(tmp_path), MODEL.from_single_file(file)
    for key, value in single.config.items():
        assert key.startswith("_") or loaded.config[key] == value == model.config[key]


def test_folders_under_other_names(model, tmp_path):
    model.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = {k: x.clone() for k, x in model.state_dict().items()}
    save_file({f"module.{k}": x for k, x in state.items()}, file)
    close(run(MODEL.from_pretrained(tmp_path)), run(model))
    save_file({k: x for k, x in state.items() if k != "proj_out.bias"}, file)
    with pytest.raises(CheckpointError, match="1 tensors do not fit: proj_out.bias: missing"):
        MODEL.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; from_single_file reads it"):
        MODEL.from_pretrained(file)
