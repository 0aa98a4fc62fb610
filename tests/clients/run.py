"""Runs other clients' tests against one endpoint of the embedded models, for `make clients`.

A folder here is an environment: `requirements.txt` has its exact packages, whose versions need not agree with the
product's, and its tests know nothing but the endpoint's URL and key. `make` installs each into `.venv/clients/FOLDER`.

python -m tests.clients.run FOLDER...
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serve_app.gateway.services import Services
from tests.api.server import embedded, serving

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venv" / "clients"
KEY = "a-key-of-the-tests"
LIMIT_S = 600


async def endpoint() -> Services:
    """The embedded models behind the API, with a key."""
    return await embedded({"acme": KEY})


def tested(name: str, url: str) -> int:
    """The exit status of pytest in an environment; nothing collected is a failure."""
    python = ENVIRONMENTS / name / "bin" / "python"
    variables = {each: value for each, value in os.environ.items() if not each.startswith(("PYTHON", "OPENAI_"))}
    return subprocess.run(
        [python, "-m", "pytest", "-c", HERE / "pytest.ini", "--confcutdir", HERE, HERE / name],
        env=variables | {"JETHRO_CLIENTS_URL": f"{url}/v1", "JETHRO_CLIENTS_KEY": KEY},
        timeout=LIMIT_S,
        check=False,
    ).returncode


def main(names: Sequence[str]) -> int:
    """Test all, report which failed."""
    with serving(endpoint) as url:
        failed = [name for name in names if tested(name, url)]
    print(f"failed: {', '.join(failed)}" if failed else f"passed: {', '.join(names)}")
    return 1 if failed or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
