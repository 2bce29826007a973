"""Update rules, one file each, one signature:

``update(policy, lora, rollout, reward, settings, *, seed, progress) -> (LoRAState, metrics)``.
"""
