"""The one logger for what is not a request: starts, failures, warnings."""

import logging
from typing import Final

logger: Final = logging.getLogger("jethro")
