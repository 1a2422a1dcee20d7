"""The released Lens: everything it computes, from the project's copy of the golden values."""
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLFlux2

from lens_ref.core import DataError, load_tensors
from lens_ref.dit import LensTransformer2DModel
from lens_ref.pipeline import LensPipeline

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    "Pipeline, inputs and outputs of the recorded run."
    tensors, meta = load_tensors(GOLDEN / "pipeline_tiny.safetensors")
    part = lambda start: {k[len(start):]: v for k, v in tensors.items() if k.startswith(start)}
    dit, vae = LensTransformer2DModel(**meta["dit_config"]), AutoencoderKLFlux2(**meta["vae_config"])
    dit.load_state_dict(part("dit.")); vae.load_state_dict(part("vae."))
    pipe = LensPipeline(dit, vae, None, {k: int(meta[k]) for k in ("height", "width")} | dict(num_inference_steps=int(meta["steps"]), guidance_scale=float(meta["guidance_scale"])))
    inputs = dict(prompt_embeds=[tensors["in.text.0"], tensors["in.text.1"]], prompt_embeds_mask=tensors["in.mask"].bool(), latents=tensors["in.noise"])
    out = part("out.")
    assert out["image"].abs().max() > 1                            # recorded before the clamp to [-1, 1], which is part of our `decode`
    return pipe, inputs, out | dict(image=out["image"].clamp(-1, 1))


def test_noise_to_image_equals_the_released_code(golden):
    pipe, inputs, out = golden
    assert torch.allclose(pipe(**inputs, output_type="latent").images, out["latents"], atol=1e-5)
    assert torch.allclose(pipe(**inputs, output_type="pt").images, out["image"], atol=1e-4)


def test_an_image_does_not_depend_on_its_neighbours(golden):
    "The short prompt alone, without its padding, gives what it gave beside the long one."
    pipe, inputs, out = golden
    for i in range(2):
        n = int(inputs["prompt_embeds_mask"][i].sum())
        alone = pipe(prompt_embeds=[x[i:i + 1, :n] for x in inputs["prompt_embeds"]], prompt_embeds_mask=inputs["prompt_embeds_mask"][i:i + 1, :n],
                     latents=inputs["latents"][i:i + 1], output_type="pt").images
        assert torch.allclose(alone, out["image"][i:i + 1], atol=1e-4)


def test_signature_in_diffusers_terms(golden):
    pipe, inputs, out = golden
    seen = []
    def watch(p, step, t, kw): seen.append((step, t, kw["latents"].shape)); return {}
    two = pipe(**inputs | dict(latents=inputs["latents"].repeat_interleave(2, 0)), num_images_per_prompt=2, callback_on_step_end=watch, output_type="np").images
    assert two.shape == (4, 48, 80, 3) and abs(two[0] - two[1]).max() < 1e-5
    assert abs(two[::2] - (out["image"] / 2 + .5).permute(0, 2, 3, 1).numpy()).max() < 1e-4
    assert [s[0] for s in seen] == list(range(5)) and seen[-1][1] == 0
    stop = pipe(**inputs, callback_on_step_end=lambda p, i, t, kw: dict(latents=torch.zeros_like(kw["latents"])) if i == 4 else None, output_type="latent").images
    assert (stop == 0).all()
    none = [torch.zeros_like(x) for x in inputs["prompt_embeds"]], torch.zeros_like(inputs["prompt_embeds_mask"])
    same = pipe(**inputs, negative_prompt_embeds=none[0], negative_prompt_embeds_mask=none[1], output_type="pt").images
    assert torch.allclose(same, out["image"], atol=1e-4)
    other = pipe(**inputs, negative_prompt_embeds=[x.flip(0)[:, :4] for x in inputs["prompt_embeds"]], output_type="pt").images
    assert (other - same).abs().max() > 1e-3
    seeds = lambda: [torch.Generator().manual_seed(i) for i in (3, 4)]
    inputs = {k: v for k, v in inputs.items() if k != "latents"}
    a = pipe(**inputs, generator=seeds(), output_type="pt").images
    b = pipe(prompt_embeds=[x[1:] for x in inputs["prompt_embeds"]], prompt_embeds_mask=inputs["prompt_embeds_mask"][1:], generator=seeds()[1], output_type="pt").images
    assert torch.allclose(a[1:], b, atol=1e-4)


@pytest.mark.parametrize("change, named", [(dict(prompt="a fox"), "prompt: give either"), (dict(prompt_embeds=None), "prompt: give either"), (dict(height=70), "height: 70"),
                                           (dict(latents=torch.zeros(2, 4, 16)), "latents: "), (dict(output_type="jpg"), "output_type: 'jpg'"),
                                           (dict(prompt_embeds_mask=torch.ones(2, 3)), "prompt_embeds_mask: is"), (dict(num_images_per_prompt=0), "num_images_per_prompt"),
                                           (dict(prompt="a fox", prompt_embeds=None), "text_encoder: this pipeline has none"),
                                           (dict(latents=None, generator=[torch.Generator()]), "generator: 1 given for 2 images")])
def test_bad_calls_name_the_argument(golden, change, named):
    pipe, inputs, _ = golden
    with pytest.raises(DataError, match=named): pipe(**inputs | change)
