"""From nothing to a tuned router: `jethro init` and `jethro tune`."""
