"""Mutations of the package that its tests must catch: each takes away, or turns round, something that matters.

    python tests/mutations.py                    # all of them: some minutes
    python tests/mutations.py average resume     # those whose names contain one of these words
    python tests/mutations.py --list

A mutation is made in a copy of the package, in a temporary folder in which everything else of the repository is linked;
there, its tests are run. First they are run without any mutation, since a test that fails anyway would catch anything.
The exit code is 1 where a mutation survives. test_mutations.py keeps the list true to the code.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = "lightning_gen"
NOT_LINKED = {PACKAGE, ".git", ".pytest_cache", ".ruff_cache", ".venv", "runs", "build", "dist"}
PASSED, FAILED = 0, 1  # pytest's exit codes; with any other no verdict can be given
MOST_SECONDS = 600


class Mutation(NamedTuple):
    """A change of one place of the package.

    Fields:
        name: what is wrong then.
        file: in the package's folder.
        before: text that occurs in it exactly once.
        after: what is put in its place.
        tests: pytest's node ids, in the folder of the tests, of which at least one must fail.
    """

    name: str
    file: str
    before: str
    after: str
    tests: Sequence[str]


MUTATIONS = (
    # --- adversarial losses and the GAN's step
    Mutation(
        "critic's loss with the wrong sign",
        "objectives/adversarial.py",
        "return softplus(terms.fake - terms.real)\n",
        "return softplus(terms.real - terms.fake)\n",
        ["objectives/test_adversarial.py::test_every_loss_is_its_formula[Relativistic]"],
    ),
    Mutation(
        "generator's loss with the wrong sign",
        "objectives/adversarial.py",
        "return softplus(-terms.fake)\n",
        "return softplus(terms.fake)\n",
        ["objectives/test_adversarial.py::test_every_loss_is_its_formula[NonSaturating]"],
    ),
    Mutation(
        "hinge with its sides exchanged",
        "objectives/adversarial.py",
        "return relu(1 - terms.real) + relu(1 + terms.fake)",
        "return relu(1 + terms.real) + relu(1 - terms.fake)",
        ["objectives/test_adversarial.py::test_every_loss_is_its_formula[Hinge]"],
    ),
    Mutation(
        "critic's generated images attached to the generator",
        "models/gan.py",
        "with torch.no_grad():\n            fake = self.generator(",
        "with torch.enable_grad():\n            fake = self.generator(",
        ["models/test_gan_parts.py::test_penalties_see_what_the_scores_are_of"],
    ),
    Mutation(
        "gradients left in the other network",
        "steps/manual.py",
        "gradients = torch.autograd.grad(loss, parameters, allow_unused=True)",
        "loss.backward()\n    gradients = [parameter.grad for parameter in parameters]",
        ["models/test_gan.py::test_each_step_moves_its_own_network_and_leaves_the_others_gradients_none"],
    ),
    Mutation(
        "generator's turn a critic step too early",
        "models/gan.py",
        "self.critic_steps_taken % self.critic_steps == 0",
        "(self.critic_steps_taken + 1) % self.critic_steps == 0",
        ["models/test_gan.py::test_critic_steps_per_generator_step"],
    ),
    Mutation(
        "critic and generator with the same noise",
        "models/gan.py",
        'self.training_latents("generator", len(real))',
        'self.training_latents("critic", len(real))',
        ["models/test_gan_parts.py::test_real_and_generated_images_of_a_phase_share_their_augmentation"],
    ),
    Mutation(
        "samples drawn in training mode",
        "models/base.py",
        "with evaluating(self):\n            return self.sampler(",
        "with torch.no_grad():\n            return self.sampler(",
        ["models/test_vae.py::test_samples_leave_nothing_out_in_training_mode"],
    ),
    Mutation(
        "ADA's probability moved the wrong way",
        "objectives/augmentation.py",
        "self.p + move",
        "self.p - move",
        ["objectives/test_augmentation.py::test_p_follows_the_signs_both_ways"],
    ),
    # --- penalties
    Mutation(
        "R1 without its half",
        "objectives/penalties.py",
        "terms.real_images, terms.labels).square().sum(1) / 2",
        "terms.real_images, terms.labels).square().sum(1)",
        ["objectives/test_penalties.py::test_penalties_of_a_linear_critic_have_closed_forms"],
    ),
    Mutation(
        "lazy penalty not multiplied by its interval",
        "objectives/penalties.py",
        "return self.every * self.weight * self.value(terms, context)",
        "return self.weight * self.value(terms, context)",
        ["objectives/test_penalties.py::test_lazy_penalty_has_the_eager_weight_on_average"],
    ),
    Mutation(
        "one share for all images of WGAN-GP",
        "objectives/penalties.py",
        "share = self.draws(context, len(real)).uniform(1, 1, 1).to(real.dtype)",
        "share = self.draws(context, len(real)).uniform(1, 1, 1).to(real.dtype)[:1]",
        ["objectives/test_penalties.py::test_a_quadratic_critic_is_judged_where_the_penalty_says"],
    ),
    # --- ranks
    Mutation(
        "gradients added over ranks, not averaged",
        "core/ranks.py",
        "return value if self.count == 1 else self.sum(value) / self.count",
        "return self.sum(value)",
        ["test_ranks.py::test_two_ranks_equal_one_rank_on_the_union_batch"],
    ),
    Mutation(
        "LeCam's averages of one rank alone",
        "objectives/penalties.py",
        "means = context.ranks.mean(means).to(self.averages.dtype)",
        "means = means.to(self.averages.dtype)",
        ["objectives/test_penalties.py::test_values_do_not_depend_on_how_ranks_cut_the_batch"],
    ),
    Mutation(
        "every rank with the first rows of the noise",
        "core/context.py",
        "return numbers.narrow(dim, self.ranks.rank * own, own)",
        "return numbers.narrow(dim, 0, own)",
        ["models/test_gan.py::test_the_ranks_noises_together_are_one_ranks_noise"],
    ),
    Mutation(
        "every rank with the first rows of a step's random numbers",
        "core/randomness.py",
        "numbers[self.ranks.rows(self.n)]",
        "numbers[: self.n]",
        ["objectives/test_penalties.py::test_values_do_not_depend_on_how_ranks_cut_the_batch"],
    ),
    Mutation(
        "images seen counted once per rank",
        "models/base.py",
        "self.images_seen += len(batch.levels) * self.ranks.count",
        "self.images_seen += len(batch.levels)",
        ["models/test_gan.py::test_images_are_counted_over_all_ranks"],
    ),
    Mutation(
        "free bits by the images of one rank",
        "objectives/variational.py",
        "free = context.ranks.mean(parts.detach().mean(0)) < self.free_bits",
        "free = parts.detach().mean(0) < self.free_bits",
        ["objectives/test_variational.py::test_free_bits_by_hand"],
    ),
    Mutation(
        "sums of EM of one rank alone",
        "models/classical/em.py",
        "statistics = {name: ranks.sum(value) for name, value in statistics.items()}",
        "statistics = {name: value.clone() for name, value in statistics.items()}",
        ["models/test_classical.py::test_two_ranks_equal_one"],
    ),
    Mutation(
        "every rank with the first images of the stream",
        "data/stream.py",
        "divmod(position + self.rank * self.batch_size, len(self.levels))",
        "divmod(position, len(self.levels))",
        ["data/test_stream.py::test_the_ranks_together_take_what_one_takes_alone"],
    ),
    # --- the average of the weights, and steps that are skipped
    Mutation(
        "average not used in evaluation",
        "callbacks/ema.py",
        "torch.distributed.broadcast(buffer, src=0)\n        self._enter(pl_module)\n",
        "torch.distributed.broadcast(buffer, src=0)\n",
        ["callbacks/test_ema.py::test_validation_sees_the_average_and_training_the_live_weights"],
    ),
    Mutation(
        "average not loaded",
        "models/checkpoint.py",
        'if average and "ema" in checkpoint:',
        'if not average and "ema" in checkpoint:',
        ["callbacks/test_ema.py::test_load_gives_the_average_unless_asked_for_the_live_weights"],
    ),
    Mutation(
        "average moved by a skipped step",
        "callbacks/ema.py",
        "if not self.averages or pl_module.guard.last_step_skipped:",
        "if not self.averages:",
        ["callbacks/test_ema.py::test_a_skipped_step_leaves_the_average_alone_and_its_images_out"],
    ),
    Mutation(
        "average's half-life in steps, not in images",
        "callbacks/ema.py",
        "share = 1 - 0.5 ** (images / max(half_life, 1e-8))",
        "share = 1 - 0.5 ** (1 / max(half_life, 1e-8))",
        ["callbacks/test_ema.py::test_after_a_half_life_a_new_weight_counts_half_whatever_the_batch_size"],
    ),
    Mutation(
        "buffers not put back after a skipped step",
        "steps/guard.py",
        "        copy_all(self._buffers, self._kept)\n",
        "        pass\n",
        ["models/test_automatic_skip.py::test_a_skipped_step_changes_nothing"],
    ),
    Mutation(
        "step taken with a gradient that is not finite",
        "steps/manual.py",
        "if not torch.isfinite(loss + norm):",
        "if not torch.isfinite(loss):",
        ["models/test_gan.py::test_a_critic_loss_that_is_not_finite_leaves_everything_as_it_was"],
    ),
    # --- variational objectives
    Mutation(
        "divergence with the wrong sign",
        "objectives/variational.py",
        "return weight * self.cost(terms, context) - terms.log_conditional.mean(0)",
        "return -weight * self.cost(terms, context) - terms.log_conditional.mean(0)",
        ["objectives/test_variational.py::test_the_elbo_is_that_of_a_loop"],
    ),
    Mutation(
        "closed form of the divergence with the wrong sign of the log variance",
        "distributions/latents.py",
        "(mean.square() + torch.expm1(log_variance) - log_variance)",
        "(mean.square() + torch.expm1(log_variance) + log_variance)",
        ["distributions/test_latents.py::test_kl_formulas_are_what_monte_carlo_finds"],
    ),
    Mutation(
        "latents with the variance in place of the deviation",
        "distributions/latents.py",
        "latent = mean + (0.5 * log_variance).exp() * noise",
        "latent = mean + log_variance.exp() * noise",
        ["distributions/test_latents.py::test_densities_follow_from_the_change_of_variables"],
    ),
    Mutation(
        "warm-up left out",
        "objectives/variational.py",
        "return 1.0 if context.images_seen >= self.warmup else context.images_seen / self.warmup",
        "return 1.0",
        ["objectives/test_variational.py::test_warmup_raises_the_divergences_weight_in_a_line"],
    ),
    Mutation(
        "free bits of each image, not of the batch's mean",
        "objectives/variational.py",
        "return torch.where(free, self.free_bits, parts).sum(-1)",
        "return parts.clamp(min=self.free_bits).sum(-1)",
        ["objectives/test_variational.py::test_free_bits_by_hand"],
    ),
    Mutation(
        "IWAE's loss without log K",
        "objectives/variational.py",
        "return math.log(self.samples) - torch.logsumexp(terms.log_weights, 0)",
        "return -torch.logsumexp(terms.log_weights, 0)",
        ["objectives/test_variational.py::test_iwae_is_that_of_a_loop_and_the_elbo_at_one_sample"],
    ),
    Mutation(
        "likelihood's bound without log K",
        "models/variational.py",
        "return torch.logsumexp(torch.cat(found), 0) - math.log(model.importance_samples)",
        "return torch.logsumexp(torch.cat(found), 0)",
        ["models/test_vae.py::test_the_likelihood_is_the_bound_of_its_generators_noise_in_chunks"],
    ),
    Mutation(
        "importance weights without the prior",
        "objectives/variational.py",
        "return self.log_conditional + self.log_prior - self.log_posterior",
        "return self.log_conditional - self.log_posterior",
        ["objectives/test_variational.py::test_iwae_is_that_of_a_loop_and_the_elbo_at_one_sample"],
    ),
    Mutation(
        "DReG's density attached to the encoder",
        "objectives/variational.py",
        "return self.posterior.log_prob(self.theta.detach(), self.latent)",
        "return self.posterior.log_prob(self.theta, self.latent)",
        ["objectives/test_variational.py::test_the_detached_density_has_a_gradient_by_latents_alone"],
    ),
    Mutation(
        "DReG's weights not squared",
        "objectives/variational.py",
        "register_hook(lambda gradient: gradient * share[..., None])",
        "register_hook(lambda gradient: gradient)",
        ["objectives/test_variational.py::test_dreg_has_iwaes_decoder_gradient_and_its_encoder_gradient_in_the_mean"],
    ),
    Mutation(
        "total correlation by the batch alone, without the size of the data",
        "objectives/variational.py",
        "scale = math.log(len(latent) * context.num_images)",
        "scale = math.log(len(latent))",
        ["objectives/test_variational.py::test_the_parts_are_those_of_a_loop"],
    ),
    # --- quantizers
    Mutation(
        "no gradient straight through the codes",
        "networks/quantize.py",
        "return Quantized(z + (values - z).detach(), indices, loss)",
        "return Quantized(values, indices, loss)",
        ["networks/test_quantize.py::test_the_gradient_of_the_values_is_that_of_the_map"],
    ),
    Mutation(
        "commitment detached from the encoder",
        "networks/quantize.py",
        "loss = self.commitment * (z - values).square()",
        "loss = self.commitment * (z.detach() - values).square()",
        ["networks/test_quantize.py::test_the_commitment_pulls_the_map_to_its_code_and_leaves_the_code"],
    ),
    Mutation(
        "codebook's average of vectors and of uses out of step",
        "networks/quantize.py",
        "(keep * self.share[:, None] * self.codebook + (1 - keep) * sums) / share[:, None]",
        "(keep * self.codebook + (1 - keep) * sums) / share[:, None]",
        ["networks/test_quantize.py::test_the_codebook_follows_as_a_loop_has_it"],
    ),
    Mutation(
        "prior of codes taken that was fitted to those of other weights",
        "models/code_prior.py",
        "if self.fingerprint != model.fingerprint():",
        "if False:",
        ["models/test_vqvae.py::test_a_prior_of_other_weights_is_refused_in_one_line"],
    ),
    # --- models fitted by EM
    Mutation(
        "prior left out of a Gaussian's covariance",
        "distributions/gaussian.py",
        "        covariance += self.prior_strength * self.prior\n",
        "",
        ["distributions/test_gaussian.py::test_an_update_is_where_the_penalised_objective_is_largest"],
    ),
    Mutation(
        "prior left out of a table of levels",
        "distributions/categorical.py",
        'counts = statistics["levels"] @ self.channel + self.prior',
        'counts = statistics["levels"] @ self.channel + NOTHING',
        ["distributions/test_tables.py::test_smoothed_tables_are_counts_with_images_added"],
    ),
    Mutation(
        "prior left out of EM's objective",
        "models/classical/em.py",
        'objective = float((statistics["log_likelihood"] + self.density.log_prior()) / statistics["images"])',
        'objective = float(statistics["log_likelihood"] / statistics["images"])',
        ["models/test_classical.py::test_passes_equal_whole_steps_however_batches_cut_them"],
    ),
    Mutation(
        "covariance of all data by n - 1",
        "distributions/gaussian.py",
        "return x.T.cov(correction=0)",
        "return x.T.cov(correction=1)",
        ["distributions/test_gaussian.py::test_the_prior_counts_as_images_like_all_of_them"],
    ),
    Mutation(
        "backward pass of an HMM with transitions transposed",
        "distributions/hidden_markov.py",
        "self._transition_to(t).exp().transpose(1, 2)))",
        "self._transition_to(t).exp()))",
        ["distributions/test_hidden_markov.py::test_statistics_are_the_posterior_sums_over_all_paths"],
    ),
    Mutation(
        "table of a tree's edge transposed",
        "distributions/chow_liu.py",
        "torch.where((above < child)[:, None, None], table, table.transpose(1, 2))",
        "torch.where((above < child)[:, None, None], table.transpose(1, 2), table)",
        ["distributions/test_density.py::test_em_never_lowers_its_objective"],
    ),
    Mutation(
        "dequantized samples rounded, not floored",
        "models/classical/base.py",
        "(x + self.spec.levels / 2).floor()",
        "(x + self.spec.levels / 2).round()",
        ["models/test_classical.py::test_samples_are_as_frequent_as_they_are_probable"],
    ),
    Mutation(
        "variance of the dequantization noise left out of the E step",
        "distributions/gaussian.py",
        "return self.log_prob(x) - 0.5 * self.noise_variance * self._precision_trace()",
        "return self.log_prob(x)",
        ["distributions/test_gaussian.py::test_training_sees_the_mean_over_the_noise"],
    ),
    Mutation(
        "variance of the dequantization noise left out of a mixture",
        "models/classical/mixture.py",
        "noise_variance=dequantizer.variance,",
        "noise_variance=0.0,",
        ["models/test_classical.py::test_training_sees_the_mean_over_the_noise_of_the_likelihood"],
    ),
    # --- samplers
    Mutation(
        "truncation on one side alone",
        "samplers/latent.py",
        "numbers * (2 * edge - 1) + (1 - edge)",
        "numbers * edge + (1 - edge)",
        ["samplers/test_latent.py::test_truncation_against_scipy"],
    ),
    Mutation(
        "temperature of latents not applied",
        "samplers/latent.py",
        "return latent.mul_(self.temperature)",
        "return latent",
        ["samplers/test_latent.py::test_temperature_is_a_factor_that_comes_after_truncation"],
    ),
    Mutation(
        "temperature of a prior not applied",
        "samplers/latent.py",
        "generator: torch.Generator) -> Tensor:\n        return model.draw_latents(n, labels, generator=generator) * "
        "self.temperature",
        "generator: torch.Generator) -> Tensor:\n        return model.draw_latents(n, labels, generator=generator)",
        ["models/test_vae.py::test_samplers_change_latents_and_pixels"],
    ),
    Mutation(
        "great circles of one radius",
        "samplers/latent.py",
        "length = torch.lerp(norms[0][:, None], norms[1][:, None], t)",
        "length = norms[0][:, None]",
        ["samplers/test_latent.py::test_slerp_against_rotations"],
    ),
    Mutation(
        "annealed weights with the wrong sign",
        "samplers/ais.py",
        "log_weights += (self.betas[t]",
        "log_weights -= (self.betas[t]",
        ["samplers/test_ais.py::test_no_variance_where_the_posterior_is_the_prior"],
    ),
    Mutation(
        "bound of reverse chains computed as that of forward ones",
        "samplers/ais.py",
        "sign = -1 if self.is_reverse else 1",
        "sign = 1",
        ["samplers/test_ais.py::test_bounds_and_effective_sample_size_by_hand"],
    ),
    # --- likelihoods and metrics
    Mutation(
        "bits not divided by dimensions",
        "metrics/likelihood.py",
        "return -nats / (math.log(2) * spec.dims)",
        "return -nats / math.log(2)",
        ["metrics/test_likelihood.py::test_a_uniform_model_has_log2_of_the_levels"],
    ),
    Mutation(
        "bound by dequantization called exact",
        "models/classical/base.py",
        'return Likelihood(torch.cat(nats), "dequantized", self.dequantizer.noises)',
        'return Likelihood(torch.cat(nats), "exact", self.dequantizer.noises)',
        ["models/test_classical.py::test_dequantized_bounds_sum_to_what_lies_inside_the_bins"],
    ),
    Mutation(
        "bound by importance weights called exact",
        "models/variational.py",
        'return Likelihood(torch.cat(bounds), "bound", self.importance_samples)',
        'return Likelihood(torch.cat(bounds), "exact", self.importance_samples)',
        ["models/test_vae.py::test_the_likelihood_converges_on_the_exact_one"],
    ),
    Mutation(
        "Fréchet distance with half of the cross term",
        "metrics/frechet.py",
        "cov2.trace() - 2 * cross)",
        "cov2.trace() - cross)",
        ["metrics/test_pure.py::test_frechet_distance_of_commuting_covariances_is_the_closed_form"],
    ),
    Mutation(
        "covariance of features by n",
        "metrics/base.py",
        "return mean, (outer.tril() + outer.tril(-1).mT) / (n - 1)",
        "return mean, (outer.tril() + outer.tril(-1).mT) / n",
        ["metrics/test_pure.py::test_frechet_distance_is_that_of_scipy_torch_fidelity_and_torchmetrics[0.0]"],
    ),
    Mutation(
        "kernel of an image with itself in the kernel distance",
        "metrics/kernel.py",
        "            block.diagonal().zero_()\n",
        "            pass\n",
        ["metrics/test_pure.py::test_kernel_distance_and_its_error_are_those_of_a_loop"],
    ),
    Mutation(
        "ties of the copy share counted as copies",
        "metrics/memorisation.py",
        "nearer += (1 + torch.sign(block[:, big:].amin(1) - block[:, :m].amin(1))).sum() / 2",
        "nearer += (block[:, big:].amin(1) >= block[:, :m].amin(1)).sum()",
        ["metrics/test_distances.py::test_equally_near_pixels_are_a_tie"],
    ),
    Mutation(
        "an image near to several counted for each in full",
        "metrics/memorisation.py",
        "credit += nearest_ones.div_(nearest_ones.sum(1, keepdim=True)).sum(0)",
        "credit += nearest_ones.sum(0)",
        ["metrics/test_pure.py::test_deviation_of_the_copy_test_is_that_over_all_choices_of_the_held_out_images"],
    ),
    Mutation(
        "copies of images that are not compared with forgotten",
        "metrics/memorisation.py",
        "scale = known * (1 - expected)",
        "scale = 1 - expected",
        [
            "metrics/test_pure.py::test_copied_is_the_fraction_of_copies_whatever_part_of_the_training_images_is_compared_with"
        ],
    ),
    Mutation(
        "likelihood of the test part in validation",
        "callbacks/evaluation.py",
        "images = trainer.datamodule.images(part)\n        in_training",
        'images = trainer.datamodule.images("test")\n        in_training',
        ["test_likelihood_paths.py::test_a_class_conditional_model_is_given_the_images_own_labels"],
    ),
    # --- labels, randomness, resuming
    Mutation(
        "labels off by one image",
        "data/stream.py",
        "levels.index_select(0, index), None if labels is None else labels.index_select(0, index), index.clone()",
        "levels.index_select(0, index), None if labels is None else labels.roll(1).index_select(0, index), index.clone()",
        ["data/test_stream.py::test_batches_hold_the_images_and_labels_of_their_indices"],
    ),
    Mutation(
        "labels off by one class",
        "core/labels.py",
        "return labels.to(model.device, torch.int64)",
        "return (labels.to(model.device, torch.int64) + 1) % model.spec.num_classes",
        ["models/test_gan_parts.py::test_samples_are_of_the_classes_asked_for"],
    ),
    Mutation(
        "labels of a VAE's likelihood off by one class",
        "core/labels.py",
        "    return heeded_labels(model, labels, n)\n\n\ndef drawn",
        "    labels = heeded_labels(model, labels, n)\n    return None if labels is None else (labels + 1) % model.spec.num_classes\n\n\ndef drawn",
        ["models/test_vae.py::test_classes_are_heeded_by_what_is_conditional"],
    ),
    Mutation(
        "labels that are to be hidden looked at",
        "models/semi_supervised.py",
        "seen = self.labelled_images.among(batch.index)",
        "seen = torch.ones_like(batch.index, dtype=torch.bool)",
        ["models/test_semi_supervised.py::test_hidden_labels_never_influence_training"],
    ),
    Mutation(
        "same order of images in every pass",
        "data/stream.py",
        "np.random.default_rng((self.seed, number))",
        "np.random.default_rng((self.seed, 0))",
        ["data/test_stream.py::test_each_pass_and_each_seed_has_another_order"],
    ),
    Mutation(
        "random state not restored on resuming",
        "callbacks/exact_resume.py",
        "        set_random_state(self._resumed[trainer.global_rank % len(self._resumed)])\n",
        "",
        ["models/test_vae.py::test_a_run_that_was_stopped_goes_on_bit_for_bit"],
    ),
    Mutation(
        "random state not put back after an evaluation",
        "callbacks/exact_resume.py",
        "            set_random_state(self._kept)\n",
        "",
        ["test_resume.py::test_what_an_evaluation_draws_is_put_back"],
    ),
    Mutation(
        "likelihood's noise from the generators of training",
        "evaluation/likelihoods.py",
        "nats, kind, num_samples = model.likelihood(levels, own, generator=generator)",
        "nats, kind, num_samples = model.likelihood(levels, own)",
        ["test_likelihood_paths.py::test_each_rank_scores_its_chunks_and_leaves_the_model_as_it_was"],
    ),
    # --- checkpoints from elsewhere
    Mutation(
        "classes of packages that nobody trusts imported",
        "core/descriptions.py",
        'if not module_name or path.partition(".")[0] not in roots:',
        "if not module_name:",
        ["models/test_load.py::test_a_package_that_nobody_trusts_is_not_even_imported"],
    ),
    Mutation(
        "foreign classes behind a trusted name",
        "core/descriptions.py",
        'if target.__module__.partition(".")[0] not in roots:',
        "if False:",
        ["test_describe.py::test_foreign_classes_behind_a_trusted_name_are_refused"],
    ),
    Mutation(
        "code of a checkpoint unpickled",
        "models/checkpoint.py",
        "torch.load(path, map_location=map_location, weights_only=True)",
        "torch.load(path, map_location=map_location, weights_only=False)",
        ["models/test_load.py::test_code_in_a_file_is_refused_and_does_not_run"],
    ),
    # --- the shared mechanics
    Mutation(
        "classes drawn equally often, whatever their shares",
        "core/labels.py",
        "categorical(model.class_shares.cpu().expand(n, -1), numbers.cpu())",
        "categorical(torch.ones_like(model.class_shares.cpu()).expand(n, -1), numbers.cpu())",
        ["core/test_labels.py::test_drawn_classes_have_the_shares_of_the_training_images"],
    ),
    Mutation(
        "the same random numbers in every step",
        "core/context.py",
        "return keyed_generator(self.seed, purpose, self.images_seen, device=self.device)",
        "return keyed_generator(self.seed, purpose, device=self.device)",
        ["models/test_gan.py::test_noise_depends_on_seed_purpose_and_images_seen_alone"],
    ),
    Mutation(
        "every chunk of samples with the noise of the first",
        "samplers/base.py",
        "rows_of(noise, rows), None if labels",
        "rows_of(noise, slice(0, rows.stop - rows.start)), None if labels",
        ["samplers/test_sampling.py::test_equal_generators_give_equal_images_whatever_the_chunk_size"],
    ),
    Mutation(
        "passes of the network not counted",
        "samplers/base.py",
        "        self.evaluations += 1\n        return model.decode",
        "        return model.decode",
        ["samplers/test_sampling.py::test_evaluations_are_the_passes_of_the_network_that_the_last_call_took"],
    ),
    Mutation(
        "a step of automatic optimization taken with a gradient that is not finite",
        "steps/guard.py",
        "                parameter.grad = None\n        if pl_module",
        "                pass\n        if pl_module",
        ["models/test_automatic_skip.py::test_a_skipped_step_changes_nothing"],
    ),
    Mutation(
        "networks in training mode while they are evaluated",
        "core/modes.py",
        "    module.eval()\n",
        "",
        ["models/test_contract.py::test_sampling_is_the_same_in_training_and_evaluation_mode"],
    ),
    Mutation(
        "unknown pixels left as they were in a completion",
        "models/classical/base.py",
        "return torch.where(mask.view_as(levels), levels.to(self.device), torch.cat(drawn))",
        "return torch.where(mask.view_as(levels), torch.cat(drawn), levels.to(self.device))",
        ["models/test_classical.py::test_known_pixels_stay_and_a_full_mask_changes_nothing"],
    ),
)


class Run(NamedTuple):
    """What came of some tests: pytest's exit code, how long they took, and what pytest printed."""

    code: int
    seconds: float
    output: str


def mutate(text: str, mutation: Mutation) -> str:
    """Return the text of a file with the mutation made.

    Raises:
        ValueError: where its place is not there, or there more than once.
    """
    if (count := text.count(mutation.before)) != 1:
        raise ValueError(f"{mutation.name}: {mutation.file} has {count} times, not once: {mutation.before!r}")
    return text.replace(mutation.before, mutation.after)


@contextmanager
def repository_with(mutation: Mutation | None) -> Iterator[Path]:
    """Make a temporary folder like the repository, with a mutated copy of the package, and return it."""
    with tempfile.TemporaryDirectory(prefix="mutation_") as name:
        root = Path(name)
        for path in REPOSITORY.iterdir():
            if path.name not in NOT_LINKED:
                (root / path.name).symlink_to(path)
        shutil.copytree(REPOSITORY / PACKAGE, root / PACKAGE)  # with bytecode, which spares seconds of compiling
        if mutation is not None:
            file = root / PACKAGE / mutation.file
            file.write_text(mutate(file.read_text(encoding="utf-8"), mutation), encoding="utf-8")
        yield root


def run(tests: Sequence[str], mutation: Mutation | None = None) -> Run:
    """Run tests, by their node ids, in a copy of the repository; stop at the first that fails.

    Raises:
        SystemExit: where Python finds another package than the copy.
    """
    with repository_with(mutation) as root:
        # Tests start processes, too: some in other folders, which find the copy by PYTHONPATH, and some with a
        # PYTHONPATH of their own, in which `python -m` finds it in the working directory.
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        environment.pop("PYTHONSAFEPATH", None)
        options = {"cwd": root, "env": environment, "capture_output": True, "text": True, "check": False}
        asked = subprocess.run([sys.executable, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)"], **options)
        if not Path(asked.stdout.strip()).resolve().is_relative_to(root.resolve()):
            raise SystemExit(f"{PACKAGE} is not imported from the copy in {root}: {asked.stdout}{asked.stderr}")
        pytest = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "slow or not slow"]
        command, started = [*pytest, *(f"tests/{test}" for test in tests)], time.monotonic()
        try:
            done = subprocess.run(command, timeout=MOST_SECONDS, **options)
        except subprocess.TimeoutExpired:
            return Run(FAILED, MOST_SECONDS, f"no end after {MOST_SECONDS} seconds")
        return Run(done.returncode, time.monotonic() - started, done.stdout + done.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutations and print what came of them; return the exit code."""
    parser = argparse.ArgumentParser(description="Run mutations of the package that its tests must catch.")
    parser.add_argument("words", nargs="*", help="take mutations whose names contain one of these words; all if none")
    parser.add_argument("--list", action="store_true", help="print their names, and run nothing")
    options = parser.parse_args(arguments)
    chosen = [each for each in MUTATIONS if not options.words or any(word in each.name for word in options.words)]
    if not chosen:
        parser.error(f"no mutation's name contains {' or '.join(options.words)}: see --list")
    if options.list:
        print("\n".join(each.name for each in chosen))
        return 0
    whole = run(sorted({test for each in chosen for test in each.tests}))
    if whole.code != PASSED:
        print(f"without any mutation these tests do not pass:\n{whole.output}")
        return 1
    print(f"without any mutation all tests pass ({whole.seconds:.0f} s)")
    width, survived = max(len(each.name) for each in chosen), 0
    for each in chosen:
        found = run(each.tests, each)
        verdict = {PASSED: "SURVIVED", FAILED: "caught"}.get(found.code, f"BROKEN, pytest's exit code {found.code}")
        survived += found.code != FAILED
        print(f"{each.name:<{width}}  {found.seconds:5.1f} s  {verdict}", flush=True)
        if found.code not in (PASSED, FAILED):
            print(found.output)
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
