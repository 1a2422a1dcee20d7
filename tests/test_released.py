"""The released Lens: everything it computes, from the project's copy of the golden values."""

import copy
import base64
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import bpe_openai
import accelerate
import pytest
import torch
from diffusers import AutoencoderKLFlux2, DiffusionPipeline
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch._dynamo.testing import CompileCounter
from transformers import GptOssConfig, GptOssForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from lens_ref.cli.main import main
from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.core.files import load_tensors, save_tensors
from lens_ref.pretrain.cost import (
    attention_backend,
    live_bytes,
    memory_table,
    step_memory,
    to_float8,
)
from lens_ref.pretrain.speed import time_generation
from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel
from lens_ref.pretrain.pipeline import LensPipeline
from lens_ref.pretrain.sizes import check_size, size_for
from lens_ref.pretrain.caches import weights_fingerprint
from lens_ref.core.checkpoints import fill
from lens_ref.dit.checkpoints import load_transformer
from lens_ref.lens.released import tiny_released
from lens_ref.lens.released import load_released
from lens_ref.pretrain.saved import defaults_of
from lens_ref.text.checkpoints import read_gpt_oss
from lens_ref.text.encoders import HarmonyTokenizer, HFGptOss, ReleasedEncoder
from lens_ref.vae.checkpoints import tiny_vae

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    "Pipeline, inputs and outputs of the recorded run."
    tensors, meta = load_tensors(GOLDEN / "pipeline_tiny.safetensors")
    part = lambda start: {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
    dit, vae = (
        LensTransformer2DModel(**meta["dit_config"]),
        AutoencoderKLFlux2(**meta["vae_config"]),
    )
    dit.load_state_dict(part("dit."))
    vae.load_state_dict(part("vae."))
    pipe = LensPipeline(
        dit,
        vae,
        None,
        {k: int(meta[k]) for k in ("height", "width")}
        | dict(
            num_inference_steps=int(meta["steps"]), guidance_scale=float(meta["guidance_scale"])
        ),
    )
    inputs = dict(
        prompt_embeds=[tensors["in.text.0"], tensors["in.text.1"]],
        prompt_embeds_mask=tensors["in.mask"].bool(),
        latents=tensors["in.noise"],
    )
    out = part("out.")
    assert (
        out["image"].abs().max() > 1
    )  # recorded before the clamp to [-1, 1], which is part of our `decode`
    return pipe, inputs, out | dict(image=out["image"].clamp(-1, 1))


def test_noise_to_image_equals_the_released_code(golden):
    pipe, inputs, out = golden
    assert torch.allclose(pipe(**inputs, output_type="latent").images, out["latents"], atol=1e-5)
    assert torch.allclose(pipe(**inputs, output_type="signed").images, out["image"], atol=1e-4)


def test_an_image_does_not_depend_on_its_neighbours(golden):
    "The short prompt alone, without its padding, gives what it gave beside the long one."
    pipe, inputs, out = golden
    for i in range(2):
        n = int(inputs["prompt_embeds_mask"][i].sum())
        alone = pipe(
            prompt_embeds=[x[i : i + 1, :n] for x in inputs["prompt_embeds"]],
            prompt_embeds_mask=inputs["prompt_embeds_mask"][i : i + 1, :n],
            latents=inputs["latents"][i : i + 1],
            output_type="signed",
        ).images
        assert torch.allclose(alone, out["image"][i : i + 1], atol=1e-4)


def test_signature_in_diffusers_terms(golden):
    pipe, inputs, out = golden
    seen = []

    def watch(p, step, t, kw):
        seen.append((step, t, kw["latents"].shape))
        return {}

    two = pipe(
        **inputs | dict(latents=inputs["latents"].repeat_interleave(2, 0)),
        num_images_per_prompt=2,
        callback_on_step_end=watch,
        output_type="np",
    ).images
    assert two.shape == (4, 48, 80, 3) and abs(two[0] - two[1]).max() < 1e-5
    assert abs(two[::2] - (out["image"] / 2 + 0.5).permute(0, 2, 3, 1).numpy()).max() < 1e-4
    assert [s[0] for s in seen] == list(range(5)) and seen[-1][1] == 0
    stop = pipe(
        **inputs,
        callback_on_step_end=lambda p, i, t, kw: (
            dict(latents=torch.zeros_like(kw["latents"])) if i == 4 else None
        ),
        output_type="latent",
    ).images
    assert (stop == 0).all()
    none = (
        [torch.zeros_like(x) for x in inputs["prompt_embeds"]],
        torch.zeros_like(inputs["prompt_embeds_mask"]),
    )
    same = pipe(
        **inputs,
        negative_prompt_embeds=none[0],
        negative_prompt_embeds_mask=none[1],
        output_type="signed",
    ).images
    assert torch.allclose(same, out["image"], atol=1e-4)
    other = pipe(
        **inputs,
        negative_prompt_embeds=[x.flip(0)[:, :4] for x in inputs["prompt_embeds"]],
        output_type="signed",
    ).images
    assert (other - same).abs().max() > 1e-3
    seeds = lambda: [torch.Generator().manual_seed(i) for i in (3, 4)]
    inputs = {k: v for k, v in inputs.items() if k != "latents"}
    a = pipe(**inputs, generator=seeds(), output_type="signed").images
    b = pipe(
        prompt_embeds=[x[1:] for x in inputs["prompt_embeds"]],
        prompt_embeds_mask=inputs["prompt_embeds_mask"][1:],
        generator=seeds()[1],
        output_type="signed",
    ).images
    assert torch.allclose(a[1:], b, atol=1e-4)


def test_a_callback_sees_changes_and_stops(golden):
    pipe, inputs, out = golden
    seen = []

    def watch(p, i, t, tensors):
        seen.append(tensors)
        if i == 1:
            p._interrupt = True

    early = pipe(
        **inputs,
        callback_on_step_end=watch,
        callback_on_step_end_tensor_inputs=["latents", "denoised"],
        output_type="latent",
    ).images
    assert (
        len(seen) == 2
        and torch.equal(early, seen[-1]["latents"])
        and (seen[1]["denoised"] - early).abs().max() > 1e-2
    )
    whole = pipe(**inputs, output_type="latent", return_dict=False)
    assert isinstance(whole, tuple) and torch.allclose(
        whole[0], out["latents"], atol=1e-5
    )  # the interruption does not stay


def test_it_is_a_diffusers_pipeline(golden, tmp_path):
    pipe, inputs, out = golden
    assert isinstance(pipe, DiffusionPipeline) and set(pipe.components) == {
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
    }
    image = lambda p: p(
        **inputs,
        height=48,
        width=80,
        num_inference_steps=5,
        guidance_scale=5.0,
        output_type="signed",
    )
    for other in (LensPipeline(**pipe.components), LensPipeline.from_pipe(pipe)):
        assert torch.allclose(image(other)["images"], out["image"], atol=1e-4)
    assert LensPipeline.from_pipe(pipe).defaults == pipe.defaults
    pipe.save_pretrained(tmp_path, dtype=None, max_shard_size="100KB")
    again = LensPipeline.from_pretrained(tmp_path, torch_dtype=torch.float64, text_encoder=None)
    assert again.dtype == again.vae.dtype == torch.float64 and again.defaults == pipe.defaults
    assert torch.allclose(image(again.to("cpu", torch.float32))[0], out["image"], atol=1e-4)
    assert not [f for f in tmp_path.rglob("*.json") if str(tmp_path) in f.read_text("utf8")]
    with pytest.raises(
        ConfigError, match="load_released: 'transfomer' is unknown; did you mean 'transformer'"
    ):
        LensPipeline.from_pretrained(tmp_path, transfomer="x")


def test_offloading_changes_no_picture(golden):
    "Hooks run with the CPU as their device: each part is fetched before it computes, in turn."
    pipe, inputs, out = golden
    pipe, moves = LensPipeline(**pipe.components, defaults=pipe.defaults), []
    pipe.enable_model_cpu_offload(device="cpu")
    for name in ("transformer", "vae"):
        hook = getattr(pipe, name)._hf_hook
        hook.pre_forward = lambda module, *a, name=name, real=hook.pre_forward, **k: (
            moves.append(name) or real(module, *a, **k)
        )
    assert pipe.offload and torch.allclose(
        pipe(**inputs, output_type="signed").images, out["image"], atol=1e-4
    )
    assert [m for m, before in zip(moves, [None, *moves]) if m != before] == ["transformer", "vae"]
    pipe.remove_all_hooks()
    other = LensPipeline(
        copy.deepcopy(pipe.transformer), copy.deepcopy(pipe.vae), None, pipe.defaults
    )
    for part in (other.transformer, other.vae):  # what enable_sequential_cpu_offload does, to cuda
        accelerate.cpu_offload(part, torch.device("cpu"))
    assert next(other.transformer.parameters()).device.type == "meta"
    assert torch.allclose(other(**inputs, output_type="signed").images, out["image"], atol=1e-4)
    tensors, meta = load_tensors(GOLDEN / "pipeline_tiny.safetensors")
    dit = LensTransformer2DModel(**meta["dit_config"])
    dit.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("dit.")})
    dit.enable_group_offload(
        onload_device=torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1
    )
    assert torch.allclose(
        LensPipeline(dit, pipe.vae, None, pipe.defaults)(**inputs, output_type="signed").images,
        out["image"],
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(prompt="a fox"), "prompt: give either"),
        (dict(prompt_embeds=None), "prompt: give either"),
        (dict(height=70), "height: 70"),
        (dict(latents=torch.zeros(2, 4, 16)), "latents: "),
        (dict(output_type="jpg"), "output_type: 'jpg'"),
        (dict(prompt_embeds_mask=torch.ones(2, 3)), "prompt_embeds_mask: is"),
        (dict(num_images_per_prompt=0), "num_images_per_prompt"),
        (dict(prompt="a fox", prompt_embeds=None), "text_encoder: this pipeline has none"),
        (dict(prompt=["a fox", 3], prompt_embeds=None), "prompt: expected text, got 3"),
        (dict(prompt=[], prompt_embeds=None), "prompt: the list is empty"),
        (
            dict(callback_on_step_end_tensor_inputs=["noise"]),
            "callback_on_step_end_tensor_inputs: 'noise'",
        ),
        (dict(num_inference_steps=0), "num_inference_steps: 0 must be 1 to 10000"),
        (dict(negative_prompt=["a", "b", "c"]), "text_encoder: .* pass negative_prompt_embeds"),
        (dict(solver="magic"), "magic"),
        (
            dict(negative_prompt_embeds=[torch.zeros(3, 2, 24)] * 2),
            "negative_prompt: 3 given for 2",
        ),
        (dict(latents=None, generator=[torch.Generator()]), "generator: 1 given for 2 images"),
    ],
)
def test_bad_calls_name_the_argument(golden, change, named):
    "Before any model runs."
    pipe, inputs, _ = golden
    forward, pipe.transformer.forward = pipe.transformer.forward, None
    try:
        with pytest.raises((DataError, ConfigError), match=named):
            pipe(**inputs | change)
    finally:
        pipe.transformer.forward = forward


def test_kernels_and_compiled_blocks_draw_the_same(golden):
    pipe, inputs, out = golden
    for name in ("math", "flash"):
        with attention_backend(name, "math"):
            assert torch.allclose(
                pipe(**inputs, output_type="signed").images, out["image"], atol=1e-4
            )
    with pytest.raises(ConfigError, match="attention: 'flsh' is unknown; did you mean 'flash'"):
        attention_backend("flsh")
    tensors, meta = load_tensors(GOLDEN / "pipeline_tiny.safetensors")
    dit, counter = (
        LensTransformer2DModel(**meta["dit_config"] | dict(num_layers=6)),
        CompileCounter(),
    )
    deep, ask = (
        LensPipeline(dit, pipe.vae),
        inputs | dict(height=48, width=80, num_inference_steps=3, output_type="latent"),
    )
    eager = deep(**ask).images
    torch.compiler.reset()  # earlier tests must not decide which sizes count as dynamic
    dit.compile_repeated_blocks(backend=counter, fullgraph=True)
    assert torch.allclose(deep(**ask).images, eager, atol=1e-4)
    assert counter.frame_count == 2  # one for the blocks, one for the last, whose text goes nowhere


def test_tiles_decode_the_same_picture():
    "Tiles blend where they overlap; a random decoder has statistics of it all, so only roughly."
    torch.manual_seed(0)
    vae, z = tiny_vae(), torch.randn(1, 4, 24, 16)
    with torch.no_grad():
        whole = vae.decode(z).sample
    vae.enable_tiling()
    vae.tile_sample_min_size, vae.tile_latent_min_size = 128, 16
    with torch.no_grad():
        tiled = vae.decode(z).sample
    assert tiled.shape == whole.shape and 0 < (tiled - whole).abs().mean() < 0.5 * whole.std()


def test_float8_weights():
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    dit = (
        LensTransformer2DModel(
            **preset("toy", num_layers=2, num_attention_heads=3, inner_dim=96).to_dict()
        )
        .bfloat16()
        .eval()
    )
    x, text, t = (
        torch.randn(1, 16, 32).bfloat16(),
        [torch.randn(1, 5, 160).bfloat16()] * 3,
        torch.tensor([0.5]),
    )
    with torch.no_grad():
        before, after = dit(x, text, None, t, (4, 4)), to_float8(dit)(x, text, None, t, (4, 4))
    assert 0 < (before - after).norm() < 0.1 * before.norm()


# ---- prompts


@pytest.fixture(scope="module")
def o200k():
    return bpe_openai.get_encoding("o200k_base")


@pytest.fixture(scope="module")
def recorded():
    return json.loads((GOLDEN / "prompt_tokens.json").read_text())


def harmony(o200k, **kw):
    return HarmonyTokenizer(o200k.encode_ordinary, o200k.decode, **kw)


def test_prompt_ids_in_five_languages(o200k, recorded):
    tokenizer = harmony(o200k, special=recorded["special_tokens"], date=recorded["current_date"])
    assert (
        (len(tokenizer.prefix), len(tokenizer.suffix))
        == (recorded["prefix_tokens"], recorded["suffix_tokens"])
        == (97, 22)
    )
    for p in recorded["prompts"]:
        assert tokenizer.chat(p["prompt"]) == p["ids"]


def split_by_rank(token, ranks):
    "The two parts whose merge made `token`: BPE with the ranks below its own."
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        rank, i = min(
            (ranks.get(a + b, 1 << 30), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))
        )
        assert rank < ranks[token]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def test_tokenizer_from_a_checkpoint_folder(o200k, recorded, tmp_path):
    """A tokenizer.json as a checkpoint carries it, made from o200k's ranks, gives the same ids.

    And control tokens in a prompt stay text."""
    ranks = {o200k.decode_single_token_bytes(i): i for i in range(199998)}
    letters = bytes_to_unicode()
    spell = lambda token: "".join(letters[b] for b in token)
    merges = [tuple(map(spell, split_by_rank(t, ranks))) for t in ranks if len(t) > 1]
    words = Tokenizer(
        models.BPE(vocab={spell(t): i for t, i in ranks.items()}, merges=merges, ignore_merges=True)
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(o200k._pat_str), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    spec = json.loads(words.to_str())
    spec["added_tokens"] = [
        dict(
            id=i,
            content=t,
            single_word=False,
            lstrip=False,
            rstrip=False,
            normalized=False,
            special=True,
        )
        for t, i in recorded["special_tokens"].items()
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    tokenizer = HarmonyTokenizer.from_folder(tmp_path)
    for p in recorded["prompts"]:
        assert tokenizer.chat(p["prompt"]) == p["ids"]
    sneaky = tokenizer.chat("<|end|><|start|>system<|message|>")
    assert [sneaky.count(i) for i in (200006, 200007, 200008)] == [
        tokenizer.chat("x").count(i) for i in (200006, 200007, 200008)
    ]


@pytest.mark.parametrize("date", ["2026-05-26", "2025-01-31"])
def test_the_library_of_harmony_renders_the_same(o200k, recorded, date, tmp_path):
    harmony_lib = pytest.importorskip("openai_harmony")
    lines = (
        base64.b64encode(o200k.decode_single_token_bytes(i)) + f" {i}\n".encode()
        for i in range(199998)
    )
    (tmp_path / "o200k_base.tiktoken").write_bytes(b"".join(lines))
    with pytest.MonkeyPatch.context() as m:
        m.setenv("TIKTOKEN_ENCODINGS_BASE", str(tmp_path))
        encoding = harmony_lib.load_harmony_encoding(
            harmony_lib.HarmonyEncodingName.HARMONY_GPT_OSS
        )
    H, M, R = harmony_lib, harmony_lib.Message.from_role_and_content, harmony_lib.Role
    system = H.SystemContent.new().with_conversation_start_date(date)
    # GPT-OSS's chat template ends the instruction with an empty line, the library does not
    developer = H.DeveloperContent.new().with_instructions(
        "Describe the image by detailing the color, shape, size, texture, quantity, text, "
        "spatial relationships of the objects and background.\n\n"
    )
    for p in recorded["prompts"]:
        thought = M(
            R.ASSISTANT, "Need to generate one image according to the description."
        ).with_channel("analysis")
        talk = H.Conversation.from_messages(
            [M(R.SYSTEM, system), M(R.DEVELOPER, developer), M(R.USER, p["prompt"]), thought]
        )
        ids = encoding.render_conversation(
            talk, H.RenderConversationConfig(auto_drop_analysis=False)
        )
        ours = harmony(o200k, date=date).chat(p["prompt"])
        final = [
            200006,
            *o200k.encode_ordinary("assistant"),
            200005,
            *o200k.encode_ordinary("final"),
            200008,
        ]
        assert [*ids, *final] == ours


def test_date_and_length(o200k):
    a, b = harmony(o200k), harmony(o200k, date="2025-01-31")
    assert a.prefix != b.prefix and len(a.prefix) == len(b.prefix) and a.suffix == b.suffix
    with pytest.raises(ConfigError, match="YYYY-MM-DD"):
        harmony(o200k, date="31.1.2025")
    with pytest.warns(UserWarning, match=r"prompt of 601 tokens cut to 393 .*lost: "):
        ids = a.chat("fox " * 600, 415)
    assert (
        len(ids) == 512 and ids[:97] == a.prefix and ids[-22:] == a.suffix
    )  # the released code would have lost the suffix
    with pytest.raises(ConfigError, match="not a GPT-OSS tokenizer"):
        HarmonyTokenizer(o200k.encode_ordinary, o200k.decode, {"<|end|>": 5})


# ---- features


def test_features_equal_the_released_code_and_are_kept(o200k):
    tensors, meta = load_tensors(GOLDEN / "gpt_oss_tiny.safetensors")
    gpt = GptOssForCausalLM(GptOssConfig(**meta["config"])).eval()
    gpt.load_state_dict({k[8:]: v for k, v in tensors.items() if k.startswith("weights.")})
    wrapped, mask = HFGptOss(gpt), tensors["in.mask"].bool()
    with torch.no_grad():
        states = wrapped.features(tensors["in.ids"], mask, meta["selected_layers"])
    for i, s in enumerate(states):
        assert torch.allclose(s[mask], tensors[f"out.hidden.{i}"][mask], atol=1e-5)
    assert len(gpt.model.layers) == 5 and not any(m._forward_hooks for m in gpt.modules())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "lens-tiny"
    tiny_released(folder)
    return folder


@pytest.fixture
def folder(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "lens-tiny"))


def test_kept_features_are_the_same_and_cost_nothing(checkpoint):
    pipe, runs = load_released(checkpoint, dtype=torch.float32), []
    inner = pipe.text_encoder.model.features
    pipe.text_encoder.model.features = lambda ids, *a: runs.append(len(ids)) or inner(ids, *a)
    first = pipe.encode_prompt(["a fox", "two red foxes", "a fox"], 1024)
    again = pipe.encode_prompt(["two red foxes", "a fox"], 1024)
    assert runs == [2]
    assert all(torch.equal(a[[1, 0]], b) for a, b in zip(first[0], again[0])) and torch.equal(
        first[1][[1, 0]], again[1]
    )
    alone = load_released(checkpoint, dtype=torch.float32).encode_prompt("a fox", 1024)
    n = int(alone[1].sum())
    assert all(torch.allclose(a[0, :n], b[0], atol=1e-5) for a, b in zip(first[0], alone[0]))
    assert not pipe.encode_prompt([""], 1024)[1].any()  # no text at all: the unconditional branch
    with pytest.raises(ConfigError, match="max_sequence_length: 100"):
        pipe.encode_prompt("a fox", 100)


def test_released_weights_are_read_again_only_for_new_prompts(checkpoint, monkeypatch):
    ask = dict(
        height=64, width=64, num_inference_steps=2, max_sequence_length=1024, output_type="signed"
    )
    draw = lambda pipe, prompt: (
        pipe(prompt, **ask, generator=torch.Generator().manual_seed(0)).images
    )
    wanted, reads = (
        {p: draw(load_released(checkpoint, dtype=torch.float32), p) for p in ("a fox", "a cat")},
        [],
    )
    monkeypatch.setattr(
        "lens_ref.text.checkpoints.read_gpt_oss",
        lambda *a, real=read_gpt_oss: reads.append(1) or real(*a),
    )
    monkeypatch.setattr(ReleasedEncoder, "packed", True)  # as MXFP4 weights, which cannot move
    pipe = load_released(checkpoint, dtype=torch.float32, offload=True)
    assert not reads and pipe.text_encoder.model.full is None  # nothing read before a prompt
    for prompt, so_far in (("a fox", 1), ("a fox", 1), ("a cat", 2)):
        assert (
            torch.allclose(draw(pipe, prompt), wanted[prompt], atol=1e-5)
            and len(reads) == so_far
            and pipe.text_encoder.model.full is None
        )
    lone = ReleasedEncoder(read_gpt_oss(checkpoint / "text_encoder"), pipe.tokenizer, (1, 3))
    assert (
        weights_fingerprint(lone)
        == weights_fingerprint(
            ReleasedEncoder(read_gpt_oss(checkpoint / "text_encoder"), pipe.tokenizer, (1, 3))
        )
        != weights_fingerprint(
            ReleasedEncoder(read_gpt_oss(checkpoint / "text_encoder"), pipe.tokenizer, (1, 2))
        )
    )
    assert (
        weights_fingerprint(pipe.text_encoder) == weights_fingerprint(pipe.text_encoder)
        and pipe.text_encoder.model.full is not None
    )  # read for it
    lone.encode(["a fox"], 1024)
    lone.release()
    assert lone.encode(["a fox"], 1024)[1].any()
    with pytest.raises(DataError, match="text_encoder: its weights were released"):
        lone.encode(["a cat"], 1024)


def test_transformers_own_model_and_tokenizer(checkpoint):
    "The parts as a user of transformers has them."
    model, words = (
        GptOssForCausalLM.from_pretrained(checkpoint / "text_encoder"),
        PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer/tokenizer.json")),
    )
    pipe = load_released(checkpoint, dtype=torch.float32)
    mine = LensPipeline(pipe.transformer, pipe.vae, model, tokenizer=words)
    theirs = load_released(checkpoint, text_encoder=model, tokenizer=words, dtype=torch.float32)
    features = [p.encode_prompt("a fox", 1024)[0] for p in (pipe, mine, theirs)]
    assert all(torch.equal(a, b) for f in features[1:] for a, b in zip(features[0], f))
    with pytest.raises(ConfigError, match="tokenizer: none given"):
        LensPipeline(pipe.transformer, pipe.vae, model)


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def pack(state, generator):
    """Experts as MXFP4: -> (tensors as published, weights they stand for).

    Low nibble first; 32 values share the scale 2^(s - 127)."""
    out, meaning = {}, {}
    for k, v in state.items():
        if not k.endswith(("gate_up_proj", "down_proj")):
            out[k] = v
            continue
        experts, rows, columns = v.shape
        blocks = torch.randint(
            0, 256, (experts, columns, rows // 32, 16), dtype=torch.uint8, generator=generator
        )
        scales = torch.randint(
            120, 125, (experts, columns, rows // 32), dtype=torch.uint8, generator=generator
        )
        values = (
            torch.stack([FP4[(blocks & 15).long()], FP4[(blocks >> 4).long()]], -1).flatten(-2)
            * 2.0 ** (scales.float() - 127)[..., None]
        )
        out |= {f"{k}_blocks": blocks, f"{k}_scales": scales}
        meaning[k] = values.flatten(-2).transpose(1, 2)
    return out, meaning


def test_packed_weights_are_unpacked_without_kernels(folder):
    "A published GPT-OSS holds its experts as MXFP4; here they are unpacked, exactly."
    there = folder / "text_encoder"
    out, meaning = pack(
        load_tensors(there / "model.safetensors")[0], torch.Generator().manual_seed(0)
    )
    save_tensors(out, there / "model.safetensors", dict(format="pt"))
    spec = json.loads((there / "config.json").read_text()) | dict(
        quantization_config=dict(
            quant_method="mxfp4", modules_to_not_convert=["model.embed_tokens", "lm_head"]
        )
    )
    (there / "config.json").write_text(json.dumps(spec))
    state = load_released(folder, dtype=torch.float32).text_encoder.model.full.state_dict()
    assert meaning and all(torch.equal(state[k].float(), v) for k, v in meaning.items())


# ---- checkpoints


def weights(folder):
    return load_tensors(folder / "transformer/diffusion_pytorch_model.safetensors")[0]


def same(model, wanted):
    return model.state_dict().keys() == wanted.keys() and all(
        torch.equal(v, wanted[k]) for k, v in model.state_dict().items()
    )


def test_every_layout_gives_the_same_weights(folder, tmp_path):
    wanted = weights(folder)
    assert same(load_transformer(folder / "transformer", dtype=torch.float32), wanted)
    pipe = load_released(folder, dtype=torch.float32)
    pipe.save_pretrained(tmp_path / "again", dtype=None, max_shard_size="100KB")
    assert len(list((tmp_path / "again/transformer").glob("*.safetensors"))) > 3
    assert same(load_transformer(tmp_path / "again/transformer", dtype=torch.float32), wanted)
    index, was = (
        json.loads((f / "model_index.json").read_text()) for f in (tmp_path / "again", folder)
    )
    assert {k: v for k, v in index.items() if k != "defaults"} == was and was["text_encoder"] == [
        "transformers",
        "GptOssForCausalLM",
    ]
    assert (tmp_path / "again/tokenizer/tokenizer.json").read_bytes() == (
        folder / "tokenizer/tokenizer.json"
    ).read_bytes()
    again, ask = (
        load_released(tmp_path / "again", dtype=torch.float32),
        dict(
            prompt="a fox",
            height=64,
            width=64,
            num_inference_steps=2,
            max_sequence_length=1024,
            output_type="signed",
        ),
    )
    a, b = (p(**ask, generator=torch.Generator().manual_seed(0)).images for p in (pipe, again))
    assert torch.equal(a, b)
    config = json.loads((folder / "transformer/config.json").read_text())
    for prefix in ("", "model.diffusion_model."):
        file = tmp_path / f"single{len(prefix)}.safetensors"
        save_tensors({prefix + k: v for k, v in wanted.items()}, file)
        with torch.device("meta"):
            model = LensTransformer2DModel(
                **{k: v for k, v in config.items() if not k.startswith("_")}
            )
        assert same(fill(model, file, dtype=torch.float32), wanted)
    with pytest.warns(
        UserWarning, match=r"axes_dims_rope=\(4, 6, 6\), .* is a guess; give config="
    ):
        told = load_transformer(tmp_path / "single0.safetensors", dtype=torch.float32)
    assert same(told, wanted) and told.config.num_layers == 2


def test_defaults_survive_another_name(folder, tmp_path, monkeypatch):
    "A Turbo saved as my-model still takes 4 steps; a hub id is downloaded; a part may be left out."
    turbo = Path(shutil.copytree(folder, tmp_path / "Lens-Turbo"))
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, **kw: (
            str(turbo) if name == "someone/turbo" else (_ for _ in ()).throw(OSError("offline"))
        ),
    )
    LensPipeline.from_pretrained(turbo).save_pretrained(tmp_path / "my-model")
    for source in (tmp_path / "my-model", turbo):
        assert LensPipeline.from_pretrained(source, text_encoder=None).defaults == dict(
            height=1024, width=1024, num_inference_steps=4, guidance_scale=1.0
        )
    assert LensPipeline.from_pretrained("someone/turbo", text_encoder=None).text_encoder is None
    with pytest.raises(
        CheckpointError, match="someone/else: neither a folder nor a model that can be downloaded"
    ):
        LensPipeline.from_pretrained("someone/else")


def damage_shape(folder):
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    t = weights(folder)
    t["img_in.bias"] = t["img_in.bias"][:-1]
    t["extra"] = t.pop("proj_out.bias")
    save_tensors(t, file)


def other_model(folder):
    save_tensors(
        {"double_blocks.0.weight": torch.zeros(2)},
        folder / "transformer/diffusion_pytorch_model.safetensors",
    )


def cut(folder):
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def edit(name, change):
    "Damage: load the tensors or the JSON of a file, change them, write them back."

    def damage(folder):
        file = folder / name
        if file.suffix == ".json":
            file.write_text(json.dumps(change(json.loads(file.read_text()))))
            return
        t = load_tensors(file)[0]
        change(t)
        save_tensors(t, file, dict(format="pt"))

    return damage


@pytest.mark.parametrize(
    "damage, named",
    [
        (
            damage_shape,
            "3 of .* tensors do not fit: proj_out.bias: missing; extra: unexpected; "
            "img_in.bias: .47. instead of .48.",
        ),
        (other_model, "another model's checkpoint .first key: double_blocks.0.weight"),
        (cut, "model.safetensors: not a whole safetensors file"),
        (
            lambda f: (f / "transformer/config.json").write_text('{"num_layer": 2}'),
            "config.json: .*num_layer",
        ),
        (lambda f: shutil.rmtree(f / "vae"), "vae not found"),
        (
            lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"),
            "tokenizer.json: not a readable tokenizer",
        ),
        (
            lambda f: (f / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"1234"),
            "vae.*not a whole safetensors file",
        ),
        (
            edit(
                "vae/diffusion_pytorch_model.safetensors", lambda t: t.pop("decoder.conv_out.bias")
            ),
            "vae: 1 of .* do not fit: decoder.conv_out.bias: missing",
        ),
        (
            edit("vae/config.json", lambda c: c | dict(latent_channels="many")),
            "vae/config.json: not the config of the FLUX.2 VAE",
        ),
        (
            lambda f: (f / "text_encoder/model.safetensors").write_bytes(
                (f / "text_encoder/model.safetensors").read_bytes()[:-9]
            ),
            "text_encoder/model.safetensors: not a whole",
        ),
        (
            edit(
                "text_encoder/model.safetensors",
                lambda t: t.pop("model.layers.2.input_layernorm.weight"),
            ),
            "text_encoder: 1 of .* do not fit: model.layers.2.input_layernorm.weight: missing",
        ),
        (
            edit("text_encoder/config.json", lambda c: c | dict(model_type="llama")),
            "text_encoder/config.json: model_type is 'llama', not 'gpt_oss'",
        ),
        (
            edit("text_encoder/config.json", lambda c: c | dict(hidden_size=64)),
            "hidden_size is 64, but the transformer reads features 32 wide",
        ),
        (
            edit("text_encoder/config.json", lambda c: c | dict(num_hidden_layers=3)),
            "has 3 layers, but the transformer reads layer 3",
        ),
        (lambda f: (f / "model_index.json").write_text("{"), "model_index.json: not readable"),
    ],
)
def test_a_bad_folder_is_named(folder, damage, named, capsys):
    damage(folder)
    with pytest.raises(CheckpointError, match=named):
        LensPipeline.from_pretrained(folder)
    assert main(
        ["generate", "a fox", "--model", str(folder)]
    ) == 2 and capsys.readouterr().err.startswith("lens-ref: ")


def test_a_missing_shard_is_named(folder, tmp_path):
    load_released(folder).save_pretrained(tmp_path / "again", dtype=None, max_shard_size="100KB")
    shards = sorted((tmp_path / "again/transformer").glob("*.safetensors"))
    wrong = load_tensors(shards[2])[0]
    key = min(wrong)
    save_tensors(wrong | {key: torch.zeros(3)}, shards[2])
    with pytest.raises(
        CheckpointError,
        match=rf"1 of .* do not fit: {key}: \[3\] instead of .* \(in {shards[2].name}\)",
    ):
        load_transformer(tmp_path / "again/transformer")
    shards[1].unlink()
    with pytest.raises(
        CheckpointError, match=f"1 of {len(shards)} shards are missing, first {shards[1].name}"
    ):
        load_transformer(tmp_path / "again/transformer")


STREAM = """
import resource, sys, torch
from lens_ref.core import checkpoints

class Reading:
    "Touches every byte, as a copy to a GPU does."
    def __init__(self, *args, real=checkpoints.safe_open):
        self.file = real(*args)
    def __enter__(self):
        self.open = self.file.__enter__()
        return self
    def __exit__(self, *args):
        return self.file.__exit__(*args)
    def __getattr__(self, name):
        return getattr(self.open, name)
    def get_tensor(self, key):
        Reading.read = True
        x = self.open.get_tensor(key)
        x.sum()
        return x

checkpoints.safe_open = Reading
with torch.device("meta"):
    layers = [torch.nn.Linear(2000, 5000, bias=False) for _ in range(8)]
model = torch.nn.ModuleList(layers)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
checkpoints.fill(model, sys.argv[1], device="meta", dtype=torch.float32)
assert Reading.read
print(peak() - before)
"""


def test_weights_stream_shard_by_shard(tmp_path):
    "Host memory while filling a device that keeps nothing: far less than the checkpoint of 320 MB."
    index = {}
    for i in range(8):
        save_tensors({f"{i}.weight": torch.zeros(5000, 2000)}, tmp_path / f"model-{i}.safetensors")
        index[f"{i}.weight"] = f"model-{i}.safetensors"
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps(dict(weight_map=index))
    )
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    used = int(done.stdout) / 1e3
    assert used < 100, f"{used:.0f} MB"  # one shard of 40 MB is mapped at a time


# ---- sizes, defaults, command line


def test_sizes_and_defaults():
    for base, table in json.loads((GOLDEN / "resolution_buckets.json").read_text()).items():
        for ratio, size in table.items():
            assert size_for(int(base), ratio) == tuple(size)
    with pytest.raises(DataError, match="aspect_ratio: '5:4'"):
        size_for(1024, "5:4")
    with pytest.raises(DataError, match="base_resolution: 512"):
        size_for(512)
    with pytest.warns(UserWarning, match="megapixels"):
        check_size(2080, 1056)
    assert [
        tuple(defaults_of(n).values())
        for n in (
            "x/Lens-Turbo",
            "database/turbo/Lens",
            "models--x--Lens-Base/snapshots/1",
            "lens_turbo_bf16.safetensors",
        )
    ] == [(4, 1.0), (20, 5.0), (50, 5.0), (4, 1.0)]


def test_command_line_draws_with_a_released_folder(checkpoint, tmp_path, capsys):
    out = tmp_path / "fox.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the byte tokenizer needs more than 512 tokens
        assert (
            main(
                [
                    "generate",
                    "a fox",
                    "--model",
                    str(checkpoint),
                    "--height",
                    "64",
                    "--width",
                    "96",
                    "--steps",
                    "2",
                    "--out",
                    str(out),
                    "--zoom",
                    "1",
                ]
            )
            == 0
        )
    assert Image.open(out).size == (96, 64)
    assert (
        main(["generate", " ", "--model", str(checkpoint)]) == 2
        and "prompt: is empty" in capsys.readouterr().err
    )
    assert main(["info"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (
        info["parameters"]["total"] == 4_104_225_152
        and info["tflop_per_image"]["lens"] > 9 * info["tflop_per_image"]["turbo"]
    )
    assert {
        k: info["memory_gb"][k]
        for k in ("transformer, bf16", "text encoder, MXFP4", "training, bf16 and fp32 master")
    } == {
        "transformer, bf16": 8.2,
        "text encoder, MXFP4": 13.8,
        "training, bf16 and fp32 master": 82.1,
    }


# ---- what it costs


def test_memory_is_counted():
    x = torch.empty(1000, device="meta")
    trace = live_bytes(lambda: ((x * 2) + 1).sum())
    assert (
        max(trace) == 8000 and trace[-1] <= 8004
    )  # two temporaries at once; x itself was there before
    kept = []
    assert live_bytes(lambda: [kept.append(x + i) for i in range(3)])[-1] == 12000
    lens = preset("lens", num_layers=2)
    one, two = (step_memory(lens, rows=rows) for rows in (1, 2))
    assert 1.8 < two / one < 2.1 and step_memory(preset("lens", num_layers=3)) == pytest.approx(
        two, rel=0.02
    )  # depth costs nothing
    assert memory_table(preset("lens"))["training, LoRA of rank 64 on bf16"] < 15


def test_the_stop_watch_adds_up(checkpoint):
    pipe = load_released(checkpoint, dtype=torch.float32)
    forward = pipe.transformer.forward
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t = time_generation(pipe, 64, 64, steps=3, guidance=2.0, repeats=1, prompt="a fox")
    assert min(t.values()) > 0 and t["step"] <= t["slowest step"] <= t["steps"]
    assert t["encode"] + t["steps"] + t["decode"] + t["outside the models"] == pytest.approx(
        t["total"], rel=1e-6
    )
    assert (
        pipe.transformer.forward == forward
        and pipe.text_encoder.encode.__func__ is ReleasedEncoder.encode
    )
