# SPDX-License-Identifier: Apache-2.0
"""Facts about the tiny model's latents, measured when the weights were made; `train.py` prints them."""

LATENT_SCALE = 0.9993
"""``z = LATENT_SCALE * vae.encode(x)`` has a standard deviation of about 1."""

LATENT_RGB_FACTORS = [
    [-0.0350, -0.0366, -0.0341],
    [-0.0548, 0.1542, -0.0730],
    [-0.2483, 0.0156, 0.1922],
    [-0.4784, -0.4369, -0.4261],
]
"""4x3: a linear preview ``rgb = z @ factors + bias`` of latents in the model's own scale, rgb in [-1, 1]."""

LATENT_RGB_BIAS = [0.0525, 0.0831, 0.1134]
"""The bias of `LATENT_RGB_FACTORS`."""
