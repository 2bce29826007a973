# SPDX-License-Identifier: Apache-2.0
"""HERO: online human-feedback fine-tuning of diffusion models, independent of any host program."""

__version__ = "0.1.0"
