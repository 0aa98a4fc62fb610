"""Draining a front, and the folder that it keeps its files in."""

import asyncio
import json
import os
import stat
import sys

import aiohttp
import pytest

from serve_app.front.control import drain
from serve_app.front.control import main as control
from serve_app.front.settings import FrontSettings, bundled_haproxy, save
from serve_app.front.supervisor import Stem, Supervisor, _parent, command
from tests.front.small_servers import TOKEN, until_answered


async def test_draining_finishes_what_is_open_accepts_no_more_and_serve_sees_it_alive(front):
    supervisor = await front.start()
    async with aiohttp.ClientSession() as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "10"}) as response:
            await command(front.socket, "jethro drain")
            await asyncio.sleep(0.2)
            with pytest.raises(aiohttp.ClientConnectionError):
                async with aiohttp.ClientSession() as late:
                    await late.get(front.url)
            assert await response.read() == b"piece" * 10
    while not json.loads(await command(front.socket, "jethro front"))["ended"]:
        await asyncio.sleep(0.05)
    assert await front.pid() == supervisor.pid
    supervisor.terminate()
    assert await supervisor.wait() == 0


async def test_a_draining_front_that_serve_replaces_accepts_nothing_and_waits_for_the_one_before(front):
    first = await front.start()
    # a connection that is kept alive would be held until it is idle for too long, or until its next request
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "30"}) as open_since:
            second = await front.start()  # the Gateways changed
            async with session.get(front.url, params={"pieces": "30"}) as response:
                draining = asyncio.create_task(drain(front.folder, 20))
                await asyncio.sleep(0.3)
                third = await front.start()  # they changed again
                with pytest.raises(aiohttp.ClientConnectionError):
                    async with aiohttp.ClientSession() as late:
                        await late.get(front.url)
                assert not draining.done()
                assert await open_since.read() == b"piece" * 30
                assert await first.wait() == 0 and not draining.done()
                assert await response.read() == b"piece" * 30
    assert await draining and await second.wait() == 0
    assert await front.pid() == third.pid
    third.terminate()
    assert await third.wait() == 0
    assert not [p.name for p in front.folder.iterdir() if p.suffix[1:].isdigit()]


async def test_a_drained_front_that_serve_left_behind_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("serve_app.front.supervisor._ORPHAN_S", 0.2)
    config = tmp_path / "serve.cfg"
    config.write_text(f"global\n    stats socket {tmp_path}/s.sock mode 666 level admin\n")

    def drained(stem: Stem) -> Supervisor:
        return Supervisor(FrontSettings(TOKEN, "haproxy"), config, stem, reuse_port=True)

    left = drained(Stem(os.getppid(), -1))  # its manager is gone
    async with asyncio.timeout(10):
        await left._outlasted()
    of_serve = drained(Stem(os.getppid(), _parent(os.getppid())))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2):
            await of_serve._outlasted()


async def test_a_drain_ends_after_its_time_and_says_so(front, capfd):
    await front.start()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        await until_answered(front, session)
        async with session.get(front.url, params={"pieces": "10"}) as response:
            assert await asyncio.to_thread(control, [str(front.folder), "0.5", "--after", "0.2"]) == 0
            assert "open after 0.5 s" in capfd.readouterr().err
            assert await asyncio.to_thread(control, [str(front.folder), "20"]) == 0
            assert "open after" not in capfd.readouterr().err
            assert await response.read() == b"piece" * 10


def test_a_drain_where_nothing_was_started_has_nothing_to_do(tmp_path):
    assert control([str(tmp_path / "none"), "5"]) == 0


async def test_a_folder_that_others_can_write_in_is_refused_in_one_sentence(front, capfd):
    front.write()
    front.folder.chmod(0o777)
    command_line = ["-m", "serve_app.front.supervisor", "-db", "-f", str(front.folder / "serve.cfg"), "-dR"]
    refused = await asyncio.create_subprocess_exec(sys.executable, *command_line)
    assert await refused.wait() == 1
    assert capfd.readouterr().err.splitlines() == [
        f"{front.folder}: keys are kept there, so it must be a folder of yours that no other user can write in; "
        "remove it, or choose another"
    ]
    front.folder.chmod(0o755)  # as Serve makes it
    await front.start()
    assert stat.S_IMODE(front.folder.stat().st_mode) == 0o700


async def test_the_folder_around_that_of_a_node_is_private_too(front, capfd, short_folder):
    around = short_folder / "longest-of-all"
    assert len(str(around)) == 30
    front.folder = around / ("ab" * 28)
    around.mkdir()
    front.folder.mkdir(mode=0o755)
    save(FrontSettings(TOKEN, bundled_haproxy()), front.folder)
    front.write()
    around.chmod(0o777)
    command_line = ["-m", "serve_app.front.supervisor", "-db", "-f", str(front.folder / "serve.cfg"), "-dR"]
    refused = await asyncio.create_subprocess_exec(sys.executable, *command_line)
    assert await refused.wait() == 1 and str(around) in capfd.readouterr().err
    around.chmod(0o755)
    await front.start()
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (around, front.folder)] == [0o700, 0o700]
