"""LoRA files in every layout: they land, change the numbers as W + s B A does, or are named."""

import json
import warnings

import pytest
import torch
from safetensors.torch import save_file

from lens_ref.core.config import CheckpointError, ConfigError
from lens_ref.core.files import data_path
from lens_ref.dit.adapters import land_lora, linear_layers, read_lora
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.pretrain.lora import LoraMixin

peft = pytest.importorskip("peft")

LAYERS = ["transformer_blocks.0.attn.img_qkv", "transformer_blocks.1.attn.to_out.0", "proj_out"]
LAYERS += ["transformer_blocks.0.img_mlp.w1", "transformer_blocks.1.img_mod.1"]


class Pipe(LoraMixin):
    "What a pipeline is to LoRA: a transformer in `components`."

    hf_device_map = None

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        self.transformer = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()
        self.components = dict(transformer=self.transformer)

    def draw(self, **how):
        g = torch.Generator().manual_seed(1)
        text = [torch.randn(2, 5, 160, generator=g) for _ in range(3)]
        x, t = torch.randn(2, 16, 32, generator=g), torch.rand(2, generator=g)
        with torch.no_grad():
            return self.transformer(x, text, None, t, (4, 4), **how)


def random_lora(ranks=4, layers=LAYERS, seed=3):
    "{layer: (A, B)} with random numbers."
    g, sizes, found = torch.Generator().manual_seed(seed), linear_layers(Pipe().transformer), {}
    for i, layer in enumerate(layers):
        r = ranks[i % len(ranks)] if isinstance(ranks, list) else ranks
        out, inside = sizes[layer]
        down = torch.randn(r, inside, generator=g) / inside**0.5
        found[layer] = down, torch.randn(out, r, generator=g)
    return found


def merged(lora, scale=lambda layer, r: 1.0):
    "The picture with W + s B A written into the weights by hand."
    pipe = Pipe()
    for layer, (down, up) in lora.items():
        w = pipe.transformer.get_submodule(layer).weight
        w.data += scale(layer, down.shape[0]) * up @ down
    return pipe.draw()


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def named(lora, prefix, down, up, alpha=None, flat=False):
    out = {}
    for layer, (a, b) in lora.items():
        name = prefix + (layer.replace(".", "_") if flat else layer)
        out |= {f"{name}.{down}": a, f"{name}.{up}": b}
        if alpha is not None:
            out[f"{name}.alpha"] = torch.tensor(float(alpha))
    return out


PEFT, KOHYA = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
LAYOUTS = {
    "peft": ("base_model.model.", *PEFT),
    "peft with the adapter's name": ("base_model.model.", "lora_A.fox.weight", "lora_B.fox.weight"),
    "diffusers": ("transformer.", *PEFT),
    "old diffusers": ("transformer.", "lora.down.weight", "lora.up.weight"),
    "bare": ("", *PEFT),
    "comfy A and B": ("diffusion_model.", *PEFT),
    "comfy": ("diffusion_model.", *KOHYA),
    "a longer prefix": ("model.diffusion_model.", *PEFT),
    "of a compiled model": ("_orig_mod.", *PEFT),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_dotted_layouts(layout):
    pipe, lora = Pipe(), random_lora([2, 4, 4])
    pipe.load_lora_weights(named(lora, *LAYOUTS[layout]))
    close(pipe.draw(), merged(lora))
    assert (pipe.draw() - Pipe().draw()).abs().max() > 0.1


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_", "lora_dit_", "lycoris_"])
def test_kohya_with_alpha(prefix):
    pipe, lora = Pipe(), random_lora([2, 4, 8])
    pipe.load_lora_weights(named(lora, prefix, *KOHYA, alpha=2, flat=True))
    close(pipe.draw(), merged(lora, lambda layer, r: 2 / r))


def test_a_split_projection_is_the_sum_of_its_parts():
    pipe, width = Pipe(), 128
    g = torch.Generator().manual_seed(5)
    want, tensors = Pipe(), {}
    for name, fused, third, r in (
        ("to_q", "img_qkv", 0, 2),
        ("to_v", "img_qkv", 2, 4),
        ("add_k_proj", "txt_qkv", 1, 3),
    ):
        down, up = torch.randn(r, width, generator=g) / 9, torch.randn(width, r, generator=g)
        at = f"transformer_blocks.0.attn.{name}"
        tensors |= {f"{at}.lora_A.weight": down, f"{at}.lora_B.weight": up}
        w = want.transformer.transformer_blocks[0].attn.get_submodule(fused).weight
        w.data[third * width : (third + 1) * width] += up @ down
    pipe.load_lora_weights({f"transformer.{k}": v for k, v in tensors.items()})
    close(pipe.draw(), want.draw())
    flat = {
        "lora_unet_" + k.split(".lora")[0].replace(".", "_") + ".lora" + k.split(".lora")[1]: v
        for k, v in tensors.items()
    }
    other = Pipe()
    other.load_lora_weights(flat)
    close(other.draw(), want.draw())


@pytest.mark.parametrize("file", ["a.safetensors", "a.bin", "a.pt", "in a folder", "nested"])
def test_files_and_folders(file, tmp_path):
    lora = random_lora()
    tensors = named(lora, "diffusion_model.", *KOHYA, alpha=4)
    if file == "in a folder":
        save_file(tensors, tmp_path / "my_style.safetensors")
        source = tmp_path
    elif file == "a.safetensors":
        save_file(tensors, tmp_path / file)
        source = tmp_path / file
    else:
        source = tmp_path / ("a.ckpt" if file == "nested" else file)
        torch.save(dict(state_dict=tensors, step=3) if file == "nested" else tensors, source)
    pipe = Pipe()
    pipe.load_lora_weights(str(source))
    close(pipe.draw(), merged(lora))


@pytest.mark.parametrize("rslora", [False, True])
def test_the_scale_that_peft_keeps_beside_the_file(rslora, tmp_path):
    model = Pipe().transformer
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["img_qkv", "w1"],
        rank_pattern={"w1": 2},
        alpha_pattern={"w1": 6},
        use_rslora=rslora,
        init_lora_weights=False,
    )
    wrapped = peft.get_peft_model(model, config)
    pipe = Pipe()
    pipe.transformer = wrapped.base_model.model
    want = pipe.draw()
    wrapped.save_pretrained(tmp_path)
    fresh = Pipe()
    fresh.load_lora_weights(tmp_path)
    close(fresh.draw(), want)


def adapted(**how):
    torch.manual_seed(7)
    pipe = Pipe()
    how = dict(r=4, lora_alpha=8, target_modules=["img_qkv", "to_out.0"]) | how
    torch.manual_seed(7)
    pipe.transformer.add_adapter(peft.LoraConfig(init_lora_weights=False, **how))
    return pipe


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_saved_and_loaded(dora, bias, tmp_path):
    if dora and bias:
        pytest.skip("peft's DoRA takes no bias")
    pipe = adapted(use_dora=dora, lora_bias=bias, rank_pattern={"to_out.0": 2})
    for name, p in pipe.transformer.named_parameters():
        if "magnitude" in name:
            p.data *= 1.3
        if "lora_B" in name and name.endswith("bias"):
            p.data.normal_()
    want = pipe.draw()
    pipe.save_lora_weights(tmp_path)
    fresh = Pipe()
    fresh.load_lora_weights(tmp_path)
    close(fresh.draw(), want)
    state = peft.get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(tmp_path / "layers", transformer_lora_layers=state)
    again = Pipe()
    again.load_lora_weights(tmp_path / "layers")
    close(again.draw(), want)  # its alpha is not its rank
    by_class = tmp_path / "class"
    settings = pipe.transformer.peft_config["default"].to_dict()
    Pipe.save_lora_weights(by_class, state, transformer_lora_adapter_metadata=settings)
    last = Pipe()
    last.load_lora_weights(by_class)
    close(last.draw(), want)


def test_dora_of_kohya_scales_rows():
    layer, pipe, want = "transformer_blocks.0.img_mlp.w1", Pipe(), Pipe()
    lora = random_lora(layers=[layer])
    tensors = named(lora, "lora_unet_", *KOHYA, alpha=2, flat=True)
    w = want.transformer.get_submodule(layer).weight
    magnitude = torch.rand(w.shape[0], 1) + 0.5
    tensors["lora_unet_transformer_blocks_0_img_mlp_w1.dora_scale"] = magnitude
    pipe.load_lora_weights(tensors)
    down, up = lora[layer]
    changed = w.data + 0.5 * up @ down
    w.data = magnitude * changed / changed.norm(dim=1, keepdim=True)
    close(pipe.draw(), want.draw())


def test_dora_on_some_layers_leaves_the_others_plain():
    one, other = LAYERS[0], "proj_out"
    pipe, lora = Pipe(), random_lora(layers=[one, other])
    tensors = named(lora, "transformer.", *PEFT)
    w = Pipe().transformer.get_submodule(one).weight + lora[one][1] @ lora[one][0]
    tensors[f"transformer.{one}.lora_magnitude_vector"] = w.detach().norm(dim=1)
    pipe.load_lora_weights(tensors)
    close(pipe.draw(), merged(lora))


# ---- several, weighted, merged, taken off


def test_adapters_with_weights():
    a, b, plain = random_lora(seed=1), random_lora(seed=2), Pipe().draw()
    pipe = Pipe()
    pipe.load_lora_weights(named(a, "transformer.", *PEFT), adapter_name="a")
    pipe.load_lora_weights(
        named(b, "lora_unet_", *KOHYA, alpha=2, flat=True), adapter_name="b", low_cpu_mem_usage=True
    )
    pipe.set_adapters(["a", "b"], [0.5, 2.0])
    want = Pipe()
    for layer in LAYERS:
        w = want.transformer.get_submodule(layer).weight
        w.data += 0.5 * a[layer][1] @ a[layer][0] + 2.0 * 0.5 * b[layer][1] @ b[layer][0]
    close(pipe.draw(), want.draw())
    assert pipe.get_active_adapters() == ["a", "b"]
    assert pipe.get_list_adapters() == dict(transformer=["a", "b"])
    pipe.disable_lora()
    close(pipe.draw(), plain)
    pipe.enable_lora()
    close(pipe.draw(), want.draw())
    pipe.delete_adapters("b")
    pipe.set_adapters("a")
    close(pipe.draw(), merged(a))
    close(pipe.draw(attention_kwargs=dict(scale=0.5)), merged(a, lambda *_: 0.5))
    close(pipe.draw(), merged(a))
    with pipe.scaled_adapters(dict(scale=0.0)):
        close(pipe.draw(), plain)
    pipe.unload_lora_weights()
    close(pipe.draw(), plain)
    pipe.load_lora_weights(named(b, "transformer.", *PEFT), adapter_name="a")
    close(pipe.draw(), merged(b))


def test_merged_and_taken_out_again():
    lora, pipe, plain = random_lora(), Pipe(), Pipe().draw()
    with pytest.raises(ConfigError, match="fuse_lora: no LoRA is loaded"):
        pipe.fuse_lora()
    pipe.load_lora_weights(named(lora, "transformer.", *PEFT))
    pipe.fuse_lora(lora_scale=0.5)
    assert pipe.num_fused_loras == 1
    close(pipe.draw(), merged(lora, lambda *_: 0.5))
    pipe.unfuse_lora()
    close(pipe.draw(), merged(lora))
    pipe.unload_lora_weights()
    close(pipe.draw(), plain)
    pipe.load_lora_weights(named(lora, "transformer.", *PEFT))
    pipe.fuse_lora()
    pipe.unload_lora_weights()  # merged for good
    close(pipe.draw(), merged(lora))


# ---- what does not fit


def unchanged(pipe):
    close(pipe.draw(), Pipe().draw())
    assert not getattr(pipe.transformer, "peft_config", {})


@pytest.mark.parametrize(
    "tensors, said",
    [
        ({"lora_foo": torch.ones(1)}, "none of its 1 tensors lands .*lora_foo"),
        ({}, "none of its 0 tensors"),
        (
            {"lora_te1_text_model_proj_out.lora_up.weight": torch.ones(2, 2)},
            "text encoder, which takes none",
        ),
        ({"text_encoder.proj_out.lora_A.weight": torch.ones(2, 2)}, "text encoder"),
        ({"lora_unet_proj_out.hada_w1_a": torch.ones(2, 2)}, "LoHa is not supported"),
        ({"transformer.proj_out.lokr_w1": torch.ones(2, 2)}, "LoKr is not supported"),
        ({"diffusion_model.proj_out.diff": torch.ones(2, 2)}, "whole differences"),
        ({"transformer.proj_out.lora_A.weight": torch.ones(2, 128)}, "A or B is missing"),
        (named(random_lora(), "other.", "x", "y"), "none of its 10 tensors"),
    ],
)
def test_what_lands_nowhere_is_an_error(tensors, said):
    pipe = Pipe()
    with pytest.raises(CheckpointError, match=said):
        pipe.load_lora_weights(tensors)
    unchanged(pipe)


def test_other_shapes_are_an_error_before_anything_is_changed():
    pipe, lora = Pipe(), random_lora()
    lora[LAYERS[1]] = torch.ones(4, 64), torch.ones(128, 4)
    lora["proj_out"] = lora["proj_out"][0], torch.ones(33, 4)
    with pytest.raises(CheckpointError, match="another model: .*to_out.0: A is") as e:
        pipe.load_lora_weights(named(lora, "transformer.", *PEFT))
    assert len(e.value.faults) == 2
    unchanged(pipe)
    lora = random_lora()
    lora[LAYERS[0]][1][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        pipe.load_lora_weights(named(lora, "transformer.", *PEFT))
    unchanged(pipe)


def test_keys_that_do_not_land_are_named():
    lora, pipe = random_lora(), Pipe()
    tensors = named(lora, "lora_unet_", *KOHYA, alpha=4, flat=True)
    tensors |= {
        f"lora_unet_transformer_blocks_{i}_attn_img_qkv.alpha": torch.ones(()) for i in (8, 9)
    }
    tensors["lora_te_encoder_proj_out.lora_down.weight"] = torch.ones(4, 128)
    with pytest.warns(UserWarning, match="3 of 18 tensors do not land: .*_8_.*text encoder"):
        pipe.load_lora_weights(tensors)
    close(pipe.draw(), merged(lora))
    assert len(land_lora(Pipe().transformer, tensors).unused) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Pipe().load_lora_weights(named(lora, "transformer.", *PEFT))


def test_names_files_and_adapters_are_checked(tmp_path):
    pipe, lora = Pipe(), named(random_lora(), "transformer.", *PEFT)
    pipe.load_lora_weights(lora, adapter_name="a")
    with pytest.raises(ConfigError, match="'a' is loaded already"):
        pipe.load_lora_weights(lora, adapter_name="a")
    with pytest.raises(ConfigError, match="'b' is not loaded"):
        pipe.load_lora_weights(lora, adapter_name="b", hotswap=True)
    with pytest.raises(ConfigError, match="adapter_name: 'c' is not loaded .loaded: a"):
        pipe.save_lora_weights(tmp_path, adapter_name="c")
    with pytest.raises(ConfigError, match="'sale' is unknown"):
        pipe.draw(attention_kwargs=dict(sale=2))
    for name in ("a", "b"):
        save_file(lora, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="2 files of weights .a.safetensors, b.safetensors"):
        pipe.load_lora_weights(tmp_path)
    with pytest.raises(CheckpointError, match="c.safetensors: no such file"):
        pipe.load_lora_weights(tmp_path, weight_name="c.safetensors")
    with pytest.raises(CheckpointError, match="neither a folder nor a model"):
        pipe.load_lora_weights(tmp_path / "nowhere")
    assert read_lora(tmp_path, weight_name="a.safetensors")[0].keys() == lora.keys()
    (tmp_path / "d.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match="pointer of Git LFS"):
        pipe.load_lora_weights(tmp_path / "d.safetensors")


def test_without_peft_it_is_named(monkeypatch):
    monkeypatch.setattr("lens_ref.pretrain.lora.is_peft_available", lambda: False)
    with pytest.raises(ConfigError, match="needs the package peft; pip install peft"):
        Pipe().load_lora_weights(named(random_lora(), "transformer.", *PEFT))


def test_hotswap_exchanges_the_numbers():
    a, b, pipe = random_lora(seed=1), random_lora(seed=2), Pipe()
    pipe.load_lora_weights(named(a, "transformer.", *PEFT), adapter_name="x")
    pipe.load_lora_weights(named(b, "transformer.", *PEFT), adapter_name="x", hotswap=True)
    close(pipe.draw(), merged(b))


def test_the_header_of_diffusers_tells_the_scale(tmp_path):
    lora = random_lora()
    settings = {"transformer.r": 4, "transformer.lora_alpha": 12}
    header = dict(format="pt", lora_adapter_metadata=json.dumps(settings))
    save_file(named(lora, "transformer.", *PEFT), tmp_path / "a.safetensors", header)
    pipe = Pipe()
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    close(pipe.draw(), merged(lora, lambda *_: 3.0))


def test_a_model_in_bfloat16_stays_so():
    pipe = Pipe()
    pipe.transformer.bfloat16()
    pipe.load_lora_weights(named(random_lora(), "transformer.", *PEFT))
    assert {p.dtype for p in pipe.transformer.parameters()} == {torch.bfloat16}


def test_the_toy_takes_one():
    toy = LensTransformer2DModel.from_pretrained(data_path("toy", "transformer"))
    at = "lora_unet_transformer_blocks_4_attn_txt_qkv"
    tensors = {
        f"{at}.lora_down.weight": torch.ones(1, 128),
        f"{at}.lora_up.weight": torch.ones(384, 1),
    }
    assert list(land_lora(toy, tensors).layers) == ["transformer_blocks.4.attn.txt_qkv"]


@pytest.mark.parametrize(
    "prefix",
    ["lora_unet_transformer_", "lora_unet__", "lora_model_diffusion_model_", "lycoris_unet_"],
)
def test_kohya_with_several_words(prefix):
    pipe, lora = Pipe(), random_lora([2, 4, 8])
    pipe.load_lora_weights(named(lora, prefix, *KOHYA, alpha=2, flat=True))
    close(pipe.draw(), merged(lora, lambda layer, r: 2 / r))


def test_names_of_adapters_may_hold_other_signs():
    pipe, lora = Pipe(), random_lora()
    ends = "lora_A.my-style v1.weight", "lora_B.my-style v1.weight"
    pipe.load_lora_weights(named(lora, "", *ends))
    close(pipe.draw(), merged(lora))


@pytest.mark.parametrize("key", ["ss_network_alpha", "lora_alpha"])
def test_a_header_tells_alpha_where_no_tensor_does(key, tmp_path):
    pipe, lora = Pipe(), random_lora()
    save_file(named(lora, "", *KOHYA), tmp_path / "a.safetensors", metadata={key: "2.0"})
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    close(pipe.draw(), merged(lora, lambda layer, r: 2 / r))


def test_what_changes_nothing_is_said_and_no_number_is_refused():
    lora = random_lora()
    still = {k: (a, 0 * b) for k, (a, b) in lora.items()}
    with pytest.warns(UserWarning, match="changes nothing, since B or alpha is 0"):
        Pipe().load_lora_weights(named(still, "", *PEFT))
    with pytest.raises(CheckpointError, match="not finite"):
        Pipe().load_lora_weights(named(lora, "", *KOHYA, alpha=float("nan")))
