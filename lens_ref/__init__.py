"""A readable reference implementation of the Lens text-to-image model, built from notebooks."""
__version__ = "0.1.0"
