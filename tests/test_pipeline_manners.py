"What users of diffusers' pipelines expect of any: folders, dtypes, devices, the hub, callbacks."

import copy
import json
import subprocess
import sys
from pathlib import Path

import accelerate
import diffusers
import huggingface_hub
import pytest
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline, FlowMatchHeunDiscreteScheduler
from safetensors.torch import load_file, save_file

import lens_ref
from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.core.files import data_path
from lens_ref.core.registration import register
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.lens.released import tiny_released
from lens_ref.pretrain import saved
from lens_ref.pretrain.offload import check_device, check_dtype
from lens_ref.pretrain.pipeline import LensPipeline
from lens_ref.text.encoders import HarmonyTokenizer, ReleasedEncoder

ASK = dict(height=32, width=48, num_inference_steps=2, output_type="pt", guidance_scale=3.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manners") / "lens-tiny"
    tiny_released(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(folder):
    return LensPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def toy():
    return LensPipeline.from_pretrained(data_path("toy"))


@pytest.fixture(params=["toy", "tiny"])
def pipe(request, toy, tiny):
    "Both layouts; parts of its own, so that a test may change them."
    base = dict(toy=toy, tiny=tiny)[request.param]
    parts = {k: copy.deepcopy(v) for k, v in base.components.items()}
    return LensPipeline(**parts, defaults=base.defaults)


def draw(pipe, prompt="a red cat", **changes):
    ask = ASK | dict(generator=torch.Generator().manual_seed(1)) | changes
    return pipe(prompt, **ask).images


def close(a, b, atol=1e-5):
    return torch.allclose(a, b, atol=atol)


# ---- saved and loaded


@pytest.mark.parametrize("how", [dict(), dict(safe_serialization=False), dict(variant="fp16")])
def test_saved_is_what_is_loaded(pipe, tmp_path, how):
    drawn = draw(pipe)
    pipe.save_pretrained(tmp_path, **how, max_shard_size="200KB")
    variant = dict(variant=how["variant"]) if "variant" in how else {}
    again = LensPipeline.from_pretrained(tmp_path, **variant)
    assert close(draw(again), drawn) and again.dtype == torch.float32
    for name in ("transformer", "vae"):
        before, after = (getattr(p, name).state_dict() for p in (pipe, again))
        assert all(torch.equal(x, after[k]) for k, x in before.items())
        ending = ".safetensors" if how.get("safe_serialization", True) else ".bin"
        files = [f.name for f in (tmp_path / name).iterdir() if "model" in f.name]
        assert all(ending in f and ("fp16" in f) == bool(variant) for f in files)
    if variant and type(pipe.vae).__name__ == "ToyVAE":
        with pytest.raises((CheckpointError, ConfigError)):
            LensPipeline.from_pretrained(tmp_path)  # there is no other


def test_a_variant_that_is_not_there_is_named(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trying to load the model files of the `variant=fp16`"):
        LensPipeline.from_pretrained(tmp_path, variant="fp16")


def test_parts_that_are_left_out_stay_so(pipe, tmp_path):
    embeds, mask = pipe.encode_prompt("a red cat")
    given = dict(prompt_embeds=embeds, prompt_embeds_mask=mask)
    drawn = draw(pipe, None, **given)
    pipe.text_encoder = pipe.tokenizer = pipe.scheduler = None
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["text_encoder"] == index["scheduler"] == [None, None]
    assert not (tmp_path / "text_encoder").exists() and not (tmp_path / "scheduler").exists()
    again = LensPipeline.from_pretrained(tmp_path)
    assert again.text_encoder is again.tokenizer is again.scheduler is None
    assert close(draw(again, None, **given), drawn)
    with pytest.raises(DataError, match="text_encoder: this pipeline has none"):
        draw(again)
    again.vae = None
    again.save_pretrained(tmp_path / "bare")
    bare = LensPipeline.from_pretrained(tmp_path / "bare")
    assert bare.vae is None and draw(bare, None, **given, output_type="latent").isfinite().all()
    with pytest.raises(DataError, match="vae: this pipeline has none"):
        draw(bare, None, **given)


def test_an_exchanged_scheduler_is_saved_and_loaded(pipe, tmp_path):
    pipe.scheduler = FlowMatchHeunDiscreteScheduler.from_config(pipe.scheduler.config, shift=5.0)
    drawn = draw(pipe)
    pipe.save_pretrained(tmp_path)
    again = LensPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is FlowMatchHeunDiscreteScheduler
    assert again.scheduler.config.shift == 5.0 and close(draw(again), drawn)
    file = tmp_path / "scheduler/scheduler_config.json"
    for text, named in (
        ('{"_class_name": "DDPMScheduler"}', "does not fit"),
        ('{"_class_name": "NoScheduler"}', "not a readable scheduler"),
        ("{", "not a readable scheduler"),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=f"scheduler_config.json: .*{named}"):
            LensPipeline.from_pretrained(tmp_path)
    given = FlowMatchHeunDiscreteScheduler(shift=2.0)
    assert LensPipeline.from_pretrained(tmp_path, scheduler=given).scheduler is given
    file.unlink()
    assert LensPipeline.from_pretrained(tmp_path).scheduler.config.use_dynamic_shifting


def test_encode_prompt_needs_no_other_part(pipe):
    words = LensPipeline(None, None, pipe.text_encoder, tokenizer=pipe.tokenizer)
    embeds, mask = words.to("cpu").encode_prompt("a red cat")
    rest = LensPipeline(pipe.transformer, pipe.vae, defaults=pipe.defaults)
    assert close(draw(rest, None, prompt_embeds=embeds, prompt_embeds_mask=mask), draw(pipe))
    with pytest.raises(DataError, match="transformer: this pipeline has none"):
        draw(words)


def test_the_order_of_diffusers_keywords(toy):
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "transformer")
    assert set(toy.components) == set(names)
    assert close(draw(LensPipeline(**{k: toy.components[k] for k in names})), draw(toy))


@pytest.mark.parametrize("name", ["toy", "toy-rl", "toy-turbo"])
def test_shipped_folders_load_as_before(name):
    pipe = LensPipeline.from_pretrained(data_path(name))
    index = json.loads((data_path(name) / "model_index.json").read_text())
    assert pipe.dtype == torch.float32 and pipe.defaults == index["defaults"]
    assert pipe.scheduler.config.use_dynamic_shifting


# ---- dtypes and devices


def dtypes(pipe):
    return {k: getattr(pipe, k).dtype for k in ("transformer", "vae", "text_encoder")}


def test_dtypes_by_name_and_by_part(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    load = lambda dtype: dtypes(LensPipeline.from_pretrained(tmp_path, torch_dtype=dtype))
    f16, bf16, f32 = torch.float16, torch.bfloat16, torch.float32
    for name in ("float16", "torch.float16", "fp16", "half", f16):
        found = load(name)
        assert found["transformer"] == found["vae"] == f16
    assert set(load("auto").values()) == set(load(None).values()) == {f32}
    assert load({"vae": "bf16", "default": f16}) == dict(
        transformer=f16, vae=bf16, text_encoder=f16
    )
    assert load({"transformer": bf16}) == dict(transformer=bf16, vae=f32, text_encoder=f32)
    for wrong, named in (
        ("flaot16", "did you mean 'float16'"),
        (torch.int8, "none that a model computes in"),
        ({"transfomer": f16}, "did you mean 'transformer'"),
        ({"vae": "int4"}, r"torch_dtype\['vae'\]"),
        (16, "none that a model computes in"),
    ):
        with pytest.raises(ConfigError, match=named):
            load(wrong)


def test_a_moved_pipeline_draws(pipe):
    for dtype in (torch.bfloat16, torch.float64, "float32"):
        assert pipe.to(dtype=dtype) is pipe and draw(pipe).isfinite().all()
    assert set(dtypes(pipe).values()) == {torch.float32}
    pipe.to("cpu", torch.bfloat16).to(torch.float32)
    assert str(pipe.device) == "cpu" and pipe.dtype == torch.float32


@pytest.mark.parametrize("device", ["meta", "mps", "cuda:7", "gpu", "", 3.5, -1, "cpu:x"])
def test_a_device_that_is_not_here_is_refused_by_name(toy, device):
    calls = (
        lambda: toy.to(device),
        lambda: LensPipeline.from_pretrained(data_path("toy"), device=device),
        lambda: LensPipeline.from_pretrained(data_path("toy"), device_map=device),
        lambda: check_device(device),
    )
    for call in calls:
        with pytest.raises(ConfigError, match="device: .*" if device != "meta" else "'meta' holds"):
            call()
    assert check_device("auto").type and check_dtype("auto") is None


def test_device_maps(pipe, tmp_path):
    drawn = draw(pipe)
    pipe.save_pretrained(tmp_path)
    for places in ("cpu", "balanced", dict(transformer="cpu")):
        mapped = LensPipeline.from_pretrained(tmp_path, device_map=places)
        assert close(draw(mapped), drawn) and mapped.hf_device_map["vae"] == "cpu"
        with pytest.raises(ValueError, match="reset_device_map"):
            mapped.to("cpu")
        mapped.reset_device_map()
        assert mapped.hf_device_map is None and mapped.to("cpu").device.type == "cpu"
    with pytest.raises(ConfigError, match="device_map: 'unet' is unknown"):
        LensPipeline.from_pretrained(tmp_path, device_map=dict(unet="cpu"))


def test_all_ways_of_offloading_draw_the_same(pipe):
    drawn, parts = draw(pipe), pipe.components

    def fresh():
        own = {k: copy.deepcopy(parts[k]) for k in ("transformer", "vae")}
        return LensPipeline(**parts | own, defaults=pipe.defaults)

    whole, blocks, leaves, layers = (fresh() for _ in range(4))
    whole.enable_model_cpu_offload(device="cpu")
    how = dict(offload_type="block_level", num_blocks_per_group=1)
    blocks.enable_group_offload(torch.device("cpu"), **how)
    leaves.enable_group_offload("cpu", offload_type="leaf_level", exclude_modules="text_encoder")
    for part in (layers.transformer, layers.vae):  # enable_sequential_cpu_offload, but to the CPU
        accelerate.cpu_offload(part, torch.device("cpu"))
    assert next(layers.transformer.parameters()).device.type == "meta"
    for offloaded in (whole, blocks, leaves, layers):
        assert close(draw(offloaded), drawn) and close(draw(offloaded), drawn)
    assert whole.offload and blocks.offload


# ---- other ways to a pipeline


def test_from_pipe_keeps_settings_dtype_and_reasoner(pipe):
    pipe.reasoner, pipe.defaults = len, pipe.defaults | dict(height=96)
    pipe.to(dtype=torch.bfloat16)
    new = LensPipeline.from_pipe(pipe)
    assert new.reasoner is len and new.defaults["height"] == 96 and new.dtype == torch.bfloat16
    assert new.transformer is pipe.transformer and new.scheduler is pipe.scheduler
    changed = AutoPipelineForText2Image.from_pipe(pipe, defaults=dict(height=64))
    assert changed.defaults["height"] == 64 and type(changed) is LensPipeline
    assert LensPipeline.from_pipe(pipe, torch_dtype="float32").dtype == torch.float32
    with pytest.raises(ConfigError, match="from_pipe: 'unet' is unknown"):
        LensPipeline.from_pipe(pipe, unet=None)


def test_diffusers_finds_the_class(pipe, tmp_path):
    drawn = draw(pipe)
    pipe.save_pretrained(tmp_path)
    for loader in (DiffusionPipeline, AutoPipelineForText2Image):
        loaded = loader.from_pretrained(tmp_path, torch_dtype="float32")
        assert type(loaded) is LensPipeline and close(draw(loaded), drawn)
        kept = loader.from_pretrained(tmp_path, text_encoder=None, device_map="cpu")
        assert kept.text_encoder is None and kept.hf_device_map
        with pytest.raises(ConfigError, match="did you mean 'text_encoder'"):
            loader.from_pretrained(tmp_path, text_encodr=None)
        with pytest.raises(ConfigError, match="`variant=fp16`"):
            LensPipeline.from_pretrained(tmp_path, variant="fp16")
    changed = DiffusionPipeline.from_pretrained(data_path("toy-turbo"))
    assert changed.defaults["num_inference_steps"] == 4


def test_a_class_of_diffusers_comes_first(tmp_path, monkeypatch):
    "A later diffusers may have a LensPipeline; and what is not Lens keeps its own error."
    (tmp_path / "model_index.json").write_text(json.dumps(dict(_class_name="LensPipeline")))

    class Theirs(DiffusionPipeline):
        def __init__(self):
            super().__init__()

    monkeypatch.setattr(diffusers, "LensPipeline", Theirs, raising=False)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is Theirs
    (tmp_path / "model_index.json").write_text(json.dumps(dict(_class_name="NoPipeline")))
    with pytest.raises(AttributeError, match="NoPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="NoPipeline"):
        AutoPipelineForText2Image.from_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError)):
        DiffusionPipeline.from_pretrained(str(tmp_path / "nowhere"))
    before = vars(DiffusionPipeline)["from_pretrained"]
    register()
    assert vars(DiffusionPipeline)["from_pretrained"] is before
    subclass = type("Mine", (DiffusionPipeline,), {})
    assert subclass.from_pretrained.__self__ is subclass


def test_importing_the_package_imports_nothing_heavy():
    heavy = "('torch', 'diffusers', 'transformers', 'numpy')"
    code = f"import sys, lens_ref; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_transformer_in_one_file(tiny, folder, tmp_path):
    file = tmp_path / "lens.safetensors"
    weights = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    save_file({f"model.diffusion_model.{k}": v for k, v in weights.items()}, file)
    (tmp_path / "config.json").write_text((folder / "transformer/config.json").read_text())
    pipe = LensPipeline.from_single_file(file, config=folder, torch_dtype=torch.float32)
    assert close(draw(pipe), draw(LensPipeline.from_pipe(tiny, defaults=pipe.defaults)))
    embeds, mask = tiny.encode_prompt("a red cat")
    alone = LensPipeline.from_single_file(file, torch_dtype="float32")
    given = dict(prompt_embeds=embeds, prompt_embeds_mask=mask, output_type="latent")
    assert alone.vae is None and draw(alone, None, **given).isfinite().all()
    with pytest.raises(CheckpointError, match="nowhere.safetensors: no such file"):
        LensPipeline.from_single_file(tmp_path / "nowhere.safetensors")


# ---- the hub


def test_what_names_a_copy_on_the_hub_goes_there(folder, monkeypatch):
    asked = {}

    def download(name, **how):
        asked.update(how, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    where = dict(revision="v2", cache_dir="/c", token="t", force_download=True)
    LensPipeline.from_pretrained(
        "owner/lens-turbo",
        **where,
        local_files_only=True,
        low_cpu_mem_usage=True,
        text_encoder=None,
    )
    assert asked.pop("allow_patterns")
    assert asked == where | dict(name="owner/lens-turbo", local_files_only=True)


@pytest.mark.parametrize("name", ["quantization_config", "custom_pipeline"])
def test_what_cannot_be_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{name}: not possible"):
        LensPipeline.from_pretrained(data_path("toy"), **{name: "x"})
    LensPipeline.from_pretrained(data_path("toy"), **{name: None}, low_cpu_mem_usage=True)


def test_a_saved_pipeline_is_pushed(toy, tmp_path, monkeypatch):
    made, sent = {}, {}

    class Repo:
        repo_id = "me/lens"

    monkeypatch.setattr(
        saved, "create_repo", lambda name, **how: made.update(how, name=name) or Repo
    )
    upload = lambda self, folder, repo_id, **how: sent.update(how, folder=folder, repo=repo_id)
    monkeypatch.setattr(LensPipeline, "_upload_folder", upload)
    hub = dict(repo_id="lens", private=True, token="t", commit_message="First")
    toy.save_pretrained(tmp_path, push_to_hub=True, **hub)
    assert made == dict(name="lens", exist_ok=True, private=True, token="t")
    assert sent["repo"] == "me/lens" and sent["commit_message"] == "First"
    assert Path(sent["folder"], "model_index.json").is_file()
    with pytest.raises(ConfigError, match="save_pretrained: 'repo' is unknown"):
        toy.save_pretrained(tmp_path, repo="x")


def test_a_model_card_is_written_and_never_over_another(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "my-lens")
    card = (tmp_path / "my-lens/README.md").read_text()
    assert (
        card.startswith("---\n") and "# my-lens" in card and "pipeline_tag: text-to-image" in card
    )
    count = f"{pipe.transformer.num_parameters() / 1e6:,.1f}M"
    assert f"| transformer | LensTransformer2DModel | {count} |" in card
    assert huggingface_hub.ModelCard(card).data.library_name == "lens_ref"
    (tmp_path / "my-lens/README.md").write_text("Mine.")
    pipe.save_pretrained(tmp_path / "my-lens")
    assert (tmp_path / "my-lens/README.md").read_text() == "Mine."


# ---- callbacks


def test_a_callback_reads_what_diffusers_shows(pipe):
    seen = []

    def watch(p, i, t, tensors):
        shown = p.guidance_scale, p.do_classifier_free_guidance, p.num_timesteps, p.interrupt
        seen.append((*shown, p.current_timestep, p.attention_kwargs, set(tensors)))

    known = LensPipeline._callback_tensor_inputs
    draw(pipe, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=known)
    first, second = seen
    assert first[:4] == (3.0, True, 2, False) and first[4] == 1000 > second[4] > 0
    assert first[5] is None and first[6] == set(known) and pipe.current_timestep is None
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    seen.clear()
    draw(pipe, guidance_scale=0.0, callback_on_step_end=watch)
    assert len(seen) == 3 == seen[0][2] and seen[0][:2] == (1.0, False)  # two evaluations a step


def test_a_callback_changes_guidance_latents_and_features(pipe):
    known = LensPipeline._callback_tensor_inputs

    def late(scale):
        def change(p, i, t, tensors):
            p._guidance_scale = scale

        return draw(pipe, callback_on_step_end=change)

    usual, one = draw(pipe), late(0.0)
    assert close(late(3.0), usual) and not close(one, usual, 1e-4) and close(late(1.0), one)
    with pytest.raises(ConfigError, match="guidance_scale: -2"):
        late(-2)

    def add(p, i, t, tensors):
        p._guidance_scale += 1.0
        return tensors

    draw(pipe, callback_on_step_end=add, callback_on_step_end_tensor_inputs=known)
    assert pipe.guidance_scale == 3.0 + pipe.num_timesteps
    other, mask = pipe.encode_prompt("two green dogs")

    def swap(p, i, t, tensors):
        return dict(prompt_embeds=other, prompt_embeds_mask=mask)

    assert not close(draw(pipe, callback_on_step_end=swap), usual, 1e-4)

    def zero(p, i, t, tensors):
        last = i == p.num_timesteps - 1
        return dict(latents=torch.zeros_like(tensors["latents"])) if last else None

    assert not draw(pipe, callback_on_step_end=zero, output_type="latent").any()


def test_a_picture_drawn_inside_a_callback_leaves_the_outer_call_alone(pipe):
    def inner(p, i, t, tensors):
        draw(p, guidance_scale=7.0, num_inference_steps=1)
        assert p.guidance_scale == 3.0 and p.num_timesteps == 2

    assert close(draw(pipe, callback_on_step_end=inner), draw(pipe))


def test_tiling_and_slicing_are_the_autoencoders(toy, tiny):
    whole = draw(tiny)
    tiny.enable_vae_tiling()
    tiny.enable_vae_slicing()
    assert tiny.vae.use_tiling and close(draw(tiny), whole)
    tiny.disable_vae_tiling()
    tiny.disable_vae_slicing()
    assert not tiny.vae.use_tiling
    with pytest.raises(ConfigError, match="vae: ToyVAE has no enable_tiling"):
        toy.enable_vae_tiling()


def test_names_of_the_package_are_found_lazily():
    assert lens_ref.LensPipeline is LensPipeline


def test_the_length_and_date_that_a_text_encoder_reads_with_are_saved(tiny, tmp_path):
    encoder = copy.deepcopy(tiny.text_encoder)
    words = HarmonyTokenizer.from_json(encoder.tokenizer.files["tokenizer.json"], "2026-01-02")
    encoder = ReleasedEncoder(encoder.model.full, words, encoder.layers, 1024)
    pipe = LensPipeline(**tiny.components | dict(text_encoder=encoder, tokenizer=words))
    pipe.save_pretrained(tmp_path)
    again = LensPipeline.from_pretrained(tmp_path)
    assert again.text_encoder.settings == dict(max_length=1024, date="2026-01-02")
    prompt = "a painting of a squirrel that eats a burger"  # longer than 512 leaves room for
    assert close(draw(again, prompt), draw(pipe, prompt))


def test_a_file_takes_the_config_of_the_folder_it_is_read_into(tiny, folder, tmp_path):
    config = dict(tiny.transformer.config) | dict(axes_dims_rope=(8, 4, 4))
    config = {k: v for k, v in config.items() if not k.startswith("_")}
    model = LensTransformer2DModel(**config)
    other = LensPipeline(**tiny.components | dict(transformer=model))
    other.save_pretrained(tmp_path / "whole")
    file = tmp_path / "a.safetensors"
    save_file({f"model.{k}": x for k, x in model.state_dict().items()}, file)
    again = LensPipeline.from_single_file(file, config=tmp_path / "whole")
    assert again.transformer.config.axes_dims_rope == (8, 4, 4)  # the shapes do not tell


def test_a_pipeline_with_adapters_is_not_saved_as_if_it_had_none(tiny, tmp_path):
    pytest.importorskip("peft")
    parts = {k: copy.deepcopy(v) for k, v in tiny.components.items()}
    pipe = LensPipeline(**parts, defaults=tiny.defaults)
    g = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 48, generator=g), torch.randn(16, 2, generator=g)
    pipe.load_lora_weights({"proj_out.lora_A.weight": down, "proj_out.lora_B.weight": up})
    drawn = draw(pipe)
    with pytest.raises(ConfigError, match="carries LoRA adapters .default_0.; save_lora_weights"):
        pipe.save_pretrained(tmp_path)
    assert not any(tmp_path.iterdir())
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path)
    assert close(draw(LensPipeline.from_pretrained(tmp_path)), drawn, 1e-4)
