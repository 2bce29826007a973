"""Facts about the tiny model's latents, measured when the weights were made; `train.py` prints them."""

LATENT_SCALE = 0.9981
"""``z = LATENT_SCALE * vae.encode(x)`` has a standard deviation of about 1."""

LATENT_RGB_FACTORS = [
    [-0.0343, -0.0357, -0.0329],
    [-0.0553, 0.1525, -0.0729],
    [-0.251, 0.0157, 0.1948],
    [-0.4772, -0.435, -0.4264],
]
"""4x3: a linear preview ``rgb = z @ factors + bias`` of latents in the model's own scale, rgb in [-1, 1]."""

LATENT_RGB_BIAS = [0.0536, 0.0853, 0.1159]
"""The bias of `LATENT_RGB_FACTORS`."""
