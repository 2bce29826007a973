# SPDX-License-Identifier: Apache-2.0
"""A real latent-diffusion model at toy size, with its scenes, tasks and judges; nothing to download."""
