# SPDX-License-Identifier: Apache-2.0
"""The ComfyUI nodes, one file each, and what they share."""
