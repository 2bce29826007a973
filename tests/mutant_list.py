# SPDX-License-Identifier: Apache-2.0
"""The lines that :mod:`tests.mutants` breaks. Every one is a slip that was made or could be, on which results rest."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """``old`` occurs once in ``file`` and gives way to ``new``; at least one of ``tests`` must then fail."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _core(*names: str) -> tuple[str, ...]:
    """``test_x.py::test_y`` of the core suite."""
    return tuple(f"tests/core/{name}" for name in names)


EVERY = "test_every_setting.py::test_each_field_changes_what_comes_out"
SCORE = "hero_core/update/score_action.py"
GRADIENT = "hero_core/update/policy_gradient.py"

MUTANTS = [
    # -- the rows of an update, and what was recorded in others
    Mutant(
        "what other rows round otherwise is taken for learning", GRADIENT,
        "    if rows == rollout.rows or rollout.compact:\n", "    if rows:\n",
        _core("test_as_drawn.py::test_what_other_rows_round_otherwise_is_not_taken_for_learning"),
    ),
    Mutant(
        "an update takes the rows of the round", "hero_core/update/common.py",
        "min(self.micro_batch or rollout", "min(rollout",
        _core("test_as_drawn.py::test_an_update_takes_its_own_rows_and_learns_the_same"),
    ),
    Mutant(
        "a changed number of pictures is not told", "hero_core/loop.py",
        "    if kept.n != n:\n", "    if kept.n > n:\n",
        _core("test_as_drawn.py::test_another_number_of_pictures_is_for_the_next_round"),
    ),
    # -- what fits into memory
    Mutant(
        "what is not counted is forgotten", "hero_core/memory.py", ") * MARGIN + SPARE", ")",
        _core("test_memory.py::test_the_most_rows_that_fit_and_the_faster_way_where_there_is_room"),
    ),
    Mutant(
        "weights are taken to lie on the card whatever else does", "hero_core/memory.py",
        "max(self.free - self.weights, LEAST_SHARE * self.free)", "self.free - self.weights",
        _core("test_memory.py::test_the_most_rows_that_fit_and_the_faster_way_where_there_is_room"),
    ),
    Mutant(
        "a number that was named is lowered", "hero_core/memory.py", "rows > 1 and not exactly and", "rows > 1 and",
        _core("test_memory.py::test_who_names_a_number_gets_it"),
    ),
    Mutant(
        "a round is drawn again because other rows fit today", "hero_core/loop.py",
        "rows = settings.micro_batch or kept.settings.micro_batch", "rows = settings.micro_batch",
        _core("test_as_drawn.py::test_where_the_rows_are_open_the_look_says_how_many_and_the_round_keeps_them"),
    ),
    Mutant(
        "hooks of the copy that is counted hang on the model", "nodes/comfy_memory.py",
        "value.copy() if isinstance(value, dict | list) else value", "value",
        ("tests/comfy/test_fitting.py::test_the_model_that_was_counted_is_left_alone",),
    ),
    Mutant(
        "the host is not told what learning takes", "nodes/comfy_memory.py",
        "policy.need[work.grad] = choice.need", "policy.need[work.grad] = None",
        ("tests/comfy/test_fitting.py::test_the_host_leaves_as_much_room_as_was_reckoned",),
    ),
    Mutant(
        "what is alive is never taken off", "nodes/comfy_memory.py", "self.now -= size", "pass",
        ("tests/comfy/test_fitting.py::test_what_is_counted_without_numbers_is_what_lives_in_a_true_run",),
    ),
    # -- the tiny model, on which every figure of the bench rests
    Mutant(
        "guidance of the tiny model has one too much", "hero_core/tiny/policy.py",
        " * (wanted - plain)", " * (1 + wanted - plain)",
        _core("test_tiny_policy.py::test_guidance_and_its_sides_are_the_plain_computation"),
    ),
    Mutant(
        "the negative side of the tiny model is the positive one", "hero_core/tiny/policy.py",
        "return policy.model.denoise(x, sigma, policy.no_context.expand(len(x), -1, -1))",
        "return policy.model.denoise(x, sigma, policy.context.expand(len(x), -1, -1))",
        _core("test_tiny_policy.py::test_guidance_and_its_sides_are_the_plain_computation"),
    ),
    Mutant(
        "the positive prompt of the tiny model is the negative one", "hero_core/tiny/policy.py",
        "self.context = model.encode_prompt(prompt)", "self.context = model.encode_prompt(negative)",
        _core("test_tiny_policy.py::test_guidance_and_its_sides_are_the_plain_computation"),
    ),
    Mutant(
        "the first noise of the tiny model lacks the data's variance", "hero_core/tiny/model.py",
        "math.sqrt(1 + sigma**2) if at_top else sigma", "sigma",
        _core("test_tiny_policy.py::test_the_first_noise_has_the_variance_of_the_data_too"),
    ),
    Mutant(
        "training times of the tiny model run backwards", "hero_core/tiny/policy.py",
        "self.model.train_sigmas[(u * ", "self.model.train_sigmas[((1 - u) * ",
        _core("test_tiny_policy.py::test_training_times_run_from_the_cleanest_to_the_noisiest"),
    ),
    Mutant(
        "the flow's prediction goes along the velocity", "hero_core/tiny/model.py",
        "return x - levels[:, None, None, None] * velocity", "return x + levels[:, None, None, None] * velocity",
        _core("test_tiny_policy.py::test_the_flows_policy_guides_by_velocities_and_names_its_layers_as_its_family_does"),
    ),
    Mutant(
        "the flow's first noise has the data's variance too", "hero_core/tiny/model.py",
        "return z_T * sigma\n", "return z_T * (1 + sigma**2) ** 0.5\n",
        _core("test_tiny_policy.py::test_the_flows_policy_guides_by_velocities_and_names_its_layers_as_its_family_does"),
    ),
    Mutant(
        "the bench runs the UNet in the flow's place", "hero_core/bench/run.py",
        "load_tiny(kind=settings.model)", "load_tiny()",
        _core("test_bench.py::test_the_flow_goes_through_every_kind_of_update"),
    ),
    Mutant(
        "the tiny model wears a LoRA that was not loaded", "hero_core/tiny/policy.py",
        "adapters.load(lora.weights)", "pass",
        _core("test_tiny_policy.py::test_the_lora_is_worn_on_every_side"),
    ),
    # -- settings that do nothing
    Mutant(
        "NFT's centred is unplugged", "hero_core/update/nft.py",
        "goodness(reward, settings.source, settings.centred)", "goodness(reward, settings.source, True)", _core(EVERY),
    ),
    Mutant(
        "max_grad_norm is unplugged", "hero_core/update/common.py",
        "clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)",
        "clip_grad_norm_(self.parameters.values(), 1e9)",
        _core(EVERY, "test_lora.py::test_the_optimiser_goes_on_over_rounds_as_one_plain_adamw"),
    ),
    Mutant(
        "epochs of the policy gradient are unplugged", GRADIENT,
        "for epoch in range(self.settings.epochs):", "for epoch in range(1):", _core(EVERY),
    ),
    Mutant(
        "epochs of D3PO are unplugged", "hero_core/update/d3po.py",
        "for epoch in range(settings.epochs):", "for epoch in range(1):", _core(EVERY),
    ),
    Mutant(
        "DDPO's advantage_clip is unplugged", "hero_core/update/ddpo.py",
        "advantages(reward.rewards, settings.advantage_clip)", "advantages(reward.rewards, 5.0)", _core(EVERY),
    ),
    Mutant(
        "a KL that is measured now and then counts once", GRADIENT,
        "kl = self.settings.kl_every * kl if", "kl = kl if",
        _core("test_ddpo.py::test_a_kl_measured_now_and_then_weighs_as_much_as_one_measured_always"),
    ),
    # -- a round is learned from as it was drawn
    Mutant(
        "pictures are drawn with the guidance of the default", "hero_core/rollout.py",
        "grad=False, cfg=settings.cfg)", "grad=False, cfg=5.0)",
        _core("test_as_drawn.py::test_every_rule_guides_as_the_round_was_drawn"),
    ),
    Mutant(
        "DDPO learns with the guidance of the default", "hero_core/update/ddpo.py",
        "cfg=rollout.settings.cfg)", "cfg=5.0)",
        _core("test_as_drawn.py::test_every_rule_guides_as_the_round_was_drawn"),
    ),
    Mutant(
        "D3PO learns with the guidance of the default", "hero_core/update/d3po.py",
        "cfg=rollout.settings.cfg)", "cfg=5.0)",
        _core("test_as_drawn.py::test_every_rule_guides_as_the_round_was_drawn"),
    ),
    Mutant(
        "Scores as Actions learns with the guidance of the default", SCORE,
        "cfg=rollout.settings.cfg)", "cfg=5.0)",
        _core("test_as_drawn.py::test_every_rule_guides_as_the_round_was_drawn"),
    ),
    Mutant(
        "a guidance that is asked for is not the one that guides, on the tiny model", "hero_core/tiny/policy.py",
        "body(_TinyActor(self, adapters, cfg))", "body(_TinyActor(self, adapters, 5.0))",
        _core("test_tiny_policy.py::test_guidance_and_its_sides_are_the_plain_computation"),
    ),
    Mutant(
        "a guidance that is asked for is not the one that guides, in ComfyUI", "nodes/comfy_policy.py",
        "guider.set_cfg(cfg)", "guider.set_cfg(5.0)",
        ("tests/comfy/test_policy.py::test_each_side_of_guidance_can_be_had_alone",),
    ),
    # -- the LoRA
    Mutant(
        "the LoRA's Adam begins anew each round", "hero_core/update/common.py",
        "load_optimizer(self.optimizer, self.parameters, before.optimizer)",
        "load_optimizer(self.optimizer, self.parameters, {})",
        _core("test_lora.py::test_the_optimiser_goes_on_over_rounds_as_one_plain_adamw"),
    ),
    Mutant(
        "alpha is lost where a layer is written in parts", "hero_core/lora.py",
        "up[part.rows] * (state.config.alpha / state.config.rank)", "up[part.rows]",
        _core("test_lora.py::test_a_layer_that_others_have_in_parts_is_written_in_their_order_with_alpha_in_its_weights"),
    ),
    Mutant(
        "the hash in a LoRA's file is that of its header too", "hero_core/store/files.py",
        "memoryview(data)[header:]", "memoryview(data)",
        _core("test_metadata.py::test_a_saved_rounds_file_tells_of_all_marks_and_its_hash_is_that_of_its_tensors"),
    ),
    Mutant(
        "a round without recorded steps passes for one that has them", "hero_core/loop.py",
        "if not changes and (kept.recorded or not scored or round.marks().rev > 0):", "if not changes:",
        _core("test_loop.py::test_where_no_update_needs_recorded_steps_the_round_is_drawn_learned_from_and_saved_without_them"),
    ),
    Mutant(
        "a round of few steps is refused also where no update needs them", "nodes/sampler.py",
        "scored = learns_from_steps(graph, node_id)", "scored = True",
        ("tests/comfy/test_hostile_workflows.py::test_an_update_that_asks_for_what_it_will_not_get_is_told_before_the_round_is_drawn",),
    ),
    Mutant(
        "what the LoRA adds is not scaled", "hero_core/lora.py", "self.up) * self.scale", "self.up)",
        _core("test_lora.py::test_any_linear_layer_is_changed_by_the_product_in_float32_and_keeps_its_dtype"),
    ),
    Mutant(
        "sessions begun with other targets are locked out", "hero_core/store/session.py",
        "of_then = mine if called(mine) == called(asked) else asked", "of_then = asked",
        _core("test_loop.py::test_a_session_keeps_the_targets_of_its_first_day_whatever_a_later_version_would_choose"),
    ),
    Mutant(
        "what a block writes over is kept for the backward pass", "nodes/comfy_autograd.py",
        "return value.clone() if isinstance(value, Tensor) and value.is_floating_point() else value", "return value",
        ("tests/comfy/test_families.py::test_the_gradient_is_the_slope_of_the_loss",),
    ),
    Mutant(
        "the exported alpha is the rank", "hero_core/lora.py",
        "torch.tensor(state.config.alpha)", "torch.tensor(float(state.config.rank))",
        _core("test_lora.py::test_the_file_merged_by_hand_is_the_policy"),
    ),
    Mutant(
        "a fresh A is not divided by the rank", "hero_core/lora.py",
        "generator=generator) / config.rank", "generator=generator)",
        _core("test_lora.py::test_fresh_a_is_unit_noise_over_the_rank_and_b_is_zero"),
    ),
    Mutant(
        "kohya's up blocks are reversed", "hero_core/lora.py",
        "level, position = _level(int(place[0]), kind, counts)",
        "level, position = _level(int(place[0]), kind, counts)\n"
        "    level = levels - 1 - level if kind == 'output_blocks' else level",
        _core("test_lora.py::test_diffusers_loads_each_of_our_names_into_the_layer_that_was_trained"),
    ),
    Mutant(
        "kohya's up blocks have the sizes of the down blocks", "hero_core/lora.py",
        'res_blocks if kind == "input_blocks" else reversed(res_blocks)', "res_blocks",
        _core("test_lora.py::test_levels_of_their_own_sizes_are_found_from_the_deepest_up"),
    ),
    # -- the reward
    Mutant(
        "projected rewards are those of E", "hero_core/preference.py",
        'return E.embed(state, latents, device, project=mode == "projected")',
        "return E.embed(state, latents, device)",
        _core("test_loop.py::test_rewards_and_map_are_of_the_features_that_the_mode_names"),
    ),
    Mutant(
        "the map of projected rewards is that of E", "hero_core/preference.py",
        'E.plane(E.embed(after, rollout.z_0, device, project=mode == "projected"))',
        "E.plane(E.embed(after, rollout.z_0, device))",
        _core("test_loop.py::test_rewards_and_map_are_of_the_features_that_the_mode_names"),
    ),
    Mutant(
        "the best is among its own positives", "hero_core/preference.py",
        "goods = [p for p in feedback.good if p != feedback.best]", "goods = list(feedback.good)",
        _core("test_loop.py::test_the_best_is_not_among_its_own_positives"),
    ),
    Mutant(
        "rewards of a replay are in another order than its pictures", "hero_core/loop.py",
        "torch.cat([*(reward.again(kept.z_0, marks) for kept, marks in earlier), reward.rewards])",
        "torch.cat([reward.rewards, *(reward.again(kept.z_0, marks) for kept, marks in earlier)])",
        _core("test_forward.py::test_the_rewards_of_a_replay_are_in_the_order_of_its_pictures"),
    ),
    Mutant(
        "the held-out AUC is a constant", "hero_core/preference.py",
        "heldout = auc(score(rollout.z_0) if score else binary(feedback), _rivals(feedback), feedback.bad)",
        "heldout = 0.5",
        _core("test_loop.py::test_the_heldout_auc_is_that_of_the_embedding_before_it_learned"),
    ),
    # -- learning from finished latents
    Mutant(
        "the unit of an error is learned too", "hero_core/update/forward.py",
        "return (x0_hat - z_0).detach().flatten(1)", "return (x0_hat - z_0).flatten(1)",
        _core("test_forward.py::test_the_weight_of_an_error_has_no_gradient_of_its_own"),
    ),
    Mutant(
        "rows that fill a call up count", "hero_core/update/forward.py",
        "(value * self.reward.weight(pictures).to(value))[: noised.used].sum()",
        "(value * self.reward.weight(pictures).to(value)).sum()",
        _core("test_forward.py::test_rows_that_fill_a_call_up_do_not_count"),
    ),
    # -- Scores as Actions
    Mutant(
        "the ratio up the slope lacks its square", SCORE,
        "* shift - shift.square() / 2)", "* shift)",
        _core("test_score_action.py::test_the_ratio_of_a_step_up_the_slope_is_that_of_two_gaussians"),
    ),
    Mutant(
        "gains up the slope are not bounded", SCORE,
        "clipped(gains.clamp(max=advantage_clip), clip)", "clipped(gains, clip)",
        _core(EVERY, "test_score_action.py::test_the_ratio_of_a_step_up_the_slope_is_that_of_two_gaussians"),
    ),
    Mutant(
        "plain advantages are not bounded", SCORE,
        "target.clamp(-settings.advantage_clip, settings.advantage_clip), settings.clip", "target, settings.clip",
        _core("test_score_action.py::test_a_critic_that_explains_nothing_leaves_ddpo"),
    ),
    Mutant(
        "the KL as reward counts the recorded steps alone", SCORE,
        " * share * kl[weight > 0]", " * kl[weight > 0]",
        _core("test_score_action.py::test_the_kl_as_reward_stands_for_the_steps_that_were_not_recorded"),
    ),
    Mutant(
        "the critic sees states at their own scale", SCORE,
        "return x / length, ", "return x, ",
        _core("test_score_action.py::test_the_critic_sees_states_at_unit_scale"),
    ),
    Mutant(
        "the critic sees latents at their own scale", SCORE,
        "return Points(x, latents / self.scale, tau, prior, fold)", "return Points(x, latents, tau, prior, fold)",
        _core("test_score_action.py::test_the_critic_sees_states_at_unit_scale"),
    ),
    Mutant(
        "critics learn without noise", "hero_core/update/critic.py",
        "one + NOISE * torch.randn(one.shape", "one + 0 * torch.randn(one.shape",
        _core("test_score_action.py::test_critics_learn_from_a_quarter_of_the_points_under_noise"),
    ),
    Mutant(
        "a critic learns from the pictures that it judges", "hero_core/update/critic.py",
        "(points.fold != fold).nonzero()", "(points.fold >= 0).nonzero()",
        _core("test_score_action.py::test_no_critic_knows_the_reward_of_the_pictures_it_judges"),
    ),
    Mutant(
        "marks alone have a reward of latents", SCORE,
        "prior = torch.full_like(tau, torch.nan) if score is None", "prior = torch.zeros_like(tau) if score is None",
        _core("test_score_action.py::test_marks_alone_teach_a_critic_without_a_reward_of_latents"),
    ),
    Mutant(
        "a policy that computes otherwise is trained", GRADIENT,
        "if not float(error) <= tolerance:", "if False:",
        _core("test_every_setting.py::test_the_tolerance_is_a_bound"),
    ),
    # -- what is told of an update
    Mutant(
        "the KL to the round's start is a constant", GRADIENT,
        '"kl_to_round_start": self.approx_kl / self.rows', '"kl_to_round_start": 0.0',
        _core("test_ddpo.py::test_the_statistics_are_those_of_the_ratios"),
    ),
    Mutant(
        "the clipped share is a constant", GRADIENT,
        '"clip_fraction": self.clipped / self.rows', '"clip_fraction": 0.0',
        _core("test_ddpo.py::test_the_statistics_are_those_of_the_ratios"),
    ),
    Mutant(
        "rows that fill a call up are told of", GRADIENT,
        "self.statistics.add(loss[used], ratio[used], self.settings.clip)",
        "self.statistics.add(loss, ratio, self.settings.clip)",
        _core("test_ddpo.py::test_the_statistics_are_those_of_the_ratios"),
    ),
    # -- steps
    Mutant(
        "the sensitivity of flow models is that of their noise", "hero_core/transition.py",
        "sensitivity = abs(sigma * a_x0) / s if s > 0 else math.inf",
        "sensitivity = abs(sigma * a_x0) / max(alpha, 1e-6) / s if s > 0 else math.inf",
        _core("test_transition.py::test_the_sensitivity_of_flow_models_is_the_derivative_by_their_velocity"),
    ),
    Mutant(
        "steps that hang on the prediction too much are scored", "hero_core/transition.py",
        "SENSITIVITY_LIMIT = 2.0", "SENSITIVITY_LIMIT = 20.0",
        _core("test_transition.py::test_the_long_last_step_of_a_flow_schedule_is_never_scored"),
    ),
    # -- large latents in little room
    Mutant(
        "a kept step gets the noise of another", "hero_core/rollout.py",
        "found[picture, rollout.steps[picture] == step] = noise",
        "found[picture, rollout.steps[picture] == step] = noise.roll(1)",
        _core("test_compact.py::test_each_step_is_one_of_the_policy_that_drew"),
    ),
    Mutant(
        "the old policy is not asked again, but taken to predict nothing", "hero_core/update/common.py",
        "x0_hat[picture, slot] = predicted.cpu()[used]", "x0_hat[picture, slot] = 0.0",
        _core("test_compact.py::test_each_step_is_one_of_the_policy_that_drew"),
    ),
    Mutant(
        "a round in memory is not rounded as it is on the disk", "hero_core/rollout.py",
        "z_0 = rounded(self.z_0)", "z_0 = self.z_0",
        _core("test_compact.py::test_what_is_sampled_is_what_is_read_back"),
    ),
    Mutant(
        "levels are rounded down", "hero_core/compact.py", "return level.round()", "return level.floor()",
        _core("test_compact.py::test_a_level_is_at_most_half_a_step_off"),
    ),
    Mutant(
        "the lowest bits are lost", "hero_core/compact.py", "[:, MOST - bits :]", "[:, :bits]",
        _core("test_compact.py::test_packing_leaves_no_gap_and_loses_nothing"),
    ),
    Mutant(
        "a compact round has no noise to draw the next from", "hero_core/loop.py",
        "if rollout is None or not rollout.compact:", "if rollout is None or rollout.compact:",
        _core("test_compact.py::test_what_is_sampled_is_what_is_read_back"),
    ),
    Mutant(
        "sessions of before are made compact in the middle", "hero_core/store/session.py",
        'bool(self._data.get("compact", False))', "True",
        _core("test_compact.py::test_a_session_that_was_begun_whole_goes_on_whole"),
    ),
    Mutant(
        "cells that share a place count it whole", "hero_core/embedding.py",
        "return overlap.clamp(min=0) * count / size", "return overlap.clamp(min=0).ceil() * count / size",
        _core("test_embedding.py::test_the_grid_holds_the_means_of_its_cells"),
    ),
    Mutant(
        "latents of SD 1.5 get the compact network", "hero_core/compact.py",
        "math.prod(latent_shape) > LARGE", "math.prod(latent_shape) >= LARGE",
        _core("test_embedding.py::test_latents_up_to_those_of_sd15_keep_the_papers_network"),
    ),
    # -- inside ComfyUI
    Mutant(
        "the noise of a step is 1.0003 times as strong", "hero_core/rollout.py",
        "x_next = mu + transitions.s[step].to(x.device) * noise",
        "x_next = mu + transitions.s[step].to(x.device) * 1.0003 * noise",
        ("tests/comfy/test_policy.py::test_an_untrained_round_is_the_stock_ancestral_sampler_picture_for_picture",),
    ),
    Mutant(
        "the positive prompt predicts on the negative side too", "nodes/comfy_policy.py",
        'self.conds["negative" if side == "negative" else "positive"]', 'self.conds["positive"]',
        ("tests/comfy/test_policy.py::test_each_side_of_guidance_can_be_had_alone",),
    ),
    Mutant(
        "a latent with a picture in it is taken for an empty one", "nodes/comfy_host.py",
        "if samples.numel() and not bool((samples == samples.flatten()[0]).all()):", "if False:",
        ("tests/comfy/test_wired.py::test_a_latent_with_a_picture_in_it_is_refused_before_anything_is_drawn",),
    ),
    Mutant(
        "a session name over a link is looked at once", "nodes/session.py",
        "return store().revisions()", 'return "over a link"',
        ("tests/comfy/test_wired.py::test_a_session_name_over_a_link_learns_round_after_round",),
    ),
    Mutant(
        "the LoRA upstream is taken for the checkpoint", "nodes/graph.py",
        "    if not models:\n        files =", "    if True:\n        files =",
        _core("test_graph.py::test_a_lora_upstream_is_no_checkpoint"),
    ),
    Mutant(
        "a prompt from a menu is not known", "nodes/graph.py",
        'if kind == "CustomCombo" and', "if False and",
        _core("test_graph.py::test_a_prompt_over_a_link_is_followed_or_left_out"),
    ),
    Mutant(
        "an update without a ratio is told as none", "hero_core/report.py",
        'if not last.get("optimizer_steps"):', 'if last.get("ratio_error") is None:',
        _core("test_report.py::test_the_last_line_names_the_skip_or_the_ratio"),
    ),
    Mutant(
        "a zeroed negative has its text", "nodes/graph.py",
        'or graph.class_of(source) == "ConditioningZeroOut":', "or False:",
        _core("test_graph.py::test_a_zeroed_negative_has_no_text"),
    ),
    Mutant(
        "what comes out of a pair is what came in first", "nodes/graph.py",
        "return _text(graph, inputs[name], depth + 1) if name in wired else None",
        "return _text(graph, inputs[wired[0]], depth + 1)",
        _core("test_graph.py::test_a_controlnet_keeps_the_two_sides_apart"),
    ),
    Mutant(
        "a node that cannot run is passed over", "nodes/graph.py",
        "lacking = sorted(kind.required - graph.inputs(name).keys())", "lacking: list[str] = []",
        _core("test_graph.py::test_an_update_without_its_reward_is_named_before_the_first_mark"),
    ),
    Mutant(
        "a merge of models is guessed", "nodes/graph.py",
        "    if len(wired) != 1:\n        return None, None", "    if not wired:\n        return None, None",
        _core("test_graph.py::test_a_merge_or_a_stack_of_loras_is_not_guessed"),
    ),
    Mutant(
        "a save with nothing to save is passed over", "nodes/graph.py",
        'if not {"reward", "lora", "mixture"} & graph.inputs(name).keys():', "if False:",
        _core("test_graph.py::test_a_save_round_with_nothing_to_save_is_named"),
    ),
    # -- a look at the policy before a round is drawn
    Mutant(
        "a round is drawn whatever the look says", "hero_core/loop.py",
        "    look()\n    rollout = Rollout(\n", "    rollout = Rollout(\n",
        _core("test_as_drawn.py::test_the_policy_is_looked_at_before_a_round_is_drawn_and_not_when_it_is_there"),
    ),
    Mutant(
        "what a row's place in the batch changes is overlooked", "nodes/comfy_probe.py",
        "ask(z_T.flip(0), forth[::-1])", "ask(z_T.flip(0), forth)",
        ("tests/comfy/test_wired.py::test_a_model_that_does_not_repeat_itself_is_refused_before_the_round_is_drawn",),
    ),
    # -- the store
    Mutant(
        "marks of a revision that is yet to come are taken", "hero_core/store/round.py",
        "if rev != current.rev:\n                raise StaleRevision(\n                    f\"These marks",
        "if rev < current.rev:\n                raise StaleRevision(\n                    f\"These marks",
        _core("test_loop.py::test_marks_count_revisions_and_stale_ones_are_refused"),
    ),
    Mutant(
        "a submit of a revision that is yet to come is taken", "hero_core/store/round.py",
        "if rev is not None and rev != current.rev:", "if rev is not None and rev < current.rev:",
        _core("test_loop.py::test_submitting_twice_is_submitting_once"),
    ),
    Mutant(
        "marks are taken after they were submitted", "hero_core/store/round.py",
        "if current.submitted:\n                raise HeroError(", "if False:\n                raise HeroError(",
        _core("test_loop.py::test_submitting_twice_is_submitting_once"),
    ),
    Mutant(
        "marks have no copy", "hero_core/store/marks.py",
        "for path in (self.path, self.copy):", "for path in (self.path,):",
        _core("test_damage.py::test_a_submitted_round_stays_submitted_when_its_labels_are_damaged"),
    ),
    Mutant(
        "marks pass to other pictures", "hero_core/store/round.py",
        'if "latents" in info and self.marks().rev > 0:', "if False:",
        _core("test_damage.py::test_marks_are_not_put_on_other_pictures"),
    ),
    Mutant(
        "a file is not flushed before it takes its place", "hero_core/store/files.py",
        "os.fsync(file.fileno())", "file.fileno()",
        _core("test_faults.py::test_death_at_any_operation_loses_nothing"),
    ),
    Mutant(
        "a record whose checksum does not fit is believed", "hero_core/store/files.py",
        "fits = found in (None, checksum(_canonical(data).encode()))", "fits = True",
        _core("test_damage.py::test_no_flipped_bit_goes_unnoticed"),
    ),
    Mutant(
        "tensors whose checksum does not fit are believed", "hero_core/store/files.py",
        "fits = found in (None, checksum_of_tensors(tensors, _canonical(metadata)))", "fits = True",
        _core("test_damage.py::test_no_flipped_bit_goes_unnoticed"),
    ),
    Mutant(
        "session.json has no copy beside the state", "hero_core/store/session.py",
        'write_record(self._state_folder(number) / "session.json", data)\n            self._write(data)',
        "self._write(data)",
        _core("test_damage.py::test_one_damaged_file_loses_no_mark_and_no_round"),
    ),
    Mutant(
        "the state before the last is removed", "hero_core/store/session.py",
        "if number < self.saved_round - 1:", "if number < self.saved_round:",
        _core("test_loop.py::test_old_states_are_pruned_and_old_rollouts_slimmed"),
    ),
    # -- over HTTP
    Mutant(
        "other web pages may mark", "hero_core/rating/routes.py",
        "if sentence is not None and not _is_link_to_page(request):", "if False:",
        _core("test_rating.py::test_other_web_pages_change_nothing"),
    ),
    Mutant(
        "a submit tells nothing of the run that waits for it", "hero_core/rating/routes.py",
        "return describe(round_) | about", "return describe(round_)",
        _core("test_rating.py::test_a_round_tells_what_only_the_host_knows"),
    ),
    Mutant(
        "marks that differ are taken after submit", "hero_core/rating/routes.py",
        "if marks.submitted and marks.feedback == feedback:", "if marks.submitted:",
        _core("test_rating.py::test_marks_after_submit_are_refused_unless_they_say_the_same"),
    ),
]  # fmt: skip
