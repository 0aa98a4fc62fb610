"""Grafana's HTTP API through the package grafana-api; its errors as sentences that say what to do.

Only calls that every version from 8 to 13 answers are made: folders by uid, data sources by name, dashboards by uid,
search. Those by number are disabled in the newest, and the package knows no others of data sources.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlsplit

from grafana_api.grafana_api import GrafanaException
from grafana_api.grafana_face import GrafanaFace
from requests import exceptions as failures

from serve_app.errors import ConfigError, Conflict, JethroError, NotFound, UpstreamError

TIMEOUT_S: Final = 15.0
_SAID: Final = 200
"""Characters shown of what Grafana says."""
_PERMISSIONS: Final = {
    "dashboards": "dashboards and folders need the role Editor",
    "data sources": "data sources need the role Admin; with less, give the uid of one in --datasource-uid",
}


class Grafana:
    """One Grafana. `ca`: a file with the certificate authority that it is signed by, or None: the system's.

    Raises ConfigError for a URL or a token that cannot be used. No message holds the token.
    """

    def __init__(self, url: str, token: str, *, ca: str | None = None, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--url {_without_user(url)}: write it as http://127.0.0.1:3000")
        if parts.username or parts.password:
            raise ConfigError("--url holds a user or a password: leave them out, and export GRAFANA_TOKEN")
        if not token.strip() or not token.isascii() or not token.isprintable():
            raise ConfigError("no usable Grafana token: export GRAFANA_TOKEN with one of a service account")
        path = parts.path.strip("/")
        self.url = f"{parts.scheme}://{parts.netloc}/{path}".rstrip("/")
        self._timeout_s = timeout_s
        self._face = GrafanaFace(
            auth=token.strip(),
            host=parts.netloc,
            url_path_prefix=f"{path}/" if path else "",
            protocol=parts.scheme,
            verify=ca or True,
            timeout=timeout_s,
        )

    def close(self) -> None:
        """Close the connections."""
        self._face.api.s.close()

    def folder(self, uid: str, title: str) -> dict[str, Any] | None:
        """The folder of this uid, else the one of this title; None: there is neither."""
        with self._calling("read folders", "dashboards"):
            try:
                found: dict[str, Any] = self._face.folder.get_folder(uid)
                return found
            except GrafanaException as e:
                if e.status_code != 404:
                    raise
            folders: Sequence[dict[str, Any]] = self._face.folder.get_all_folders()
            return next((one for one in folders if one.get("title") == title), None)

    def create_folder(self, uid: str, title: str) -> dict[str, Any]:
        """The folder, created. Raises Conflict where one has just been created."""
        with self._calling(f"create the folder {title}", "dashboards"):
            made: dict[str, Any] = self._face.folder.create_folder(title, uid)
            return made

    def datasource(self, name: str) -> dict[str, Any] | None:
        """The data source of this name, None if there is none."""
        with self._calling(f"read the data source {name}", "data sources"):
            try:
                found: dict[str, Any] = self._face.datasource.get_datasource_by_name(quote(name, safe=""))
                return found
            except GrafanaException as e:
                if e.status_code != 404:
                    raise
                return None

    def create_datasource(self, name: str, prometheus_url: str) -> dict[str, Any]:
        """A data source of this name for a Prometheus, created. Raises Conflict where one has just been created."""
        body = {"name": name, "type": "prometheus", "access": "proxy", "url": prometheus_url, "isDefault": False}
        body["jsonData"] = {"httpMethod": "POST"}
        with self._calling(f"create the data source {name}", "data sources"):
            made: dict[str, Any] = self._face.datasource.create_datasource(body)
            found: dict[str, Any] | None = made.get("datasource") or made
        if found is None or "uid" not in found:  # as some versions answer
            found = self.datasource(name)
        if found is None:
            raise NotFound(f"Grafana has created the data source {name} and does not find it: look at it there")
        return found

    def dashboard(self, uid: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """A stored dashboard and what Grafana says of it; None if there is none."""
        with self._calling(f"read the dashboard {uid}", "dashboards"):
            try:
                found = self._face.dashboard.get_dashboard(uid)
            except GrafanaException as e:
                if e.status_code != 404:
                    raise
                return None
            return found["dashboard"], found.get("meta") or {}

    def save(self, board: dict[str, Any], folder_uid: str, version: int | None) -> dict[str, Any]:
        """Store a dashboard over this version of it, None: a new one. Raises Conflict if another has come meanwhile."""
        stored = {**board, "id": None} if version is None else {**board, "version": version}
        body = {"dashboard": stored, "folderUid": folder_uid, "overwrite": False, "message": "jethro dashboards push"}
        with self._calling(f"save the dashboard {board['title']}", "dashboards"):
            saved: dict[str, Any] = self._face.dashboard.update_dashboard(body)
            return saved

    def tagged(self, tag: str) -> list[str]:
        """The uids of the dashboards with this tag."""
        with self._calling("search dashboards", "dashboards"):
            found: Sequence[dict[str, Any]] = self._face.search.search_dashboards(tag=quote(tag), type_="dash-db")
            return [str(one["uid"]) for one in found]

    @contextmanager
    def _calling(self, what: str, kind: str) -> Iterator[None]:
        try:
            yield
        except GrafanaException as e:
            self._refused(e, what, kind)
        except failures.Timeout as e:
            raise UpstreamError(f"Grafana at {self.url} did not answer within {self._timeout_s:g} s: try again") from e
        except failures.SSLError as e:
            raise ConfigError(f"{self.url}: its certificate is not trusted: name its authority's file in --ca") from e
        except (failures.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise UpstreamError(f"{self.url} does not answer as Grafana does: check --url") from e
        except failures.ConnectionError as e:
            raise ConfigError(f"no Grafana at {self.url}: start it, or give --url") from e
        except (failures.RequestException, OSError, ValueError) as e:
            raise ConfigError(f"cannot call Grafana at {self.url} ({type(e).__name__}): check --url and --ca") from e

    def _refused(self, error: GrafanaException, what: str, kind: str) -> NoReturn:
        """Raises the error of a status code."""
        status, said = int(error.status_code), _said(error.response)
        raised: JethroError
        if status == 401:
            raised = ConfigError(f"Grafana refuses the token (401): export GRAFANA_TOKEN with a valid one{said}")
        elif status == 403:
            raised = ConfigError(f"the token may not {what} (403): {_PERMISSIONS[kind]}{said}")
        elif status == 404:
            raised = NotFound(f"Grafana could not {what} (404): check --url, and that the folder still exists{said}")
        elif status == 409:
            raised = Conflict(f"Grafana could not {what} (409): there is another of that name: run it again{said}")
        elif status == 412:
            raised = Conflict(
                f"Grafana could not {what} (412): it was changed meanwhile, or another in the folder has its title: "
                f"look at `jethro dashboards diff`, then push again{said}"
            )
        elif status >= 500:
            raised = UpstreamError(f"Grafana failed to {what} ({status}): see its log, then try again{said}")
        else:
            raised = UpstreamError(f"Grafana could not {what} ({status}){said}")
        raise raised from None


def _said(response: object) -> str:
    """What Grafana says of an error, as the end of a sentence."""
    message = response.get("message") if isinstance(response, dict) else None
    text = " ".join(str(message).split()) if message else ""
    return f"; it says: {text[:_SAID]}" if text else ""


def _without_user(url: str) -> str:
    return url.rpartition("@")[2][:_SAID]
