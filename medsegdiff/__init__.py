"""Diffusion models that segment medical images, 2-D and 3-D, as MONAI components."""

__version__ = "0.1.0"
