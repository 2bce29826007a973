"""Update rules, one file each, one signature:

``update(policy, lora, rollout, rewards, settings, *, seed, progress) -> (LoRAState, metrics)``.
"""
