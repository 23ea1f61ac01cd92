"""lightning ais: bits per dimension of a model that decodes latents, by annealed importance sampling."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from torch import Tensor

from lightning_gen.callbacks.evaluation import choose_images
from lightning_gen.commands.common import add_model_options, load_generator, split_sampler_options
from lightning_gen.commands.likelihood import check_images, meaning
from lightning_gen.commands.messages import CommandParser
from lightning_gen.data import ImageDataModule, Images
from lightning_gen.errors import InputError
from lightning_gen.files import check_file, write_json
from lightning_gen.metrics import BitsPerDimension, bits_per_dimension
from lightning_gen.models import GenerativeModule, HasLikelihood
from lightning_gen.models.base import CHECKPOINT_KEY, HasLatentLikelihood, HasPixelMean, evaluating, keyed_seed
from lightning_gen.models.checkpoint import load_data
from lightning_gen.samplers import AnnealedImportanceSampling, GaussianDecoder, LatentTarget

DESCRIPTION = """Bound the likelihood of held-out images under a model that decodes latents, such as a GAN, by annealed
importance sampling. A decoder without a likelihood of its own gets Gaussian noise around its pixels, whose standard
deviation is fitted on validation images, integrated over the levels. In expectation bpd_ais is at least the bits per
dimension of the model: log p is bounded from below. Of images simulated from the model it is bounded from the other
side, too: the gap between the two says how far the figure can be trusted, and shrinks as --steps grow. Noise is drawn
for --batch_size chains at once, so figures are the same twice for the same --seed and --batch_size."""
FIT_IMAGES = 100
LEAST_FIT_IMAGES = 20
LOW_ACCEPTANCE = 0.2


class Decoder(NamedTuple):
    """What the command needs of a model, whichever protocol it answers."""

    model: HasLatentLikelihood | GaussianDecoder

    def target(self, levels: Tensor, labels: Tensor | None) -> LatentTarget:
        """Return the joint density of latents and these images."""
        model = self.model
        if isinstance(model, GaussianDecoder):
            return model.target(levels, labels)

        def on_rows(latent: Tensor) -> Tensor:
            chains = len(latent)
            of_chains = None if labels is None else labels.repeat(chains)
            repeated = levels.repeat(chains, 1, 1, 1)
            return model.log_conditional(repeated, latent.flatten(0, 1), of_chains).unflatten(0, latent.shape[:2])

        def log_prior(latent: Tensor) -> Tensor:
            return model.log_prior(latent.flatten(0, 1)).unflatten(0, latent.shape[:2])

        return LatentTarget(model.draw_prior, log_prior, on_rows, len(levels))


def run(args: Sequence[str]) -> None:
    """Bound a likelihood; ``lightning ais --help`` lists the options."""
    rest, sampler_options = split_sampler_options(args)
    options = make_parser().parse_args(rest)
    check_options(options)
    method = AnnealedImportanceSampling(options.steps, options.chains, options.leapfrog, options.schedule)
    model, checkpoint = load_generator(options, sampler_options)
    check_model(model, options)
    data = load_data(checkpoint[CHECKPOINT_KEY], options.trust)
    check_images(data)
    chosen, fitting = choose(data, model, options)
    started = time.monotonic()
    report: dict[str, Any] = {}
    with evaluating(model):
        grads = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in grads:  # only latents are differentiated by
            parameter.requires_grad_(False)
        try:
            decoder, facts = observe(model, fitting, options)
            report |= score(decoder, method, model, chosen, options)
            if options.simulated:
                report |= score_simulated(decoder, method, model, options)
        finally:
            for parameter in grads:
                parameter.requires_grad_(True)
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:<{width}} {value:.6g}")
    if options.json:
        report |= facts | {
            "kind": "ais",
            "bound": "upper, in expectation",
            "n": len(chosen.levels),
            "part": options.part,
            "given_labels": model.conditional,
            "num_samples": options.chains,
            **{name: options[name] for name in ("chains", "steps", "leapfrog", "schedule", "simulated")},
            **{name: options[name] for name in ("seed", "batch_size")},
            "weights": options.weights,
            "checkpoint": options.checkpoint,
            "images_seen": model.images_seen,
            "seconds": round(time.monotonic() - started, 1),
        }
        write_json(Path(options.json), report)


def make_parser() -> CommandParser:
    """Return the parser of this verb."""
    parser = CommandParser(prog="lightning ais", description=DESCRIPTION)
    add_model_options(parser)
    parser.add_argument("--n", type=PositiveInt, default=100, help="Held-out images, or as many as there are.")
    parser.add_argument("--part", choices=("val", "test"), default="val", help="Part of the data they are from.")
    parser.add_argument("--chains", type=PositiveInt, default=8, help="Chains for each image.")
    parser.add_argument("--steps", type=PositiveInt, default=500, help="Temperatures between prior and posterior.")
    parser.add_argument("--leapfrog", type=PositiveInt, default=3, help="Gradient evaluations at each temperature.")
    parser.add_argument("--schedule", choices=("sigmoid", "linear"), default="sigmoid", help="Of the temperatures.")
    parser.add_argument(
        "--simulated", type=int, default=100, help="Images to simulate for the gap between the two bounds; 0 for none."
    )
    parser.add_argument(
        "--sigma",
        type=float | None,
        default=None,
        help="Standard deviation of the noise around a decoder's pixels, in units of [-1, 1]; fitted on validation "
        "images unless given.",
    )
    parser.add_argument("--json", type=str | None, default=None, help="File for the figures, as one flat JSON object.")
    return parser


def check_options(options: Namespace) -> None:
    """Raise InputError for options out of range, before the work."""
    if options.simulated < 0:
        raise InputError(f"--simulated must be at least 0, got {options.simulated}")
    if options.sigma is not None and not 0 < options.sigma < math.inf:
        raise InputError(f"--sigma must be a finite number above 0, got {options.sigma}")
    if options.json is not None:
        check_file("--json", options.json)


def check_model(model: GenerativeModule, options: Namespace) -> None:
    """Raise InputError for a model without latents, naming the measure that it does have."""
    name = type(model).__name__
    if isinstance(model, HasLatentLikelihood):
        if options.sigma is not None:
            raise InputError(f"--sigma: this {name} says itself how likely pixels are: leave it out")
    elif isinstance(model, HasPixelMean):
        model.normal_latents()
    elif isinstance(model, HasLikelihood):
        raise InputError(
            f"this {name} gives its likelihood itself: lightning evaluate {options.checkpoint} --likelihood"
        )
    else:
        raise InputError(f"{name} draws its images without latents: there is nothing to anneal")


def choose(data: ImageDataModule, model: GenerativeModule, options: Namespace) -> tuple[Images, Images | None]:
    """Return the images to score, and the validation images to fit the noise on: none of those; None without a fit.

    Raises:
        InputError: where the images to score leave too few validation images.
    """

    def take(images: Images, rows: Tensor) -> Images:
        places = rows.numpy()
        return Images(images.levels[places], images.labels[places] if model.conditional else None)

    held_out = data.images(options.part)
    rows = choose_images(len(held_out.levels), options.n)
    if isinstance(model, HasLatentLikelihood) or options.sigma is not None:
        return take(held_out, rows), None
    validation = data.images("val")
    free = torch.ones(len(validation.levels), dtype=torch.bool)
    if options.part == "val":
        free[rows] = False
        if (left := int(free.sum())) < LEAST_FIT_IMAGES:
            raise InputError(
                f"--n {options.n} leaves {left} of {len(free)} validation images to fit the noise on, and at least "
                f"{LEAST_FIT_IMAGES} are needed: lower --n, give --part test, or give --sigma"
            )
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0))
    return take(held_out, rows), take(validation, order[free[order]][-FIT_IMAGES:].sort().values)


def observe(model: GenerativeModule, fitting: Images | None, options: Namespace) -> tuple[Decoder, dict[str, Any]]:
    """Return the model with its observation model, and facts about that."""
    if isinstance(model, HasLatentLikelihood):
        return Decoder(model), {"observation": "the model's own"}
    decoder = GaussianDecoder(model.spec, model.normal_latents(), model.pixel_mean, options.sigma or 1.0)
    facts = {"observation": "discretized Gaussian", "sigma_images": 0}
    if fitting is not None:
        say(f"fitting the noise on {len(fitting.levels)} validation images ...")
        decoder.fit(*tensors(fitting, model), generator_of(model, options, "fit"), options.batch_size)
        facts["sigma_images"] = len(fitting.levels)
    return Decoder(decoder), {"sigma": decoder.noise.sigma, **facts}


def score(
    decoder: Decoder, method: AnnealedImportanceSampling, model: GenerativeModule, images: Images, options: Namespace
) -> dict[str, float]:
    """Return the figures of held-out images."""
    levels, labels = tensors(images, model)
    found, ess, rates = [], [], []
    for chunk, rows in enumerate(chunks(len(levels), options)):
        generator = generator_of(model, options, f"held-out/{chunk}")
        target = decoder.target(levels[rows], None if labels is None else labels[rows])
        forward = method.forward(target, method.tune(target, generator), generator)
        found.append(forward.bound)
        ess.append(forward.effective_sample_size)
        rates.append(forward.acceptance)
        say(f"held-out images: {rows.stop} of {len(levels)}")
    bound = torch.cat(found)
    metric = BitsPerDimension(model.spec, model.conditional)
    metric.update(bound, "ais", method.chains)
    figures = metric.compute()
    say(meaning(metric.facts, options.part))
    ess, rates = torch.cat(ess), torch.cat(rates)
    for line in doubts(ess, rates, method.chains):
        say(line)
    return {
        **figures,
        "log_p": float(bound.mean()),
        "log_p_se": standard_error(bound),
        "effective_sample_size": float(ess.mean()),
        "effective_sample_size_lowest": float(ess.min()),
        "acceptance": float(rates.mean()),
        "acceptance_lowest": float(rates.min()),
    }


def score_simulated(
    decoder: Decoder, method: AnnealedImportanceSampling, model: GenerativeModule, options: Namespace
) -> dict[str, float]:
    """Return both bounds of images simulated from the model, and the gap between them."""
    found = []
    for chunk, rows in enumerate(chunks(options.simulated, options)):
        generator = generator_of(model, options, f"simulated/{chunk}")
        n = rows.stop - rows.start
        labels = None
        if model.conditional:
            labels = torch.arange(rows.start, rows.stop, device=model.device) % model.spec.num_classes
        latent = decoder.model.draw_prior(n, generator)
        levels = decoder.model.draw_levels(latent, labels, generator=generator)
        target = decoder.target(levels, labels)
        step_sizes = method.tune(target, generator)
        forward = method.forward(target, step_sizes, generator)
        reverse = method.reverse(target, step_sizes, latent, generator)
        found.append(torch.stack([forward.bound, reverse.bound]))
        say(f"simulated images: {rows.stop} of {options.simulated}")
    lower, upper = torch.cat(found, 1)
    gap = upper - lower
    return {
        "simulated_bpd_ais": float(bits_per_dimension(lower.mean(), model.spec)),
        "simulated_bpd_ais_reverse": float(bits_per_dimension(upper.mean(), model.spec)),
        "gap_nats": float(gap.mean()),
        "gap_nats_se": standard_error(gap),
        "gap_nats_largest": float(gap.max()),
        "gap_bpd": -float(bits_per_dimension(gap.mean(), model.spec)),
    }


def doubts(ess: Tensor, acceptance: Tensor, chains: int) -> list[str]:
    """Return lines that say why the bound of images is loose.

    Args:
        ess: effective sample sizes (N,).
        acceptance: of proposals, (N,); not a number where there were none.
        chains: for each image.
    """
    found = []
    # Of few chains even like-minded ones are worth little more than one.
    if chains > 1 and ess.mean() < min(1.5, 1 + 0.2 * (chains - 1)):
        found.append(f"chains disagree: {chains} are worth {ess.mean():.2g} on average: raise --steps")
    if acceptance.mean() < LOW_ACCEPTANCE:
        found.append(f"chains hardly move: {acceptance.mean():.2g} of proposals are accepted: raise --steps")
    return found


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of values (n,); not a number for a single one."""
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan


def chunks(n: int, options: Namespace) -> list[slice]:
    """Return slices of ``n`` images, so many at once that their chains are at most ``batch_size``."""
    size = max(1, options.batch_size // options.chains)
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def tensors(images: Images, model: GenerativeModule) -> tuple[Tensor, Tensor | None]:
    """Return levels and labels on the model's device."""
    labels = None if images.labels is None else torch.from_numpy(images.labels).to(model.device)
    return torch.from_numpy(images.levels).to(model.device), labels


def generator_of(model: GenerativeModule, options: Namespace, purpose: str) -> torch.Generator:
    """Return a generator on the model's device, keyed on the seed and a purpose."""
    return torch.Generator(model.device).manual_seed(keyed_seed(options.seed, "ais", purpose))


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    print(line, file=sys.stderr, flush=True)
