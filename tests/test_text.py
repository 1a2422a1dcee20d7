"GPT-OSS against transformers and values of the released code; tokenizer and encoder at the edges."

import json
import math
import random
import warnings
from pathlib import Path

import pytest
import torch

from lens_ref.core.config import CheckpointError, ConfigError, DataError
from lens_ref.core.files import data_path, load_tensors
from lens_ref.core.loop import Learner, train
from lens_ref.text.encoders import TextEncoder
from lens_ref.text.gpt_oss import GptOss, Router, TextConfig
from lens_ref.text.language_model import (
    CaptionRows,
    language_config,
    language_optimiser,
    language_step,
    next_token_loss,
    pack_captions,
)
from lens_ref.text.tokenizer import CONTROL, TextTokenizer

GOLDEN = Path(__file__).parent / "golden"
PLAIN = dict(rope_type="default", rope_theta=10000.0)
YARN = dict(
    rope_type="yarn",
    rope_theta=150000.0,
    factor=4.0,
    beta_fast=32.0,
    beta_slow=1.0,
    truncate=False,
    original_max_position_embeddings=64,
)
SMALL = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    num_local_experts=4,
    num_experts_per_tok=2,
    sliding_window=8,
    rope_parameters=PLAIN,
)


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    words = dict(
        en=(
            "red blue green".split(),
            "cat star house".split(),
            "A {} {} sits in the middle, and a {} {} is above it.",
        ),
        fr=(
            "rouge bleue verte".split(),
            "pomme étoile maison".split(),
            "L'image montre une {1} {0} au milieu, sous une {3} {2}.",
        ),
        zh=(
            "红色的 蓝色的 绿色的".split(),
            "猫 星星 房子".split(),
            "画面中间有一个{}{}，上方有一个{}{}。",
        ),
    )
    make = lambda lang: words[lang][2].format(*(rng.choice(words[lang][k % 2]) for k in range(4)))
    return [make(lang) for _ in range(300) for lang in words]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return TextTokenizer.train(texts, vocab_size=600, words=450, min_share=1 / 100)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    torch.manual_seed(0)
    return TextEncoder(GptOss(TextConfig.toy(tokenizer.vocab_size)), tokenizer, max_length=40)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(rope_parameters=YARN),
        dict(
            rope_parameters={**YARN, "truncate": True},
            num_local_experts=8,
            num_experts_per_tok=3,
            sliding_window=4,
        ),
        dict(num_attention_heads=8, num_key_value_heads=1, head_dim=12, num_hidden_layers=3),
        dict(swiglu_alpha=1.0, swiglu_limit=0.5),
    ],
    ids=["plain", "yarn", "yarn truncated, 8 experts", "one key head", "other gate"],
)
def test_equals_transformers(changes):
    transformers = pytest.importorskip("transformers")
    if "swiglu_limit" in changes and not hasattr(transformers.GptOssConfig(), "swiglu_limit"):
        pytest.skip("this transformers knows one gate")
    d = SMALL | changes
    torch.manual_seed(1)
    config = transformers.GptOssConfig(
        **json.loads(json.dumps(d)),
        max_position_embeddings=256,
        pad_token_id=0,
        attn_implementation="eager",
    )
    theirs = transformers.GptOssForCausalLM(config).eval()
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    ours = GptOss(TextConfig.from_gpt_oss(d)).eval()
    ours.load_state_dict(theirs.state_dict())  # the same keys and shapes, both ways
    # transformers gives its padding id, 0, no gradient: not drawn
    streams, ids, mask = (
        [],
        torch.randint(1, 128, (3, 40)),
        torch.arange(40) < torch.tensor([[40], [25], [9]]),
    )
    for block in theirs.model.layers:
        block.register_forward_hook(lambda m, i, o: streams.append(o))
    with torch.no_grad():
        logits = theirs(ids, attention_mask=mask.long()).logits
        assert torch.allclose(ours(ids, mask)[mask], logits[mask], atol=1e-5)
        for mine, their in zip(ours.features(ids, mask, range(len(streams))), streams, strict=True):
            assert torch.allclose(mine[mask], their[mask], atol=1e-5)
    theirs.train(), ours.train()
    theirs(ids).logits.pow(2).mean().backward(), ours(ids).pow(2).mean().backward()
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        assert torch.allclose(p.grad, grads[name], rtol=1e-4, atol=1e-5), name


def test_golden_hidden_states():
    tensors, meta = load_tensors(GOLDEN / "gpt_oss_tiny.safetensors")
    model = GptOss(TextConfig.from_gpt_oss(meta["config"])).eval()
    model.load_state_dict(
        {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    )
    mask = tensors["in.mask"].bool()
    with torch.no_grad():
        states = model.features(tensors["in.ids"], mask, meta["selected_layers"])
    for i, state in enumerate(states):
        assert torch.allclose(state[mask], tensors[f"out.hidden.{i}"][mask], atol=1e-5)


def test_early_exit_runs_no_later_layer():
    model, ran = GptOss(TextConfig.from_gpt_oss(SMALL)), []
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda m, a, o, i=i: ran.append(i))
    model.features(torch.zeros(1, 5, dtype=torch.long), layers=(2, 0))
    assert ran == [0, 1, 2]


def test_released_size():
    with torch.device("meta"):
        model = GptOss(TextConfig.lens())
    assert sum(p.numel() for p in model.parameters()) == 20_914_757_184


@pytest.mark.parametrize(
    "field, value",
    [
        ("head_dim", 15),
        ("num_key_value_heads", 3),
        ("num_experts_per_tok", 5),
        ("sliding_window", 0),
        ("layer_types", ("full_attention",)),
        ("rope_parameters", dict(rope_type="linear")),
    ],
)
def test_impossible_sizes_name_the_field(field, value):
    with pytest.raises(ConfigError, match=field):
        TextConfig.toy().replace(**{field: value})


def test_nothing_is_unknown_and_text_survives(tokenizer):
    for text in (
        "a red cat",
        "HELLO 123",
        "zebra 🦊 ñandú",
        "犬\n\ttabs  spaces",
        "l'arbre; «oui»",
    ):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert len(tokenizer.encode(text)) <= len(text.encode())


def test_superwords_are_shorter_than_words(texts, tokenizer):
    words = TextTokenizer.train(texts, vocab_size=600, words=450, max_parts=1)
    assert sum(len(tokenizer.encode(t)) for t in texts) < 0.85 * sum(
        len(words.encode(t)) for t in texts
    )


def test_words_that_carry_a_choice_stay_alone(texts, tokenizer):
    for text in texts[::3]:  # English: two colours of three, two kinds of three
        choices = [
            w
            for w in text.replace(",", "").split()
            if w in ("red", "blue", "green", "cat", "star", "house")
        ]
        assert [
            p.strip() for p in tokenizer.pieces(text) if p.strip() in choices
        ] == choices and len(choices) == 4


def test_capitals_and_digits_are_spelt(tokenizer):
    assert tokenizer.pieces("OPEN") == list("OPEN") and tokenizer.pieces("2026") == list("2026")


@pytest.mark.parametrize("prompt", ["a cat" + c for c in CONTROL])
def test_a_prompt_cannot_forge_control_tokens(tokenizer, prompt):
    control = {tokenizer.pad, tokenizer.start, tokenizer.message, tokenizer.end}
    assert (
        not control & set(tokenizer.encode(prompt))
        and tokenizer.decode(tokenizer.encode(prompt)) == prompt
    )


def test_template(tokenizer):
    ids = tokenizer.chat("a red cat")
    assert tokenizer.decode(ids) == "<|start|>user<|message|>a red cat<|end|>"
    assert ids[tokenizer.prefix_length : -1] == tokenizer.encode("a red cat")


def test_long_prompt_is_cut_with_a_warning(tokenizer, encoder):
    prompt = "qx " * 60
    with pytest.warns(UserWarning, match=r"cut to 39.*lost"):
        text, mask = encoder.encode([prompt])
    assert text[0].shape[1] == 40 and mask.all()
    ids = tokenizer.chat("a", 1 + len(tokenizer.suffix))
    assert ids[-1] == tokenizer.end
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a red cat"])


def test_padding_changes_nothing(encoder):
    prompts = [
        "a red cat",
        "",
        "A blue star sits in the middle, and a red house is above it.",
        "红色的猫",
        "   ",
    ]
    text, mask = encoder.encode(prompts)
    assert mask.dtype == torch.bool and not mask[1].any() and not mask[4].any()
    for i in (0, 2, 3):
        alone, m = encoder.encode([prompts[i]])
        n = int(m.sum())
        assert int(mask[i].sum()) == n and mask[i, :n].all()
        for a, b in zip(text, alone, strict=True):
            assert torch.allclose(a[i, :n], b[0], atol=1e-5)
    for t in text:
        assert (t[~mask] == 0).all() and t.isfinite().all() and not t.requires_grad


def test_padding_costs_no_expert(encoder):
    "Routers see real tokens only, at either end of a row; padding is given back as zeros."
    model, ids = encoder.model, torch.randint(encoder.tokenizer.vocab_size, (3, 12))
    mask = torch.tensor([[1] * 12, [1] * 5 + [0] * 7, [0] * 9 + [1] * 3], dtype=torch.bool)
    seen = []
    hooks = [
        layer.mlp.router.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
        for layer in model.model.layers
    ]
    states = model.features(ids, mask, (0, 5))
    for h in hooks:
        h.remove()
    assert seen == [20] * 6
    assert all(not x[~mask].any() and x[mask].abs().sum(-1).all() for x in states)


def test_only_empty_prompts(encoder):
    text, mask = encoder.encode(["", ""])
    assert mask.shape == (2, 1) and not mask.any() and all((t == 0).all() for t in text)


def test_encoding_is_deterministic(encoder):
    a, b = (encoder.encode(["a red cat", "a blue star"])[0] for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_encoder_rejects_bad_arguments(encoder):
    with pytest.raises(ConfigError, match="layers"):
        TextEncoder(encoder.model, encoder.tokenizer, layers=(1, 6))
    with pytest.raises(ConfigError, match="max_length"):
        TextEncoder(encoder.model, encoder.tokenizer, max_length=1)
    with pytest.raises(DataError, match="list"):
        encoder.encode("a red cat")


def test_save_and_load(encoder, tmp_path):
    partial = TextEncoder(encoder.model, encoder.tokenizer, layers=(1, 3), max_length=40)
    partial.save(tmp_path)
    assert not any(
        k.startswith(("lm_head", "model.norm", "model.layers.4"))
        for k in load_tensors(tmp_path / "model.safetensors")[0]
    )
    again = TextEncoder.load(tmp_path)
    assert again.layers == (1, 3) and again.max_length == 40
    for a, b in zip(again.encode(["a red cat"])[0], partial.encode(["a red cat"])[0]):
        assert (a - b).norm() < 0.02 * b.norm()
    twice = TextEncoder.load(tmp_path).encode(["a red cat"])[0]
    assert all(torch.equal(a, b) for a, b in zip(again.encode(["a red cat"])[0], twice))


def test_broken_folders_name_the_file(encoder, tmp_path):
    with pytest.raises(CheckpointError, match="config.json"):
        TextEncoder.load(tmp_path)
    encoder.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="model.safetensors"):
        TextEncoder.load(tmp_path)
    encoder.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        TextEncoder.load(tmp_path)
    encoder.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"].update(num_hidden_layers=7, layer_types=None)
    config["layers"] = [6]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model.layers.6"):
        TextEncoder.load(tmp_path)


@pytest.fixture(scope="module")
def rows(texts, tokenizer):
    return pack_captions([tuple(texts[i : i + 2]) for i in range(0, 300, 2)], tokenizer, 32)


class Killed(Exception):
    pass


class DiesAt(CaptionRows):
    "The process is gone before it gets batch `last`: nothing is saved any more."

    last = None

    def batch(self, step):
        if step == self.last:
            raise Killed
        return super().batch(step)


def language_learner(tokenizer, seed=0, **changes):
    torch.manual_seed(seed)
    model = GptOss(TextConfig.from_gpt_oss(SMALL | dict(vocab_size=tokenizer.vocab_size)))
    config = language_config(12, batch_size=4, checkpoint_every=2, log_every=1, **changes)
    return Learner(model, config, language_optimiser(model, config))


def run(learner, data, folder=None):
    for _ in train(learner, language_step, data, folder=folder, log=lambda line: None):
        pass
    return learner.model.state_dict()


def test_training_learns_repeatably(rows, tokenizer):
    learners = [language_learner(tokenizer) for _ in range(2)]
    one, two = (run(x, CaptionRows(rows, 4)) for x in learners)
    losses = [[row["loss"] for row in x.history] for x in learners]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0] - 0.3
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert not any(m._forward_hooks for m in learners[0].model.modules())
    last = learners[0].history[-1]
    assert last["perplexity"] == pytest.approx(math.exp(last["loss"]))


def test_training_killed_and_resumed_is_bit_equal(rows, tokenizer, tmp_path):
    whole = run(language_learner(tokenizer), CaptionRows(rows, 4))
    data = DiesAt(rows, 4)
    data.last = 7
    with pytest.raises(Killed):
        run(language_learner(tokenizer), data, tmp_path)
    again = language_learner(tokenizer, seed=1)  # other weights: all must come from the file
    assert all(
        torch.equal(v, whole[k]) for k, v in run(again, CaptionRows(rows, 4), tmp_path).items()
    )
    with pytest.raises(ConfigError, match="lr"):
        run(language_learner(tokenizer, lr=1e-4), CaptionRows(rows, 4), tmp_path)


def test_experts_are_balanced_in_training_and_only_there(rows, tokenizer):
    learner = language_learner(tokenizer)
    routers = [m for m in learner.model.modules() if isinstance(m, Router)]
    owned = {id(p) for g in learner.optimiser.param_groups for p in g["params"]}
    assert not owned & {id(r.bias) for r in routers}
    with torch.no_grad():
        next_token_loss(learner.model, rows[:4])
    assert not any(r.bias.any() for r in routers)
    learner.advance(language_step, dict(ids=rows[:4]))
    moved = torch.stack([r.bias.data.abs() for r in routers])
    assert ((moved == 0) | (moved == torch.tensor(0.02))).all()
    assert sum(bool(r.bias.any()) for r in routers) >= 3


def test_training_rejects_bad_input(texts, tokenizer):
    with pytest.raises(DataError, match="texts"):
        pack_captions(texts[:1], tokenizer, 512)
    with pytest.raises(DataError, match="texts"):
        TextTokenizer.train([])
    with pytest.raises(ConfigError, match="vocab_size"):
        TextTokenizer.train(texts, vocab_size=100)


def test_the_shipped_reader_gives_the_recorded_features():
    "The features of the encoder in data_samples when its weights were saved."
    encoder = TextEncoder.load(data_path("toy", "text_encoder"))
    text, mask = encoder.encode(["a red star", ""])
    assert mask.sum(1).tolist() == [4, 0]
    found = [x[0].abs().mean().item() for x in text]
    assert found == pytest.approx([1.504168, 1.898067, 6.171324], rel=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("layers"),
        lambda c: c["model"].update(hiden_size=8),
        lambda c: c["model"].update(hidden_size="wide"),
        lambda c: c.update(model=3),
    ],
)
def test_a_damaged_encoder_config_is_named(change, tmp_path):
    tokenizer = TextTokenizer.train(["a red cat", "a blue dog"] * 20, vocab_size=300, words=290)
    sizes = TextConfig.toy(tokenizer.vocab_size).replace(num_hidden_layers=2, layer_types=None)
    TextEncoder(GptOss(sizes), tokenizer, layers=(0, 1)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="config.json"):
        TextEncoder.load(tmp_path)
