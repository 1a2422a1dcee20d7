"""A readable reference implementation of the Lens text-to-image model, built from notebooks."""

from lens_ref.core.registration import register as _register

__version__ = "0.1.0"
_register()  # diffusers' own loaders find LensPipeline; this imports nothing of diffusers

# The documented API, found where it is defined when it is asked for: importing loads nothing.
_NAMES = {
    "LensPipeline": "pretrain.pipeline",
    "LensTransformer2DModel": "dit.transformer",
    "ToyVAE": "vae.autoencoder",
    "TextEncoder": "text.encoders",
    "data_path": "core.files",
    "load_released": "lens.released",
    "tiny_released": "lens.released",
    "Learner": "core.loop",
    "LoopConfig": "core.loop",
    "TrainConfig": "pretrain.step",
    "train": "core.loop",
    "fit": "core.loop",
    "Combined": "rl.judges",
    "EndpointJudge": "rl.judges",
    "OcrJudge": "rl.judges",
    "ScorerJudge": "rl.judges",
    "agreement": "rl.judges",
    "EndpointReasoner": "reasoner.models",
    "GptOssReasoner": "reasoner.models",
    "pad_batches": "pretrain.buckets",
    "caption_files": "data.captioner",
    "filter_folder": "data.filters",
    "tabled": "data.filters",
    "hub_embedder": "data.duplicates",
}


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_NAMES])
