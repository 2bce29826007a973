"""Facts about the tiny model's latents, measured when the weights were made; `train.py` prints them."""

LATENT_SCALE = 0.9972
"""``z = LATENT_SCALE * vae.encode(x)`` has a standard deviation of about 1."""

LATENT_RGB_FACTORS = [
    [-0.0331, -0.0347, -0.0327],
    [-0.0619, 0.1483, -0.0742],
    [-0.2467, 0.0158, 0.1898],
    [-0.4759, -0.4329, -0.4272],
]
"""4x3: a linear preview ``rgb = z @ factors + bias`` of latents in the model's own scale, rgb in [-1, 1]."""

LATENT_RGB_BIAS = [0.0538, 0.0843, 0.1141]
"""The bias of `LATENT_RGB_FACTORS`."""
