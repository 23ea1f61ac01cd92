"""The markdown tables of JSON lines that scripts of this folder printed.

    python benchmarks/table.py digits.jsonl

``--wide`` puts criteria into one row per model, for files of many models.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

Line = dict[str, Any]
COLUMNS = {
    "fid_{}_heldout": ("to held-out", 2),
    "fid_{}": ("to training", 2),
    "precision_{}": ("precision", 3),
    "recall_{}": ("recall", 3),
    "copy_share_pixels": ("copy share (pixels)", 3),
    "copied_pixels": ("copied (pixels)", 2),
    "is_{}": ("IS", 2),
    "classes_{}": ("classes", 1),
    "class_distance_{}": ("class distance", 3),
    "label_accuracy_{}": ("label accuracy", 3),
    "seconds": ("seconds", 1),
}
ANSWERS = {True: "yes", False: "no", None: "-"}


def cell(figure: dict[str, Any] | None, digits: int) -> str:
    """``mean ± std``, or the one value, or a dash."""
    if figure is None:
        return "-"
    spread = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{spread}"


def beside(line: Line) -> str:
    """What a model that draws its training images again scores: what figures of copying are to be read beside."""
    figures, heldout = line["memoriser"], "fid_{}_heldout".format(line["extractor"])
    return (
        f"A memoriser, which draws training images again: {heldout} {figures[heldout]:.2f}, copy share "
        f"{figures['copy_share_pixels']:.3f} (the ceiling), copied {figures['copied_pixels']:.2f}"
    )


def count(n: int | list[int]) -> str:
    """Number of samples; of the floor the numbers of real images on both sides."""
    return " / ".join(f"{number:,}" for number in (n if isinstance(n, list) else [n]))


def values(figure: dict[str, Any], digits: int) -> str:
    """The value of every seed."""
    return ", ".join(f"{value:.{digits}f}" for value in figure["values"])


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def each_group(lines: Sequence[Line], key: Callable[[Line], Hashable], table: Callable[[list[Line]], str]) -> str:
    """The tables of lines of equal key, in the order of their first ones."""
    groups: dict[Hashable, list[Line]] = {}
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return "\n".join(map(table, groups.values()))


def origin(line: Line, *more: str) -> str:
    """Where lines come from: what only they know, then machine, versions, commit and command."""
    versions = line.get("versions", {"torch": line.get("torch")})
    facts = [
        *more,
        f"{line['machine']}, {line['threads']} thread(s)",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"Commit {line.get('git_commit', line.get('commit'))}",
    ]
    return f"\n{'. '.join(facts)}.\n\n    {line['command']}\n"


# --- samples and their figures ----------------------------------------------------------------------------------------


def images_seen(line: Line) -> str:
    """Images that a model was trained on, in thousands: the least to the most of its seeds."""
    seen = sorted({round(images / 1000) for images in line.get("images_seen", [])})
    return "-" if not seen else " to ".join(f"{images:,}" for images in dict.fromkeys((seen[0], seen[-1])))


def samples(lines: Sequence[Line], wide: bool) -> str:
    """Rows of models, their criteria, and where they come from."""
    rows = [line for line in lines if "criterion" not in line]
    checks = [line for line in lines if "criterion" in line]
    known = {name.format(lines[0]["extractor"]): column for name, column in COLUMNS.items()}
    columns = {name: column for name, column in known.items() if any(line.get(name) for line in rows)}
    trained = {images_seen(line) for line in rows} - {"-"}
    several = len(trained) > 1
    text = markdown(
        ["model", "n", *(["thousand images seen"] if several else []), *(title for title, _ in columns.values())],
        (
            [
                line["row"],
                count(line["n"]),
                *([images_seen(line)] if several else []),
                *(cell(line.get(name), digits) for name, (_, digits) in columns.items()),
            ]
            for line in rows
        ),
    )
    if checks:
        text += "\n" + (wide_criteria(checks) if wide else criteria(checks))
    heldout = lines[0]["references"]["heldout"]
    facts = [
        f"Held-out part: {heldout['part']}, {heldout['n']} images",
        f"Extractor {lines[0]['extractor']} {lines[0]['extractor_hash']}",
    ]
    if len(trained) == 1:
        facts.append(f"Every config saw {trained.pop()} thousand images")
    return text + origin(lines[0], *facts)


def criteria(checks: Sequence[Line], digits: int = 2) -> str:
    """One row per criterion and model, with so many digits of ratios."""
    return markdown(
        ["criterion", "row", "ratio", "by seed", "limit", "met", "by every seed"],
        (
            [
                f"{line['criterion']} ({line['against']})",
                line["row"],
                f"{line['ratio']:.{digits}f}",
                ", ".join(f"{ratio:.{digits}f}" for ratio in line["ratio_by_seed"]),
                "-" if line["limit"] is None else f"{line['limit']:g}",
                ANSWERS[line["met"]],
                ANSWERS[line["met_by_every_seed"]],
            ]
            for line in checks
        ),
    )


def wide_criteria(checks: Sequence[Line]) -> str:
    """One row per model: the ratio of each criterion and whether its limit is kept."""
    header = list(dict.fromkeys(f"{line['criterion']} ({line['against']})" for line in checks))
    rows: dict[str, dict[str, str]] = {}
    for line in checks:
        answer = "" if line["met"] is None else f": {ANSWERS[line['met']]}"
        name = f"{line['criterion']} ({line['against']})"
        rows.setdefault(line["row"], {})[name] = f"{line['ratio']:.2f}{answer}"
    return markdown(
        ["row", *header], ([row, *(cells.get(name, "-") for name in header)] for row, cells in rows.items())
    )


# --- modes of a grid --------------------------------------------------------------------------------------------------


def modes(lines: Sequence[Line], wide: bool) -> str:
    """Rows of models: modes covered and shares of high quality, by seed."""
    target = lines[0]["target"]
    wanted = f"all {target['modes']} modes, {100 * target['high_quality']:g} % high quality, every seed"
    text = markdown(
        ["model", "n", f"modes of {target['modes']}, by seed", "high quality, by seed", "seconds", wanted],
        (
            [
                line["row"],
                count(line["n"]),
                values(line["modes_pixels"], 0),
                values(line["high_quality_pixels"], 3),
                cell(line["seconds"], 1) if line["kind"] == "config" else "-",
                ANSWERS[line["met_by_every_seed"]],
            ]
            for line in lines
        ),
    )
    return text + origin(lines[0], f"High quality: within {target['radius']:g} levels of a mode's centre")


# --- step times -------------------------------------------------------------------------------------------------------


def steps(lines: Sequence[Line], wide: bool) -> str:
    """Ratios of step times; a config that could not be measured says why."""
    measured = [line for line in lines if "ratio" in line]
    groups = dict.fromkeys(line.get("comparison", "ours / hand-written") for line in measured)
    tables = []
    for group in groups:
        rows = [line for line in measured if line.get("comparison", "ours / hand-written") == group]
        upper, lower = group.split(" / ")
        tables.append(
            markdown(
                ["step", f"{upper}, ms", f"{lower}, ms", "ratio (quartiles)", "limit", "met", "difference in losses"],
                (
                    [
                        line["config"],
                        f"{line['ours_ms']:.2f}",
                        f"{line['hand_written_ms']:.2f}",
                        f"{line['ratio']:.3f} ({' to '.join(f'{edge:.3f}' for edge in line['ratio_quartiles'])})",
                        "-" if line["limit"] is None else f"{line['limit']:.2f}",
                        ANSWERS[line.get("met")],
                        f"{line['same']['loss_difference']:.1g}" if "same" in line else "-",
                    ]
                    for line in rows
                ),
            )
        )
    notes = [f"\n{line['config']} was not measured: {line['skipped']}.\n" for line in lines if "skipped" in line]
    first = (measured or lines)[0]
    facts = [f"Medians over {first['pairs']} pairs of segments that take turns"] if measured else []
    return "\n".join(tables) + "".join(notes) + origin(first, *facts)


# --- likelihood -------------------------------------------------------------------------------------------------------


def quartiles(line: Line) -> str:
    """A ratio with its quartiles."""
    return f"{line['ratio']:.3f} ({' to '.join(f'{edge:.3f}' for edge in line['ratio_quartiles'])})"


def bits(lines: Sequence[Line]) -> str:
    """Bits per dimension of configs, with what samples of the same runs score."""
    heldout = "fid_{}_heldout".format(lines[0]["extractor"])
    text = markdown(
        [
            "model",
            "kind",
            "noises",
            "bits per dimension",
            "error over images",
            "of training images",
            "to reach",
            "free parameters",
            "passes",
            "distance to held-out",
            "copy share (pixels)",
            "copied",
            "seconds",
        ],
        (
            [
                line["row"],
                line["likelihood"]["kind"],
                str(line["likelihood"]["num_samples"]),
                cell(line[line["figure"]], 4),
                f"{line[line['figure'] + '_se']['mean']:.4f}",
                cell(line[f"{line['figure']}_train"], 3),
                to_reach(line),
                f"{line['free_parameters']:,}",
                ", ".join(map(str, line["passes"])),
                cell(line[heldout], 2),
                cell(line["copy_share_pixels"], 3),
                cell(line["copied_pixels"], 2),
                cell(line["seconds"], 1),
            ]
            for line in lines
        ),
    )
    part = lines[0]["references"]["heldout"]
    return text + origin(
        lines[0],
        f"Held-out part: {part['part']}, {lines[0]['likelihood']['n']} images",
        f"Distances and copy shares of n = {lines[0]['n']:,} samples, extractor {lines[0]['extractor']} "
        f"{lines[0]['extractor_hash']}",
        beside(lines[0]),
    )


def to_reach(line: Line) -> str:
    """What a config was to reach, and whether it did."""
    if line["target"] is None:
        return "-"
    if line["met"] is None:
        return f"near {line['target']:.2f}"
    return f"{line['target']:.{4 if line['target'] > 4 else 2}f}: {ANSWERS[line['met']]}"


def em_speed(lines: Sequence[Line]) -> str:
    """Seconds of an EM iteration beside scikit-learn's."""

    def memory(line: Line) -> str:
        return ", ".join("-" if peak is None else f"{peak:,.0f}" for peak in line["peak_memory_mib"].values())

    text = markdown(
        [
            "images x pixels, components",
            "ours, s",
            "scikit-learn, s",
            "ratio (quartiles)",
            "limit",
            "met",
            "peak memory, MiB: ours, scikit-learn's",
            "difference in log likelihood",
        ],
        (
            [
                line["row"],
                f"{line['ours_seconds']:.2f}",
                f"{line['sklearn_seconds']:.2f}",
                quartiles(line),
                f"{line['limit']:g}",
                ANSWERS[line["met"]],
                memory(line),
                f"{line['log_likelihood_difference']:.1g}",
            ]
            for line in lines
        ),
    )
    return text + origin(lines[0], f"Medians over {lines[0]['pairs']} pairs of iterations that take turns")


def annealing(lines: Sequence[Line]) -> str:
    """What annealed importance sampling finds with more and more steps."""
    text = markdown(
        [
            "steps",
            "bpd_ais",
            "log p, nats",
            "effective sample size, lowest",
            "acceptance, lowest",
            "simulated images: gap, nats",
            "largest gap",
            "gap, bits per dimension",
            "seconds",
            "limit",
            "met",
        ],
        (
            [
                str(line["steps"]),
                f"{line['bpd_ais']:.4f} ± {line['bpd_ais_se']:.4f}",
                f"{line['log_p']:.2f}",
                f"{line['effective_sample_size']:.2f}, {line['effective_sample_size_lowest']:.2f}",
                f"{line['acceptance']:.2f}, {line['acceptance_lowest']:.2f}",
                f"{line['gap_nats']:.2f} ± {line['gap_nats_se']:.2f}",
                f"{line['gap_nats_largest']:.1f}",
                f"{line['gap_bpd']:.4f}",
                f"{line['seconds']:.0f}",
                "-" if line["limit"] is None else f"{line['limit']:g}",
                ANSWERS[line["met"]],
            ]
            for line in lines
        ),
    )
    first = lines[0]
    samples = first["samples"]
    heldout = "fid_{}_heldout".format(first["extractor"])
    return text + origin(
        first,
        f"{first['row']}, seed {first['seed']}, {first['images_seen']:,} images seen; {first['n']} {first['part']} and "
        f"{first['simulated']} simulated images, {first['chains']} chains each, {first['leapfrog']} leapfrog steps, "
        f"{first['schedule']} schedule; noise of deviation {first['sigma']:.4f}, by {first['sigma_images']} validation "
        "images",
        "After ± the standard error over images",
        f"{samples['n']:,} samples of the same run: {heldout} {samples[heldout]:.2f}, copy share "
        f"{samples['copy_share_pixels']:.3f}",
    )


def known(lines: Sequence[Line]) -> str:
    """How far paths of the code are from what is known."""
    text = markdown(
        ["known", "path of the code", "error", "limit", "met", "of"],
        (
            [
                line["row"],
                line["path"],
                f"{line['error']:.2g}",
                "-" if line["limit"] is None else f"{line['limit']:g}",
                ANSWERS[line["met"]],
                line["unit"],
            ]
            for line in lines
        ),
    )
    return text + origin(lines[0])


LIKELIHOOD = {"configs": bits, "em": em_speed, "ais": annealing, "closed-form": known}


def likelihood(lines: Sequence[Line], wide: bool) -> str:
    """A table of each thing that was measured, and of each held-out part."""
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        part = line["references"]["heldout"]["part"] if "references" in line else ""
        groups.setdefault((line["what"], part), []).append(line)
    return "\n".join(LIKELIHOOD[what](group) for (what, _), group in groups.items())


# --- variational autoencoders -----------------------------------------------------------------------------------------


def active(line: Line) -> str:
    """Active units or layers, whichever the model counts."""
    counted = next((name for name in ("active_units", "active_layers") if name in line), None)
    return "-" if counted is None else f"{cell(line[counted], 1)} {counted.removeprefix('active_')}"


def with_samples(line: Line, figure: str, about: str, digits: int) -> str:
    """A figure, and the number of latents behind it."""
    given = ", given labels" if line[about]["given_labels"] else ""
    return f"{cell(line[figure], digits)} (K = {line[about]['num_samples']:,}{given})"


def vae(lines: Sequence[Line], wide: bool) -> str:
    """Tables of each data set and held-out part."""
    return each_group(lines, lambda line: (line["data"], line["references"]["heldout"]["part"]), bounds)


def bounds(lines: Sequence[Line]) -> str:
    """Bounds on likelihoods with what latents say, then samples of the same runs, then criteria."""
    rows, checks = ([line for line in lines if ("criterion" in line) is wanted] for wanted in (False, True))
    first = lines[0]
    likelihoods = markdown(
        [
            "model",
            "bits per dimension",
            "error over images",
            "ELBO",
            "of training images",
            "their ELBO",
            "reconstruction, nats",
            "KL, nats",
            "active",
            "parameters",
            "thousand images seen",
            "seconds",
        ],
        (
            [
                line["row"],
                with_samples(line, line["figure"], "likelihood", 4),
                f"{line[line['figure'] + '_se']['mean']:.4f}",
                cell(line["bpd_elbo"], 4),
                with_samples(line, f"{line['figure']}_train", "likelihood_train", 4),
                cell(line["bpd_elbo_train"], 4),
                cell(line["reconstruction"], 1),
                cell(line["kl"], 1),
                active(line),
                f"{sum(line['parameters'].values()):,}",
                images_seen(line),
                cell(line["seconds"], 1),
            ]
            for line in rows
        ),
    )
    heldout, copies = "fid_{}_heldout".format(first["extractor"]), "copy_share_pixels"
    drawn = markdown(
        ["samples of", "pixels", "to held-out", "to training", "copy share (pixels)", "copied"],
        (
            [
                line["row"],
                pixels,
                cell(line[heldout + ending], 2),
                cell(line["fid_{}".format(first["extractor"]) + ending], 2),
                cell(line[copies + ending], 3),
                cell(line["copied_pixels" + ending], 2),
            ]
            for line in rows
            for pixels, ending in (("drawn", ""), ("expected", "_mean"))
        ),
    )
    text = likelihoods + "\n" + drawn + ("\n" + criteria(checks, 3) if checks else "")
    part = first["references"]["heldout"]
    facts = [f"Held-out part: {part['part']}, {part['n']} images"]
    if rows:
        facts += [
            f"All bits per dimension are bounds, those of training images of {rows[0]['likelihood_train']['n']} images",
            f"Nats and active units of {rows[0]['diagnosed']} held-out images",
            f"Distances of n = {rows[0]['n']:,} samples, extractor {first['extractor']} {first['extractor_hash']}",
            beside(first),
        ]
    return text + origin(first, *facts)


def disentanglement(lines: Sequence[Line], wide: bool) -> str:
    """Scores of disentanglement, value by value, and what they cost."""
    rows, checks = ([line for line in lines if ("criterion" in line) is wanted] for wanted in (False, True))
    text = markdown(
        ["model", "objective", "MIG", "by seed", "SAP", "by seed", "bits per dimension (bound)", "seconds"],
        (
            [
                line["row"],
                line["objective"],
                cell(line["mig"], 3),
                values(line["mig"], 3),
                cell(line["sap"], 3),
                values(line["sap"], 3),
                with_samples(line, line["figure"], "likelihood", 3),
                cell(line["seconds"], 1),
            ]
            for line in rows
        ),
    )
    if checks:
        text += "\n" + criteria(checks)
    return text + origin(
        lines[0], f"Factors {', '.join(rows[0]['factors'])} of {rows[0]['n']:,} images, the {rows[0]['part']} part"
    )


def pythae(lines: Sequence[Line], wide: bool) -> str:
    """Tables of each command."""
    return each_group(lines, lambda line: line["command"], sides)


def sides(lines: Sequence[Line]) -> str:
    """Speed and held-out loss of each side, and how ours compares."""
    text = markdown(
        ["side", "images per second", "by seed", "held-out loss, nats", "thousand images seen", "seconds"],
        (
            [
                line["row"],
                cell(line["images_per_second"], 0),
                values(line["images_per_second"], 0),
                cell(line["held_out_loss"], 3),
                images_seen(line),
                cell(line["seconds"], 1),
            ]
            for line in lines
            if "comparison" not in line
        ),
    )
    checks = [line for line in lines if "comparison" in line]
    text += "\n" + markdown(
        ["comparison", "against", "value", "by seed", "at least", "met"],
        (
            [
                line["comparison"],
                line["against"],
                f"{line[value]:.3f}" + (f" (spread {line['spread']:.3f})" if line.get("spread") is not None else ""),
                ", ".join(f"{one:.3f}" for one in line[f"{value}_by_seed"]),
                "-" if line.get("at_least") is None else f"{line['at_least']:g}",
                ANSWERS[line.get("met")],
            ]
            for line in checks
            for value in ("ratio" if "ratio" in line else "difference",)
        ),
    )
    first = lines[0]
    return text + origin(
        first,
        f"{first['data']}, {first['part']} part; {first['minutes']:g} minutes for each side and seed, Adam of "
        f"{first['learning_rate']:g}, batches of {first['batch_size']}",
    )


TABLES = {
    "digits": samples,
    "disentanglement": disentanglement,
    "vae": vae,
    "vae_pythae": pythae,
    "vae_steps": steps,
    "likelihood": likelihood,
    "gan_torchgan": samples,
    "fashion_mnist": samples,
    "gan_modes": modes,
    "gan_steps": steps,
}


def tables(lines: Sequence[Line], wide: bool = False) -> str:
    """Return the tables of each benchmark's lines, in the order of their first ones, and where they come from."""
    benchmarks = dict.fromkeys(line["benchmark"] for line in lines)
    return "\n".join(TABLES[name]([line for line in lines if line["benchmark"] == name], wide) for name in benchmarks)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("file", nargs="+", help="JSON lines")
    parser.add_argument("--wide", action="store_true", help="one row per model for all its criteria")
    options = parser.parse_args(args)
    lines = []
    for name in options.file:
        with open(name, encoding="utf-8") as file:
            lines += [json.loads(line) for line in file if line.strip()]
    print(tables(lines, options.wide), end="")


if __name__ == "__main__":
    main()
