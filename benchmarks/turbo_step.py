"""Memory and seconds of a Turbo update, random weights: python benchmarks/turbo_step.py [OPTIONS]

The released size by default: --preset lens --device cuda --lora-rank 64; see --help."""

import argparse
import json
import time

import torch

from lens_ref.dit.presets import preset
from lens_ref.dit.transformer import LensTransformer2DModel, init_weights
from lens_ref.pretrain.pipeline import LensPipeline
from lens_ref.turbo.config import TurboConfig
from lens_ref.turbo.rounds import new_turbo, run_turbo
from lens_ref.vae.autoencoder import ToyVAE


class Noise:
    "Captions and latents of random numbers."

    def __init__(self, config, batch, side, words, device):
        g, n = torch.Generator(device).manual_seed(0), (side // 16) ** 2
        draw = lambda *shape: torch.randn(*shape, generator=g, device=device)
        text = [draw(batch, words, config.enc_hidden_dim) for _ in config.selected_layer_index]
        self.one = dict(
            latents=draw(batch, n, config.in_channels),
            text=text,
            text_mask=torch.ones(batch, words, dtype=torch.bool, device=device),
            grid=(side // 16, side // 16),
        )

    def batch(self, step):
        return self.one

    def state_dict(self):
        return {}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for name, default in dict(
        preset="lens",
        device="cuda",
        lora_rank=64,
        batch=1,
        side=1024,
        words=150,
        updates=3,
        gan=0.001,
    ).items():
        p.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    a = p.parse_args()
    model, gpu = preset(a.preset), a.device.startswith("cuda")
    with torch.device(a.device):
        net = torch.nn.Module.to(
            init_weights(LensTransformer2DModel(**model.to_dict())),
            torch.bfloat16 if gpu else torch.float32,
        )
    net.enable_gradient_checkpointing()
    config = TurboConfig.preset(
        "lens",
        batch_size=a.batch,
        steps=a.updates,
        lora_rank=a.lora_rank,
        gan=a.gan,
        precision="bf16" if gpu else "fp32",
        ema=0.0,
    )
    run = new_turbo(
        LensPipeline(net, ToyVAE()), Noise(model, a.batch, a.side, a.words, a.device), config
    )
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    times, last = [], time.perf_counter()
    for _ in run_turbo(run, log=lambda line: None):
        times.append(time.perf_counter() - last)
        last = time.perf_counter()
    print(
        json.dumps(
            dict(
                vars(a),
                card=torch.cuda.get_device_name() if gpu else "CPU",
                seconds_an_update=round(min(times), 3),
                peak_gb=round(torch.cuda.max_memory_allocated() / 1e9, 1) if gpu else None,
            )
        )
    )


if __name__ == "__main__":
    main()
