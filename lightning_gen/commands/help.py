"""The help of the training verbs: titles of the groups of options, and which options are listed."""

import argparse

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_gen.commands.messages import OneLineErrors
from lightning_gen.commands.options import REPLACED
from lightning_gen.commands.verbs import TRAINING

TITLES = {
    "model": "model: what is trained",
    "data": "data: which images, and how they are made into batches",
    "budget": "budget: how long training lasts, whichever comes first",
    "schedule": "schedule: learning rates over a run, in images seen",
    "ema": "ema: average of the weights, used for evaluation and sampling",
    "evaluation": "evaluation: likelihood and samples, every so many images, and in validate and test",
    "checkpoint": "checkpoint: checkpoints/last.ckpt, and best.ckpt by a monitored figure",
    "diagnostics": "diagnostics: how training stands, in the model's own figures, at each evaluation",
    "collapse": "collapse: a warning when the figures say that training collapses",
    "grid": "grid: samples/<images seen>.png at each evaluation, always of the same latents",
    "pictures": "pictures: held-out images at each evaluation, reconstructed, interpolated and completed",
    "run": "run: where it is kept, what logs it",
    "wandb": "wandb: how Weights & Biases shows the run, with run.wandb true",
    "trainer": "trainer: devices, precision and further options of Lightning's Trainer",
}
USAGE = "lightning {verb} --config FILE [--config FILE ...] [--KEY VALUE ...]"
DESCRIPTION = """{what}. Any value of a config can be given as --key value; several --config are merged in their order.
The shortest form of a key inside the model or the data leaves init_args out: --model.generator.widths "[512, 512]"
--data.batch_size 128. --print_config prints the complete config. Options of a class: --model.help CLASS."""
# Options of Lightning's Trainer that few users need: they work, but are not listed.
UNLISTED = ("limit_", "overfit", "num_sanity", "barebones", "reload_data", "enable_autolog", "model_reg", "use_dist")


class Listed(DefaultHelpFormatter):
    """Help without the options that are replaced or that few need; not suppressed ones, which dumps would leave out."""

    def add_argument(self, action: argparse.Action) -> None:
        group, _, name = str(action.dest).partition(".")
        is_hidden = name in REPLACED or name.startswith(UNLISTED) or name.endswith(".help")
        if group != "trainer" or not is_hidden:
            super().add_argument(action)


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """A parser of one of LightningCLI's verbs."""

    def _as_typed(self, key: str) -> str:
        verb, _, rest = key.partition(".")
        return rest if verb in TRAINING else super()._as_typed(key)

    def arrange(self, verb: str) -> None:
        """Give the help of a verb, whose options are all there, its texts."""
        self.usage = USAGE.format(verb=verb)
        self.description = DESCRIPTION.format(what=TRAINING[verb])
        for group in self._action_groups:
            keys = {str(action.dest).partition(".")[0] for action in group._group_actions}
            if group.title == "Linked arguments":
                for action in group._group_actions:
                    action.help = argparse.SUPPRESS
            elif len(keys) == 1 and (key := keys.pop()) in TITLES:
                group.title, group.description = TITLES[key], None
