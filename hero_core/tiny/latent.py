"""Facts about the tiny model's latents, measured when the weights were made; `train.py` prints them."""

LATENT_SCALE = 0.4337
"""``z = LATENT_SCALE * vae.encode(x)`` has a standard deviation of about 1."""

LATENT_RGB_FACTORS = [
    [0.4268, -0.0786, 0.1667],
    [0.1752, 0.4252, -0.0587],
    [-0.0608, 0.1787, 0.3756],
    [-0.3161, -0.4137, -0.1919],
]
"""4x3: a linear preview ``rgb = z @ factors + bias`` of latents in the model's own scale, rgb in [-1, 1]."""

LATENT_RGB_BIAS = [0.0181, 0.1207, 0.154]
"""The bias of `LATENT_RGB_FACTORS`."""
