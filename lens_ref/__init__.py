"""A readable reference implementation of the Lens text-to-image model, built from notebooks."""

__version__ = "0.1.0"

# What most users want, found where it is defined when it is asked for: importing the package loads nothing.
_NAMES = {
    "LensPipeline": "pretrain.pipeline",
    "LensTransformer2DModel": "dit.transformer",
    "TextEncoder": "text.encoders",
    "ToyVAE": "vae.autoencoder",
    "data_path": "core.files",
    "load_released": "lens.released",
    "tiny_released": "lens.released",
    "caption_files": "data.captioner",
    "filter_folder": "data.filters",
}


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_NAMES])
