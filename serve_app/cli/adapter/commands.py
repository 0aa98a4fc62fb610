"""`jethro adapter`: the group of commands."""

from serve_app.cli.adapter import registry
from serve_app.cli.options import new_group

group = new_group(help="List, add, pin and remove LoRA adapters; a running endpoint follows within a second.")
group.command("list")(registry.list_adapters)
group.command("show")(registry.show)
group.command("add")(registry.add)
group.command("remove")(registry.remove)
group.command("pin")(registry.pin)
