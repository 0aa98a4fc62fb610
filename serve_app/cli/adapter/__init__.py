"""`jethro adapter`: the group of commands on LoRA adapters."""

from serve_app.cli.adapter.train import train
from serve_app.cli.options import new_group

group = new_group(help="Train LoRA adapters.")
group.command("train")(train)
