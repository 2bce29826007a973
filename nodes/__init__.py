"""The ComfyUI nodes, one file each, and what they share."""
