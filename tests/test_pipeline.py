"What a call of the pipeline may ask, what its schedulers do, and two threads that draw with one."

import copy
import json
import math
import threading
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)

from lens_ref.core.config import ConfigError, DataError
from lens_ref.core.files import data_path
from lens_ref.dit.solvers import check_guidance, empirical_mu, guided, sigma_schedule
from lens_ref.lens.released import tiny_released
from lens_ref.pretrain.pipeline import LensPipeline, velocity_field
from lens_ref.text.encoders import HFGptOss

ASK = dict(height=32, width=48, num_inference_steps=3, output_type="latent")
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A released layout with random weights; its text encoder reads 2048 tokens."
    return tiny_released(tmp_path_factory.mktemp("pipeline") / "tiny")


@pytest.fixture(scope="module")
def toy():
    return LensPipeline.from_pretrained(data_path("toy"))


@pytest.fixture
def pipe(tiny):
    "One of its own: tests exchange its parts."
    return LensPipeline(**tiny.components, defaults=tiny.defaults)


def draw(pipe, prompt="a red cat", seed=1, **changes):
    ask = ASK | dict(generator=torch.Generator().manual_seed(seed)) | changes
    return pipe(prompt, **ask).images


def close(a, b, atol=1e-5):
    return torch.allclose(a, b, atol=atol)


# ---- guidance


@pytest.mark.parametrize(
    "scale", [0, 0.0, 0.5, 1, 1.0, np.float32(0.3), np.int64(0), torch.tensor(0.7)]
)
def test_guidance_from_0_to_1_is_the_picture_of_the_prompt(pipe, scale):
    prompted, plain = draw(pipe, guidance_scale=1.0), draw(pipe, "", guidance_scale=1.0)
    off = draw(pipe, guidance_scale=scale)
    assert torch.equal(off, prompted) and not close(off, plain, 1e-3)


NO_SCALES = [
    -1,
    -0.001,
    math.nan,
    math.inf,
    -math.inf,
    "5",
    "",
    True,
    [2.0],
    1e30,
    torch.ones(2),
    1j,
]


@pytest.mark.parametrize("scale", NO_SCALES)
def test_what_is_no_guidance_is_refused_by_name(pipe, scale):
    ask = lambda: draw(pipe, guidance_scale=scale)
    field = lambda: velocity_field(None, [], torch.ones(1, 1), (1, 1), scale)
    for call in (ask, field, lambda: guided(None, None, scale), lambda: check_guidance(scale)):
        with pytest.raises(ConfigError, match="guidance_scale: .* is no scale"):
            call()


def test_guided_below_1_is_the_conditional_field():
    one, two = lambda x, t: x + 1, lambda x, t: x - 1
    x, t = torch.zeros(2, 3), torch.full((2,), 0.5)
    for scale in (0.0, 0.4, 1.0):
        assert torch.equal(guided(one, two, scale)(x, t), x + 1)
    assert torch.equal(guided(one, two, 3.0, rescale=False)(x, t), x - 1 + 6)


# ---- negative prompts


def test_a_negative_prompt_without_guidance_warns(pipe):
    text, mask = pipe.encode_prompt("a dog")
    plain = draw(pipe, guidance_scale=1.0)
    for given in (
        dict(negative_prompt="a dog"),
        dict(negative_prompt=["a dog"]),
        dict(negative_prompt_embeds=text, negative_prompt_embeds_mask=mask),
    ):
        with pytest.warns(UserWarning, match="negative_prompt: not used"):
            assert torch.equal(draw(pipe, guidance_scale=0.5, **given), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no text is what guidance steers away from anyway
        draw(pipe, guidance_scale=1.0, negative_prompt="")
        draw(pipe, guidance_scale=3.0, negative_prompt="a dog")


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_number_of_negative_prompts_is_always_checked(pipe, scale):
    text, mask = pipe.encode_prompt(["a dog", "a fox", "a hen"])
    many = [
        dict(negative_prompt=["a", "b", "c"]),
        dict(negative_prompt_embeds=text),
        dict(negative_prompt_embeds=text, negative_prompt_embeds_mask=mask),
    ]
    for given in many:
        for prompt in ("a cat", ["a cat", "a cow"]):
            with pytest.raises(DataError, match="negative_prompt: 3 given for [12] prompts"):
                draw(pipe, prompt, guidance_scale=scale, **given)
    for wrong, named in (([], "empty"), ([7], "expected text"), (b"a", "expected text")):
        with pytest.raises(DataError, match=f"negative_prompt: .*{named}"):
            draw(pipe, guidance_scale=scale, negative_prompt=wrong)


def test_one_negative_prompt_serves_all(pipe):
    prompts = ["a cat", "a red cow"]
    text, mask = pipe.encode_prompt("a dog")
    ways = [
        dict(negative_prompt="a dog"),
        dict(negative_prompt=["a dog"]),
        dict(negative_prompt=["a dog", "a dog"]),
        dict(negative_prompt_embeds=text, negative_prompt_embeds_mask=mask),
    ]
    first, *others = [draw(pipe, prompts, guidance_scale=4.0, **way) for way in ways]
    assert all(close(first, x) for x in others)
    assert not close(first, draw(pipe, prompts, guidance_scale=4.0), 1e-3)
    empty = draw(pipe, prompts, guidance_scale=4.0, negative_prompt=["", ""])
    assert close(empty, draw(pipe, prompts, guidance_scale=4.0))


# ---- prompts


def test_half_characters_are_left_out_with_a_warning(pipe, toy):
    with pytest.warns(UserWarning, match="prompt: .*holds what is no text; read as 'a red cat '"):
        broken = draw(pipe, "a red cat \ud83d")
    assert torch.equal(broken, draw(pipe, "a red cat "))
    assert torch.equal(draw(pipe, "\ufeffa cat\0"), draw(pipe, "a cat"))
    for encoder in (pipe.text_encoder, toy.text_encoder):
        a, b = encoder.encode(["a \udc00cat", "a dog"]), encoder.encode(["a cat", "a dog"])
        assert all(torch.equal(x, y) for x, y in zip(a[0], b[0]))
    with pytest.warns(UserWarning, match="negative_prompt: "):
        draw(pipe, guidance_scale=3.0, negative_prompt="a dog \ud83d")


@pytest.mark.parametrize(
    "prompt, named",
    [
        (None, "give either"),
        ([], "the list is empty"),
        ((), "the list is empty"),
        ([["a cat"]], "expected text"),
        (["a cat", None], "expected text, got None"),
        (b"a cat", "expected text or a list"),
        (data_path("toy"), "expected text or a list"),
        (dict(a="cat"), "expected text or a list"),
        (7, "expected text or a list"),
        ([b"a cat"], "expected text"),
    ],
)
def test_what_is_no_prompt_is_refused(pipe, prompt, named):
    for call in (lambda: draw(pipe, prompt), lambda: pipe.encode_prompt(prompt)):
        with pytest.raises(DataError, match=f"prompt: {named}"):
            call()


def test_prompts_of_other_kinds_of_lists(pipe):
    both = draw(pipe, ["a cat", ""])
    for prompts in (("a cat", ""), np.array(["a cat", ""]), (p for p in ("a cat", ""))):
        assert torch.equal(draw(pipe, prompts), both)
    assert close(draw(pipe, ""), draw(pipe, [" "]))


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda e, m: dict(prompt_embeds=e[:1]), "1 tensors .* reads 2"),
        (lambda e, m: dict(prompt_embeds=[x[..., :5] for x in e]), "5 wide"),
        (lambda e, m: dict(prompt_embeds=[x * math.nan for x in e]), "finite"),
        (lambda e, m: dict(prompt_embeds=[x.long() for x in e]), "finite"),
        (lambda e, m: dict(prompt_embeds=e[0]), "expected a list"),
        (lambda e, m: dict(prompt_embeds=[x[:0] for x in e]), "no rows"),
        (lambda e, m: dict(prompt_embeds=e, prompt_embeds_mask=m.tolist()), "expected a tensor"),
        (lambda e, m: dict(prompt_embeds=e, prompt_embeds_mask=m[:, :1]), "is .* but the features"),
        (lambda e, m: dict(prompt="a", prompt_embeds=e), "not both"),
    ],
)
def test_features_that_do_not_fit_are_named(pipe, change, named):
    given = dict(prompt=None) | change(*pipe.encode_prompt("a cat"))
    with pytest.raises(DataError, match=f"prompt.*{named}"):
        draw(pipe, **given)


# ---- numbers, noise, outputs, callbacks


@pytest.mark.parametrize("kind", [float, np.int64, np.float32, torch.tensor, np.array])
def test_whole_numbers_of_any_kind(pipe, kind):
    asked = dict(height=kind(32), width=kind(48), num_inference_steps=kind(3))
    assert torch.equal(draw(pipe, **asked, num_images_per_prompt=kind(1)), draw(pipe))


@pytest.mark.parametrize(
    "name", ["height", "width", "num_inference_steps", "num_images_per_prompt"]
)
@pytest.mark.parametrize(
    "value", ["4", True, 2.5, 0, -16, math.nan, math.inf, [4], b"4", 10**9 + 0.5]
)
def test_what_is_no_whole_number_is_named(pipe, name, value):
    pipe.transformer.forward = None  # not reached
    try:
        with pytest.raises(DataError, match=f"{name}: "):
            draw(pipe, **{name: value})
    finally:
        del pipe.transformer.forward


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(height=10**6), "height: 1000000 must be"),
        (dict(num_inference_steps=10**9), "num_inference_steps: 1000000000 must be"),
        (dict(base_resolution="1024", height=None, width=None), "base_resolution: '1024'"),
        (dict(base_resolution=0, height=None, width=None), "base_resolution: 0"),
        (dict(base_resolution=[1024], height=None, width=None), "base_resolution"),
        (dict(aspect_ratio="1:1", height=0), "height, width: give either"),
        (dict(generator=7), "generator: 7 is none"),
        (dict(generator=2**64), "generator: "),
        (dict(generator=[torch.Generator(), 3]), "generator: 3"),
        (dict(generator=[]), "generator: 0 given"),
        (dict(latents=np.zeros((1, 6, 16))), "latents: expected a tensor of floats, got ndarray"),
        (dict(latents=torch.zeros(1, 6, 16, dtype=torch.long)), "latents: .*got torch.int64"),
        (dict(latents=torch.full((1, 6, 16), math.nan)), "latents: hold NaN"),
        (dict(latents=torch.zeros(2, 6, 16)), "latents: .2, 6, 16. given"),
        (dict(output_type="tensor"), "output_type: 'tensor'"),
        (dict(output_type=None), "output_type: None"),
        (dict(output_type=["pil"]), "output_type: "),
        (dict(callback_on_step_end="print"), "callback_on_step_end: expected a function"),
        (dict(callback_on_step_end=lambda pipe, step: None), "callback_on_step_end: is called as"),
        (dict(callback_on_step_end_tensor_inputs="noise"), "'noise' is unknown"),
        (dict(callback_on_step_end=lambda *a: torch.ones(2)), "returned Tensor"),
        (dict(callback_on_step_end=lambda *a: True), "returned bool"),
        (dict(callback_on_step_end=lambda *a: dict(latent=1)), "returned 'latent'"),
        (dict(callback_on_step_end=lambda *a: dict(latents=torch.zeros(1))), "returned latents"),
        (dict(callback_on_step_end=lambda *a: dict(latents=3)), "returned latents int"),
        (dict(attention_kwargs=dict(sclae=1)), "attention_kwargs: "),
        (dict(attention_kwargs=dict(scale="1")), "attention_kwargs: scale '1'"),
        (dict(attention_kwargs=0.5), "attention_kwargs: 0.5"),
        (dict(solver=None), "unknown solver None"),
        (dict(solver=["euler"]), "unknown solver"),
        (dict(max_sequence_length="9"), "max_sequence_length: '9'"),
        (dict(max_sequence_length=0), "max_sequence_length: 0"),
    ],
)
def test_a_bad_argument_is_named(pipe, change, named):
    with pytest.raises((DataError, ConfigError), match=named):
        draw(pipe, **change)


def test_latents_of_another_precision_and_one_generator_each(pipe):
    noise = torch.randn(2, 6, 16, dtype=torch.float64)
    assert close(
        draw(pipe, ["a", "b"], latents=noise), draw(pipe, ["a", "b"], latents=noise.float())
    )
    seeds = [torch.Generator().manual_seed(i) for i in (1, 2)]
    assert close(draw(pipe, ["a", "b"], generator=seeds)[:1], draw(pipe, "a"))


def test_pictures_of_each_kind(toy):
    made = {k: draw(toy, output_type=k) for k in ("pt", "np", "pil", "signed")}
    pt = made["pt"]
    assert 0 <= pt.min() < 0.2 and 0.8 < pt.max() <= 1 and pt.shape == (1, 3, 32, 48)
    assert close(pt * 2 - 1, made["signed"]) and made["np"].shape == (1, 32, 48, 3)
    assert np.abs(made["np"] - pt.permute(0, 2, 3, 1).numpy()).max() < 1e-6
    assert np.abs(np.asarray(made["pil"][0]) / 255 - made["np"][0]).max() <= 0.5 / 255 + 1e-6


def test_defaults_are_checked_when_they_are_made(tiny):
    for wrong, named in (
        (dict(steps=3), "defaults: 'steps' is unknown"),
        (dict(num_inference_steps="4"), "defaults.num_inference_steps: '4'"),
        (dict(height=True), "defaults.height: True"),
        (dict(guidance_scale=-1), "guidance_scale: -1"),
    ):
        with pytest.raises((DataError, ConfigError), match=named):
            LensPipeline(**tiny.components, defaults=wrong)


# ---- schedulers


def by_hand(pipe, scheduler, mu=None, **levels):
    "diffusers' own loop: timesteps in [0, 1000], the model's t in [0, 1]; no guidance."
    how = dict(mu=mu) if mu is not None else {}
    scheduler.set_timesteps(**(levels or dict(num_inference_steps=3)), **how)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(1, 6, 16, generator=g)
    text, mask = pipe.encode_prompt("a red cat")
    with torch.no_grad():
        for t in scheduler.timesteps:
            level = (t / 1000).float().reshape(1)
            v = pipe.transformer(x, text, mask, level, (2, 3))
            random = dict(generator=g) if isinstance(scheduler, FlowMatchLCMScheduler) else {}
            x = scheduler.step(v, t, x, return_dict=False, **random)[0]
    return x


EVEN = list(np.linspace(1, 1 / 3, 3))
MU = empirical_mu(6, 3)
EXCHANGED = {
    "released": (FlowMatchEulerDiscreteScheduler, {}, dict(sigmas=EVEN, mu=MU)),
    "shift": (
        FlowMatchEulerDiscreteScheduler,
        dict(use_dynamic_shifting=False, shift=7.0),
        dict(sigmas=EVEN),
    ),
    "terminal": (
        FlowMatchEulerDiscreteScheduler,
        dict(shift_terminal=0.1),
        dict(sigmas=EVEN, mu=MU),
    ),
    "karras": (
        FlowMatchEulerDiscreteScheduler,
        dict(use_karras_sigmas=True),
        dict(sigmas=EVEN, mu=MU),
    ),
    "heun": (FlowMatchHeunDiscreteScheduler, {}, {}),
    "lcm": (FlowMatchLCMScheduler, {}, dict(sigmas=EVEN, mu=MU)),
    "unipc": (UniPCMultistepScheduler, FLOW, dict(num_inference_steps=3, mu=MU)),
    "unipc-shift": (
        UniPCMultistepScheduler,
        FLOW | dict(use_dynamic_shifting=False, flow_shift=3.0),
        {},
    ),
    "dpm": (DPMSolverMultistepScheduler, FLOW, dict(num_inference_steps=3, mu=MU)),
    "dpm-shift": (
        DPMSolverMultistepScheduler,
        FLOW | dict(use_dynamic_shifting=False, flow_shift=3.0),
        {},
    ),
}


@pytest.mark.parametrize("name", EXCHANGED)
def test_an_exchanged_scheduler_draws_what_it_draws_by_hand(pipe, name):
    kind, changes, how = EXCHANGED[name]
    scheduler = kind.from_config(pipe.scheduler.config, **changes)
    wanted, usual = by_hand(pipe, copy.deepcopy(scheduler), **how), draw(pipe, guidance_scale=1.0)
    pipe.scheduler = scheduler
    state = copy.deepcopy(vars(scheduler))
    drawn = draw(pipe, guidance_scale=1.0)
    assert close(drawn, wanted, 1e-4) and close(drawn, usual, 1e-4) == (name == "released")
    assert torch.equal(draw(pipe, guidance_scale=1.0), drawn)  # nothing is left from the first call
    assert str(vars(pipe.scheduler)) == str(state)


def test_the_released_schedule_is_ours_to_the_last_bit(pipe):
    for tokens, steps in ((16, 20), (4096, 50), (4096, 4), (8100, 20), (1, 1)):
        levels = pipe.plan(tokens, steps, None, None, "euler").timesteps
        assert np.array_equal(levels, [float(1000 * s) for s in sigma_schedule(tokens, steps)[:-1]])
    default, pipe.scheduler = draw(pipe), None
    assert torch.equal(draw(pipe), default)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(),
        DDIMScheduler(),
        EulerDiscreteScheduler(),
        UniPCMultistepScheduler(),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction"),
        UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="epsilon"),
        FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        FlowMatchEulerDiscreteScheduler,
        "euler",
        7,
    ],
)
def test_a_scheduler_that_cannot_work_is_refused_when_it_is_set(pipe, scheduler):
    before = pipe.scheduler
    with pytest.raises(ConfigError, match="scheduler: .*(does not fit|is none)"):
        pipe.scheduler = scheduler
    assert pipe.scheduler is before
    with pytest.raises(ConfigError, match="scheduler: "):
        LensPipeline(**pipe.components | dict(scheduler=scheduler))


def test_levels_of_ones_own(pipe):
    usual = draw(pipe, guidance_scale=1.0)
    assert torch.equal(draw(pipe, guidance_scale=1.0, sigmas=EVEN), usual)
    mine = [1.0, 0.6, 0.2]
    wanted = by_hand(pipe, copy.deepcopy(pipe.scheduler), mu=MU, sigmas=mine)
    for levels in (mine, tuple(mine), np.array(mine), torch.tensor(mine)):
        assert close(draw(pipe, guidance_scale=1.0, sigmas=levels), wanted, 1e-5)
    times = pipe.plan(6, 3, None, None, "euler").timesteps
    assert close(draw(pipe, guidance_scale=1.0, timesteps=times), usual)  # not shifted again
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    given = dict(timesteps=[900.0, 500, 100])
    wanted = by_hand(pipe, FlowMatchEulerDiscreteScheduler(shift=1.0), **given)
    assert close(draw(pipe, guidance_scale=1.0, **given), wanted, 1e-5)
    with pytest.warns(
        UserWarning, match="num_inference_steps: 3 is not used, since sigmas names 2"
    ):
        draw(pipe, sigmas=[0.9, 0.4])
    assert pipe.num_timesteps == 2


@pytest.mark.parametrize(
    "levels",
    [
        [],
        [1.0, 0.5, 0.5],
        [0.2, 0.5],
        [1.5, 0.5],
        [1.0, 0.0],
        [1.0, -0.1],
        [1.0, math.nan],
        [math.inf],
        ["1.0"],
        [True, 0.5],
        [[1.0]],
        np.ones((2, 2)),
        1.0,
        "auto",
        dict(a=1.0),
    ],
)
def test_levels_that_cannot_be_are_named(pipe, levels):
    with pytest.raises(DataError, match="sigmas: "):
        draw(pipe, sigmas=levels)
    numbers = isinstance(levels, list) and all(isinstance(x, float) for x in levels)
    scaled = [1000 * x for x in levels] if numbers else levels
    with pytest.raises(DataError, match="timesteps: "):
        draw(pipe, timesteps=scaled)


def test_levels_that_a_scheduler_does_not_take_are_named(pipe):
    with pytest.raises(DataError, match="sigmas, timesteps: give one of them"):
        draw(pipe, sigmas=[1.0], timesteps=[1000])
    pipe.scheduler = FlowMatchHeunDiscreteScheduler()
    for name, levels in (("sigmas", [1.0, 0.5]), ("timesteps", [1000, 500])):
        with pytest.raises(DataError, match=f"{name}: FlowMatchHeun.* takes none"):
            draw(pipe, **{name: levels})
    with pytest.raises(ConfigError, match="solver: 'heun' needs the levels"):
        draw(pipe, solver="heun")
    pipe.scheduler = DPMSolverMultistepScheduler(**FLOW)
    with pytest.raises(DataError, match="timesteps: DPM.* takes none"):
        draw(pipe, timesteps=[900, 400])


def test_a_scheduler_that_draws_noise_draws_it_from_the_seed(pipe):
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
    a, b = draw(pipe), draw(pipe)
    assert torch.equal(a, b) and not close(a, draw(pipe, seed=2), 1e-2)
    two = draw(
        pipe, ["a red cat"] * 2, generator=[torch.Generator().manual_seed(i) for i in (1, 2)]
    )
    assert close(two[:1], a)


# ---- threads


def together(*calls, rounds=1):
    "Results of the calls, each in a thread of its own, all let go at once in every round."
    meet, results, errors = threading.Barrier(len(calls)), [[] for _ in calls], []

    def run(i, call):
        try:
            for _ in range(rounds):
                meet.wait(20)
                results[i].append(call())
        except Exception as e:
            errors.append(e)
            meet.abort()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    return results


def test_two_threads_read_what_one_reads(tiny):
    "Without the cache, so that each reads; one prompt is long, and their layers differ."
    gpt = tiny.text_encoder.model.full
    readers = HFGptOss(gpt), HFGptOss(gpt)
    ids = torch.randint(20, 90, (1, 6)), torch.randint(20, 90, (2, 31))
    layers = (1, 3), (0, 2, 4)
    kept = list(gpt.model.layers)

    def read(i):
        with torch.no_grad():
            return readers[i].features(ids[i], torch.ones_like(ids[i]).bool(), layers[i])

    alone = [read(i) for i in (0, 1)]
    for i, found in enumerate(together(lambda: read(0), lambda: read(1), rounds=30)):
        for states in found:
            assert all(close(a, b) for a, b in zip(states, alone[i], strict=True))
    assert list(gpt.model.layers) == kept and not any(m._forward_hooks for m in gpt.modules())


def test_two_threads_of_which_each_evicts_the_others_prompt(tiny):
    encoder = tiny.text_encoder
    prompts = ["a red cat", "two very small blue dogs beside a house"]
    alone = [tuple(encoder.encode([p])[0]) for p in prompts]
    encoder.cache, size = 1, encoder.cache
    try:
        calls = [lambda p=p: encoder.encode([p])[0] for p in prompts]
        found = together(*calls, lambda: encoder.encode(prompts)[0], rounds=15)
    finally:
        encoder.cache = size
    for i in (0, 1):
        assert all(
            close(a, b) for states in found[i] for a, b in zip(states, alone[i], strict=True)
        )
    assert all(len(states[0]) == 2 for states in found[2]) and len(encoder.known) <= 1


def test_two_threads_draw_what_one_draws(tiny):
    pipe = LensPipeline(**tiny.components)
    asks = [
        dict(prompt="a red cat", seed=1, guidance_scale=3.0),
        dict(prompt=["a dog", "a house by the sea"], seed=2, guidance_scale=1.0, solver="heun"),
    ]
    alone = [draw(pipe, **ask) for ask in asks]
    pipe.text_encoder.known.clear()
    calls = [lambda ask=ask: draw(pipe, **ask) for ask in asks]
    for images, wanted in zip(together(*calls, rounds=5), alone):
        assert all(close(x, wanted) for x in images)


def test_an_interruption_ends_its_own_call_and_no_other(tiny):
    pipe, seen = LensPipeline(**tiny.components), []

    def stop(p, i, t, tensors):
        p._interrupt = i == 1
        seen.append(p.interrupt)

    def count(p, i, t, tensors):
        assert not p.interrupt and p.guidance_scale == 3.0

    stopped = lambda: draw(pipe, num_inference_steps=8, callback_on_step_end=stop)
    whole = lambda: draw(
        pipe, num_inference_steps=8, callback_on_step_end=count, guidance_scale=3.0
    )
    alone = whole()
    results = together(stopped, whole)
    assert seen == [False, True] and close(results[1][0], alone)
    assert not close(results[0][0], draw(pipe, num_inference_steps=8), 1e-3)


def test_a_stop_button_in_another_thread_ends_the_call(tiny):
    pipe, steps = LensPipeline(**tiny.components), []

    def press(p, i, t, tensors):
        steps.append(i)
        if i == 2:
            button = threading.Thread(target=setattr, args=(pipe, "_interrupt", True))
            button.start()
            button.join()

    draw(pipe, num_inference_steps=8, callback_on_step_end=press)
    assert steps == [0, 1, 2]
    steps.clear()
    draw(pipe, num_inference_steps=2, callback_on_step_end=press)  # it does not stay
    assert steps == [0, 1]


def test_offloaded_parts_serve_one_call_at_a_time(tiny):
    parts = {k: copy.deepcopy(v) for k, v in tiny.components.items() if k in ("transformer", "vae")}
    pipe = LensPipeline(**tiny.components | parts)
    alone = [draw(pipe, seed=i, output_type="pt") for i in (1, 2)]
    pipe.enable_model_cpu_offload(device="cpu")
    inside, most = [], []
    forward = pipe.transformer.forward

    def watched(*args, **kwargs):
        inside.append(1)
        most.append(len(inside))
        out = forward(*args, **kwargs)
        inside.pop()
        return out

    pipe.transformer.forward = watched
    drawn = together(*[lambda i=i: draw(pipe, seed=i, output_type="pt") for i in (1, 2)], rounds=3)
    assert all(close(x, alone[i]) for i in (0, 1) for x in drawn[i]) and max(most) == 1


def test_a_text_encoder_that_visits_is_not_sent_away_while_another_reads(tiny):
    pipe = LensPipeline(**tiny.components, offload=True)
    encoder, where = pipe.text_encoder, []
    move, read = encoder.to, encoder.model.features

    def moving(device=None, dtype=None):
        where.append(str(device))
        return move(device, dtype)

    def reading(*args):
        where.append("reads")
        return read(*args)

    encoder.to, encoder.model.features = moving, reading
    encoder.known.clear()
    try:
        together(*[lambda p=p: pipe.encode_prompt(p) for p in ("a cat", "a dog", "a hen")])
    finally:
        del encoder.to
        encoder.model.features = read
    assert where == ["cpu", "reads", "cpu"] * 3


def test_an_error_leaves_the_pipeline_as_it_was(pipe):
    def fail(*args):
        raise RuntimeError("of the callback")

    with pytest.raises(RuntimeError, match="of the callback"):
        draw(pipe, callback_on_step_end=fail)
    assert torch.equal(draw(pipe), draw(pipe)) and not pipe.interrupt
    copied = copy.deepcopy(pipe)
    assert torch.equal(draw(copied), draw(pipe))
    assert json.dumps(pipe.defaults)
