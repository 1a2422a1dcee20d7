"""Weights as people have them: any prefix, several parts in a file, other formats; or named."""

import json
import re
import warnings

import pytest
import torch
from safetensors.torch import save_file

from lens_ref.core.checkpoints import fill, main_dtype, open_weights, tensor_files
from lens_ref.core.config import CheckpointError, ConfigError
from lens_ref.core.layouts import find_layout, parts_of
from lens_ref.dit.checkpoints import load_transformer, transformer_config
from lens_ref.dit.presets import preset
from lens_ref.dit.sizes_told import config_of_weights
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.text.checkpoints import check_encoder
from lens_ref.vae.checkpoints import load_vae, tiny_vae

pytestmark = pytest.mark.filterwarnings("ignore:.*is a guess")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LensTransformer2DModel(**preset("toy", num_layers=2).to_dict()).eval()


@pytest.fixture(scope="module")
def state(model):
    return model.state_dict()


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(1)
    vae = tiny_vae()
    for k, x in vae.state_dict().items():
        if x.is_floating_point():
            x.normal_()
    return vae


def same(model, state):
    got = model.state_dict()
    return got.keys() == state.keys() and all(torch.equal(got[k], x) for k, x in state.items())


def load(path, **how):
    return load_transformer(path, dtype=torch.float32, **how)


def prefixed(state, prefix):
    return {prefix + k: x.clone() for k, x in state.items()}


# ---- prefixes


PREFIXES = """diffusion_model. model.diffusion_model. transformer. module. _orig_mod. model.
module._orig_mod. _orig_mod.module. _fsdp_wrapped_module. state_dict. net. a.b.c. dit.
base_model.model. pipe.transformer. denoiser_""".split()


@pytest.mark.parametrize("prefix", ["", *PREFIXES[:-1]])
def test_any_prefix(prefix, state, tmp_path):
    save_file(prefixed(state, prefix), tmp_path / "a.safetensors")
    assert same(load(tmp_path / "a.safetensors"), state)
    empty = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict())
    assert same(fill(empty, tmp_path / "a.safetensors", dtype=torch.float32), state)


@pytest.mark.parametrize("word", ["_orig_mod", "_checkpoint_wrapped_module", "module"])
def test_wrappers_around_blocks(word, state, tmp_path):
    names = {
        re.sub(r"(blocks\.\d+)", rf"\1.{word}", f"module.{k}"): x.clone() for k, x in state.items()
    }
    save_file(names, tmp_path / "a.safetensors")
    assert same(load(tmp_path / "a.safetensors"), state)


def test_a_prefix_without_its_dot_is_named(state, tmp_path):
    save_file(prefixed(state, "denoiser_"), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="none of its 66|none of its .* keys belongs"):
        load(tmp_path / "a.safetensors")


def test_half_of_the_keys_under_another_prefix_are_named(state, tmp_path):
    names = {("module." if "blocks.1" in k else "x.") + k: v.clone() for k, v in state.items()}
    save_file(names, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="tensors do not fit: .*missing") as e:
        load(tmp_path / "a.safetensors", config=preset("toy", num_layers=2))
    assert len(e.value.faults) == 2 * 26
    assert any("unexpected" in f for f in e.value.faults)


# ---- several parts in one file


def old_names(state, at=""):
    "The autoencoder as Black Forest Labs and ComfyUI write it."
    out = {}
    for k, x in state.items():
        k = k.replace("down_blocks.", "down.").replace("resnets.", "block.")
        k = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{3 - int(m[1])}", k)
        k = re.sub(r"mid_block\.block\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", k)
        k = k.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
        for new, old in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            if f".attn_1.{new}." in k:
                k = k.replace(new, old)
                x = x[:, :, None, None] if x.ndim == 2 else x
        k = k.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        k = k.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "num_batches" not in k:
            out[at + k] = x.clone()
    return out


PACKED = {
    "ComfyUI": ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.gpt_oss."),
    "ComfyUI, newer": ("model.diffusion_model.", "vae.", "text_encoders.gpt_oss.transformer."),
    "diffusers": ("transformer.", "vae.", "text_encoder."),
    "in a pipe": ("pipe.transformer.", "pipe.vae.", "pipe.text_encoder."),
    "bare transformer": ("", "vae.", "text_encoders."),
}


@pytest.mark.parametrize("layout", PACKED)
@pytest.mark.parametrize("old", [True, False])
def test_parts_are_told_apart(layout, old, state, vae, tmp_path):
    dit, ae, text = PACKED[layout]
    file = tmp_path / "all.safetensors"
    words = {f"{text}model.layers.0.norm.weight": torch.ones(3)}
    of_vae = old_names(vae.state_dict(), ae) if old else prefixed(vae.state_dict(), ae)
    save_file(prefixed(state, dit) | of_vae | words, file)
    assert same(load(file), state)
    got = load_vae(file, dtype=torch.float32).state_dict()
    assert all(torch.equal(got[k], x) for k, x in vae.state_dict().items() if "num_" not in k)
    told = parts_of(open_weights(file).shapes)
    assert told["vae"] and told["text_encoder"] == 1


@pytest.mark.parametrize("copies", [("model.", "ema."), ("model.diffusion_model.", "model_ema.")])
def test_the_average_is_taken_and_said(copies, state, tmp_path):
    raw, average = copies
    other = {k: x + 1 for k, x in state.items()}
    save_file(prefixed(other, raw) | prefixed(state, average), tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=f"more than once; taken: '{average}', not '{raw}'"):
        assert same(load(tmp_path / "a.safetensors"), state)
    assert same(load(tmp_path / "a.safetensors", prefix=raw), other)


def test_an_average_without_dots_is_left_and_said(state, tmp_path):
    flat = {f"model_ema.diffusion_model{k.replace('.', '')}": x + 1 for k, x in state.items()}
    file = tmp_path / "a.ckpt"
    torch.save(dict(state_dict=prefixed(state, "model.diffusion_model.") | flat), file)
    with pytest.warns(UserWarning, match="an average of the weights lies beside them, under names"):
        assert same(load(file), state)


def test_an_unknown_neighbour_is_named(state, tmp_path):
    save_file(state | {"img_out.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="1 of .* do not fit: img_out.weight: unexpected"):
        load(tmp_path / "a.safetensors")
    save_file(prefixed(state, "x.") | {"y.z": torch.ones(2)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="y.z: unexpected"):
        load(tmp_path / "b.safetensors")


def test_a_lora_that_was_not_merged_is_named(tmp_path):
    peft = pytest.importorskip("peft")
    model = LensTransformer2DModel(**preset("toy", num_layers=2).to_dict())
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["img_qkv"]), model)
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="a LoRA that was not merged lies among them"):
        load(tmp_path / "a.safetensors")


# ---- the autoencoder as one file


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model.", "module.", "state_dict."])
@pytest.mark.parametrize("names", ["diffusers", "old", "old, quant_conv inside"])
def test_a_vae_as_one_file(prefix, names, vae, tmp_path):
    state = (
        prefixed(vae.state_dict(), prefix)
        if names == "diffusers"
        else old_names(vae.state_dict(), prefix)
    )
    if "inside" in names:
        inside = {"quant_conv": "encoder.quant_conv", "post_quant_conv": "decoder.post_quant_conv"}
        state = {
            re.sub(r"(?<![a-z_])(post_)?quant_conv", lambda m: inside[m[0]], k): x
            for k, x in state.items()
        }
    save_file(state, tmp_path / "ae.safetensors")
    got = load_vae(tmp_path / "ae.safetensors", dtype=torch.float32)
    for k, x in vae.state_dict().items():
        assert torch.equal(got.state_dict()[k], x) or "num_batches" in k, k
    z = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(got.decode(z).sample, vae.eval().decode(z).sample)
    config = {k: v for k, v in got.config.items() if not k.startswith("_")}
    for k, v in vae.config.items():
        if k in config and k != "sample_size":
            assert config[k] == v, k


def test_the_released_sizes_of_the_vae_are_told():
    from diffusers import AutoencoderKLFlux2

    from lens_ref.vae.checkpoints import _told_sizes

    with torch.device("meta"):
        full = AutoencoderKLFlux2()
    told = _told_sizes({k: tuple(x.shape) for k, x in full.state_dict().items()}, "a")
    for k, v in told.items():
        want = full.config[k]
        assert (tuple(v) if isinstance(v, (list, tuple)) else v) == (
            tuple(want) if isinstance(want, (list, tuple)) else want
        ), k


def test_what_a_vae_lacks_or_has_too_much_is_named(vae, state, tmp_path):
    old = old_names(vae.state_dict())
    without = {k: x for k, x in old.items() if not k.startswith("bn.")}
    for tensors, said in (
        (without, "bn.running_mean: missing"),
        (old | {"encoder.down.9.extra": torch.ones(1)}, "encoder.down.9.extra: unexpected"),
        (state, "belongs to the FLUX.2 VAE"),
    ):
        save_file(tensors, tmp_path / "ae.safetensors")
        with pytest.raises(CheckpointError, match=said):
            load_vae(tmp_path / "ae.safetensors")


# ---- formats


@pytest.mark.parametrize("nest", [None, "state_dict", "model", "module", "params_ema", "net.model"])
@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.ckpt", "a.pth", "a.safetensors"])
def test_files_of_torch(nest, name, state, tmp_path):
    tree = dict(state)
    for word in reversed(nest.split(".") if nest else []):
        tree = {word: tree, "step": 7, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    torch.save(tree, tmp_path / name)  # whatever its ending
    assert same(load(tmp_path / name), state)


def test_an_old_pickle(state, tmp_path):
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert same(load(tmp_path / "a.pt"), state)


class Foreign:
    pass


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(64), "GGUF"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x93NUMPY", "NumPy"),
        (b"PK\x03\x04broken", "not a whole file of torch.save"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{}", "not a whole safetensors file"),
        (dict(step=3), "holds no tensors"),
        (dict(model={"img_in.weight": torch.ones(2)}, args=Foreign()), "Foreign.*could run"),
    ],
)
def test_what_is_no_checkpoint_is_named(content, said, tmp_path):
    file = tmp_path / "a.safetensors"
    if isinstance(content, dict):
        torch.save(content, file)
    else:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_transformer(file)
    with pytest.raises(CheckpointError, match=said):
        load_vae(file)


@pytest.mark.parametrize("shape", ["number", "one", "rows"])
def test_eight_bits_with_a_scale(shape, state, tmp_path):
    names, want = {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}, dict(state)
    for k, x in state.items():
        if x.ndim == 2:
            rows = x.abs().amax(1, keepdim=True) if shape == "rows" else x.abs().max()
            scale = rows / 448
            small = (x / scale).to(torch.float8_e4m3fn)
            want[k] = small.float() * scale
            base = f"model.diffusion_model.{k.removesuffix('.weight')}"
            names[f"{base}.weight"] = small
            names[f"{base}.scale_weight"] = scale.reshape(1) if shape == "one" else scale.clone()
            names[f"{base}.scale_input"] = torch.ones(1)
        else:
            names[f"model.diffusion_model.{k}"] = x.bfloat16()
            want[k] = x.bfloat16().float()
    save_file(names, tmp_path / "a.safetensors")
    assert same(load(tmp_path / "a.safetensors"), want)
    del names["model.diffusion_model.img_in.scale_weight"]
    save_file(names, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="img_in.weight is in 8 bits, and its scale is miss"):
        load(tmp_path / "b.safetensors")


def test_eight_bits_without_scales_and_mixed_precision(state, tmp_path):
    kinds = [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float32]
    mixed = {k: x.to(kinds[i % 4]) for i, (k, x) in enumerate(state.items())}
    save_file(mixed, tmp_path / "a.safetensors")
    got = load(tmp_path / "a.safetensors")
    assert same(got, {k: x.float() for k, x in mixed.items()})
    assert load_transformer(tmp_path / "a.safetensors").dtype == torch.bfloat16


# ---- folders


def shards(state, folder, ending=".safetensors", n=3):
    folder.mkdir(exist_ok=True)
    names = [f"diffusion_pytorch_model-{i + 1:05}-of-{n:05}{ending}" for i in range(n)]
    keys = list(state)
    for i, name in enumerate(names):
        part = {k: state[k] for k in keys[i::n]}
        (save_file if ending == ".safetensors" else torch.save)(part, folder / name)
    return names


def config_json(model, folder):
    (folder / "config.json").write_text(json.dumps(model.to_json_string() and dict(model.config)))


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_shards_without_an_index(ending, model, state, tmp_path):
    names = shards(state, tmp_path, ending)
    config_json(model, tmp_path)
    assert same(load(tmp_path), state)
    (tmp_path / names[1]).unlink()
    with pytest.raises(CheckpointError, match=f"1 of 3 shards are missing, first {names[1]}"):
        load(tmp_path)


def test_a_key_in_two_shards_is_named(state, tmp_path):
    names = shards(state, tmp_path)
    save_file({"img_in.bias": state["img_in.bias"]}, tmp_path / names[0])
    with pytest.raises(CheckpointError, match="img_in.bias is in both|missing"):
        tensor_files(tmp_path)


@pytest.mark.parametrize("how", ["variant", "variant in shards", "bin", "own name"])
def test_folders(how, model, state, tmp_path):
    model.save_pretrained(
        tmp_path,
        variant="fp16" if "variant" in how else None,
        max_shard_size="400KB" if "shards" in how else "5GB",
        safe_serialization=how != "bin",
    )
    if how == "own name":
        (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "lens.safetensors")
    files = [f.name for f in tmp_path.iterdir()]
    assert ("shards" in how) == (len(files) > 2), files
    assert same(load(tmp_path, variant="fp16" if "variant" in how else None), state)


def test_folders_that_do_not_tell(state, tmp_path):
    for name in ("a", "b"):
        save_file(state, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match="2 files of weights .a.safetensors, b.safetensors"):
        tensor_files(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="has neither diffusion_pytorch_model.safetensors"):
        tensor_files(tmp_path / "empty")
    (tmp_path / "empty/.metadata").write_bytes(b"x")
    with pytest.raises(
        CheckpointError, match="distributed checkpoint; join it with: .*dcp_to_torch"
    ):
        tensor_files(tmp_path / "empty")


# ---- sizes


def test_sizes_are_told_by_shapes(state, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with torch.device("meta"):
            full = LensTransformer2DModel(**preset("lens").to_dict())
        shapes = {f"model.{k}": tuple(x.shape) for k, x in full.state_dict().items()}
        assert config_of_weights(shapes) == preset("lens")  # nothing to guess
    file = tmp_path / "a.safetensors"
    save_file(prefixed(state, "module."), file)
    with pytest.warns(UserWarning, match=r"\(2 blocks, width 128\).*axes_dims_rope=\(8, 12, 12\)"):
        assert transformer_config(file) == preset("toy", num_layers=2)
    other = preset("toy", num_layers=2, axes_dims_rope=(4, 14, 14))
    for given in (other, other.to_dict(), dict(other.to_dict(), _class_name="Lens")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert load(file, config=given).axes_dims == (4, 14, 14)
    (tmp_path / "config.json").write_text(json.dumps(other.to_dict()))  # beside the file
    assert transformer_config(file) == other
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer/config.json").write_text(
        json.dumps(preset("toy", num_layers=2).to_dict())
    )
    assert transformer_config(file, tmp_path) == preset("toy", num_layers=2)
    with pytest.raises(CheckpointError, match="do not fit"):
        load(file, config=preset("toy", num_layers=3))


def test_from_single_file(state, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(prefixed({k: x.half() for k, x in state.items()}, "diffusion_model."), file)
    load = LensTransformer2DModel.from_single_file
    half = {k: x.half().float() for k, x in state.items()}
    assert same(load(file), half) and same(load(str(file), local_files_only=True), half)
    assert load(file, torch_dtype=torch.float16).dtype == torch.float16
    assert load(file, dtype="bfloat16").dtype == torch.bfloat16
    assert load(file, torch_dtype="auto").dtype == torch.float16
    assert same(load(prefixed(half, "x.")), half)
    model = load(file, config=preset("toy", num_layers=2).to_dict())
    assert model.config.num_layers == 2 and not model.training
    assert load(file, axes_dims_rope=(4, 14, 14)).axes_dims == (4, 14, 14)
    with pytest.raises(ConfigError, match="dtype: 'float12' is unknown"):
        load(file, torch_dtype="float12")
    with pytest.raises(CheckpointError, match="nowhere.safetensors: neither a file nor"):
        load(tmp_path / "nowhere.safetensors", local_files_only=True)


def test_layouts_of_names():
    mine = ["a.weight", "b.0.weight"]
    odd = find_layout(["x.a.weight", "x.b.0.weight", "x.c", "epoch", "optimizer.1"], mine)
    assert (
        odd.prefix == "x." and "c" in odd.names and odd.left["training"] == ["epoch", "optimizer.1"]
    )
    twice = find_layout(["module.a.weight", "a.weight", "b.0.weight"], mine)
    assert "a.weight (twice)" in twice.names


def test_a_text_encoder_in_one_file_is_refused_by_name(tmp_path):
    save_file({"model.norm.weight": torch.ones(2)}, tmp_path / "te.safetensors")
    with pytest.raises(CheckpointError, match="te.safetensors: is a single file; the text encoder"):
        check_encoder(tmp_path / "te.safetensors", (1, 3), 32)


def test_the_precision_of_files_is_read_from_their_headers(state, tmp_path):
    save_file({k: x.bfloat16() for k, x in state.items()}, tmp_path / "a.safetensors")
    torch.save({k: x.half() for k, x in state.items()}, tmp_path / "b.pt")
    assert main_dtype(tmp_path / "a.safetensors") == torch.bfloat16
    assert main_dtype(tmp_path / "b.pt") == torch.float16
