"""`jethro backup` and `jethro restore`: what the operator runs."""

from contextlib import closing

from serve_app.store.database import Database


def test_backup_and_restore(run, settings, path, tmp_path):
    made = run("backup", str(tmp_path / "b"), *settings)
    assert (made.exit_code, "40 decisions" in made.stdout) == (0, True)
    good = run("restore", str(tmp_path / "b"), "--check")
    assert (good.exit_code, ": good: 40 decisions" in good.stdout) == (0, True)
    assert run("decisions", "delete", "--user", "alice", *settings).exit_code == 0
    restored = run("restore", str(tmp_path / "b"), *settings)
    assert (restored.exit_code, "the present state is kept in" in restored.stderr) == (0, True)
    with closing(Database(path)) as database:
        assert database.find("bob3")
    assert run("decisions", "export", "--user", "alice", *settings).stdout == ""
    refused = run("restore", str(tmp_path / "none"), *settings)
    assert (refused.exit_code, "give the folder of a backup" in refused.stderr) == (2, True)
