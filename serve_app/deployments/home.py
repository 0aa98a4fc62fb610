"""The folder of an endpoint that starts its own Ray: mode 0700, in the temporary folder, removed at the end.

HAProxy's configuration and sockets, Ray's session with its logs, the token of Ray's cluster, and the keys are in it.
"""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from serve_app.config.environment import leave_home, prepare_serve_environment
from serve_app.config.load import TRACE_HEADERS, keep_secrets
from serve_app.config.tree import Config
from serve_app.deployments.checks import HOME_PREFIX, check_temporary_folder
from serve_app.front.control import drain
from serve_app.front.settings import PROGRAM, FrontSettings, bundled_haproxy, new_token, save, write_private
from serve_app.front.sweep import sweep


class Home:
    """One endpoint's folder. From its making on, files of this process and its children are for the owner only."""

    def __init__(self, config: Config) -> None:
        """Write what HAProxy and Ray need there, and set the environment for Ray. Raises ConfigError."""
        check_temporary_folder()
        os.umask(0o077)
        self.path = Path(tempfile.mkdtemp(prefix=HOME_PREFIX))
        settings = FrontSettings(new_token(), bundled_haproxy(), **config.front_bounds(), host=config.server.host)
        save(settings, self.path)
        launcher = self.path / PROGRAM
        write_private(launcher, f'#!/bin/sh\nexec "{sys.executable}" -P -m serve_app.front.supervisor "$@"\n')
        launcher.chmod(0o700)
        write_private(self.path / "ray-token", new_token())
        keep_secrets([*config.secrets(), *TRACE_HEADERS], self.path)
        prepare_serve_environment(home=self.path, niceness=config.server.niceness)

    def drain(self, longest_s: float) -> bool:
        """Accept nothing more, and wait until what is open is finished. False if it was not in time."""
        return asyncio.run(drain(self.path, longest_s))

    def remove(self, *, logs: bool = False) -> None:
        """End what still runs there and remove the folder, Ray's logs excepted if they are to stay."""
        self.sweep()
        leave_home()
        for entry in self.path.iterdir():
            if not logs or entry.name != "ray":
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink(missing_ok=True)
        if not logs:
            self.path.rmdir()

    def sweep(self) -> None:
        """End what still runs there."""
        sweep(self.path)

    def vanish(self) -> NoReturn:
        """End everything at once, this process included, with exit status 0, and leave nothing.

        Another program takes the place of this one, so that no thread of it still starts processes or writes files.
        """
        program = [sys.executable, "-P", "-m", "serve_app.front.sweep", str(self.path)]
        os.execv(program[0], program)  # noqa: S606 - no shell is needed

    @property
    def ray_folder(self) -> Path:
        """Ray's session."""
        return self.path / "ray"

    @property
    def logs(self) -> Path:
        """Ray's logs, those of every process."""
        return self.ray_folder / "session_latest" / "logs"
