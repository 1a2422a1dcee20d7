"The toy's autoencoder: its training resumes exactly, its files load and give what they gave."

import pytest
import torch

from lens_ref.core.config import ConfigError
from lens_ref.core.files import data_path
from lens_ref.core.loop import Learner, train
from lens_ref.pretrain.toy import ToyWorld
from lens_ref.vae.autoencoder import (
    ImageBatches,
    ToyVAE,
    decode,
    encode,
    psnr,
    vae_config,
    vae_loss,
    vae_optimiser,
    vae_step,
)


class Killed(Exception):
    pass


def drawn(dies_at=None):
    def draw(step):
        if step == dies_at:
            raise Killed
        return ToyWorld().images(0, step, 2)

    return ImageBatches(draw)


def autoencoder(seed=0, **changes):
    torch.manual_seed(seed)
    model = ToyVAE(width=8).to(memory_format=torch.channels_last)
    config = vae_config(6, batch_size=2, checkpoint_every=2, log_every=1, **changes)
    return Learner(model, config, vae_optimiser(model, config))


def run(learner, data, folder=None):
    for _ in train(learner, vae_step, data, folder=folder, log=lambda line: None):
        pass
    return learner.model.state_dict()


def test_training_killed_and_resumed_is_bit_equal(tmp_path):
    first = autoencoder()
    whole = run(first, drawn())
    assert first.history[-1]["psnr"] > first.history[0]["psnr"]
    with pytest.raises(Killed):
        run(autoencoder(), drawn(dies_at=3), tmp_path)
    again = run(autoencoder(seed=1), drawn(), tmp_path)  # all must come from the file
    assert all(torch.equal(v, again[k]) for k, v in whole.items())
    with pytest.raises(ConfigError, match="lr"):
        run(autoencoder(lr=1e-4), drawn(), tmp_path)


def test_the_loss_draws_nothing_itself():
    "Without noise on the latents the loss is that of the mean, and it is the same each time."
    vae, images = ToyVAE(width=8), ToyWorld().images(0, 0, 2)
    noise = torch.zeros(2, 16, 8, 8)
    one, two = (vae_loss(vae, images, noise) for _ in range(2))
    assert torch.equal(one[0], two[0])
    mean = vae.decode(vae.encode(images).latent_dist.mode()).sample
    wanted = 10 * torch.log10(4 / (mean - images).square().mean())
    assert torch.allclose(one[1], wanted, atol=1e-4)


def test_the_shipped_autoencoder_gives_what_it_gave():
    vae = ToyVAE.from_pretrained(data_path("toy", "vae"), torch_dtype=torch.float32).eval()
    images = ToyWorld().images(1, 0, 16)
    tokens = encode(vae, images)
    assert decode(vae, tokens, (4, 4)).shape == images.shape
    assert psnr(vae, images) == pytest.approx(29.690, abs=5e-3)
