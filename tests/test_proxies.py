"""Proxies of the environment: a sentence before anything is trained, and only where one would be used."""

import os
import re
import socket

import pytest

from posweep import cli
from posweep.proxies import Proxy, bypass_loopback, is_loopback, proxy_of, proxy_problems, through
from posweep.settings import LlmSettings
from posweep.trackers.store import store_problems

URL = "https://judge.example/v1"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No proxies but those that a test sets."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for spelled in (name, name.upper()):
            monkeypatch.setenv(spelled, "")  # so that what is set in between is put back
            monkeypatch.delenv(spelled)
    return monkeypatch


@pytest.fixture
def closed() -> str:
    """An address of this machine at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ALL_PROXY", "ftp://me:hush@host:1", r"ALL_PROXY: must begin with http://, .*, got ftp://…@host:1;"),
        ("ALL_PROXY", "socks4://host:1", r"ALL_PROXY: must begin with .*socks5h://, got socks4://host:1;"),
        ("HTTPS_PROXY", "http://", r"HTTPS_PROXY: must be a proxy's address such as http://HOST:PORT, got 'http://';"),
        ("https_proxy", "http://host:hush", r"https_proxy: must be a proxy's address"),
        ("https_proxy", "http://[::1", r"https_proxy: must be a proxy's address"),
        ("http_proxy", "http://", r"http_proxy: must be a proxy's address"),  # httpx reads it for https, too
    ],
)
def test_a_value_that_is_no_proxy_is_named_with_the_way_out(environment, variable, value, said):
    environment.setenv(variable, value)
    [sentence] = proxy_problems(URL, "httpx")
    assert re.match(said, sentence)
    assert sentence.endswith(f"correct or unset {variable}.")
    assert "me:hush" not in sentence


@pytest.mark.parametrize(("client", "package"), [("httpx", "socksio"), ("requests", "pysocks")])
def test_a_socks_proxy_needs_a_package(environment, client, package):
    environment.setattr("importlib.util.find_spec", lambda name: None)
    environment.setenv("ALL_PROXY", "socks5://me:hush@127.0.0.1:9")
    assert proxy_problems(URL, client) == [
        f"ALL_PROXY: socks5://…@127.0.0.1:9 is a SOCKS proxy, for which the package {package} is missing; pip install "
        f"{package}, or unset ALL_PROXY."
    ]


def test_a_proxy_that_is_away_is_named_without_its_password(environment, closed):
    environment.setenv("HTTPS_PROXY", f"me:hush@{closed}")
    [said] = proxy_problems(URL, "httpx")
    assert said.startswith(
        f"HTTPS_PROXY: the proxy …@{closed}, through which judge.example is asked, does not answer ("
    )
    assert said.endswith("or set NO_PROXY=judge.example if judge.example is reached without it.")
    assert through(URL) == f", asked through HTTPS_PROXY …@{closed}"


def test_a_proxy_that_listens_is_no_problem(environment):
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        environment.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert proxy_problems(URL, "httpx") == proxy_problems(URL, "requests") == []


@pytest.mark.parametrize(
    ("url", "excepted", "used"),
    [
        (URL, "", "https_proxy"), (URL, "judge.example", None), (URL, ".example", None), (URL, "*.example", None),
        (URL, "*", None), (URL, "ge.example", "https_proxy"), ("https://10.1.2.3/v1", "10.0.0.0/8", None),
        ("https://10.1.2.3/v1", "192.168.0.0/16", "https_proxy"), ("http://judge.example/v1", "", None),
        ("https://127.0.0.1:8000/v1", "", None), ("https://[::1]:8000/v1", "", None), ("https://LOCALHOST/v1", "", None),
    ],
)  # fmt: skip
def test_which_proxy_an_address_is_asked_through(environment, url, excepted, used):
    environment.setenv("HTTPS_PROXY", "http://large:1")
    environment.setenv("https_proxy", "http://small:1")
    environment.setenv("NO_PROXY", excepted)
    found = proxy_of(url)
    assert (found and found.variable) == used
    assert found is None or found.value == "http://small:1"


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("a.localhost", True), ("127.8.0.1", True), ("::1", True), ("0.0.0.0", True),
     ("127.example.com", False), ("localhost.example.com", False), ("10.0.0.1", False), ("", False)],
)  # fmt: skip
def test_what_is_on_this_machine(host, here):
    assert is_loopback(host) == here


def test_this_machine_is_asked_directly(environment):
    bypass_loopback()
    assert "NO_PROXY" not in os.environ  # no proxy, so nothing to except
    environment.setenv("http_proxy", "http://proxy.example:1")
    environment.setenv("NO_PROXY", "corp.example, 127.0.0.1")
    bypass_loopback()
    bypass_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "corp.example,127.0.0.1,localhost,::1"


def test_requests_then_asks_this_machine_directly(environment):
    """As MLflow's client does: it knows no other rule than NO_PROXY."""
    from requests.utils import get_environ_proxies

    environment.setenv("http_proxy", "http://proxy.example:1")
    assert get_environ_proxies("http://127.0.0.1:5000")
    bypass_loopback()
    assert not any(get_environ_proxies(f"http://{host}:5000") for host in ("127.0.0.1", "localhost", "[::1]"))


def test_a_tracking_server_is_looked_for_behind_its_proxy(environment, closed):
    environment.setenv("http_proxy", f"http://{closed}")
    [said] = store_problems("http://mlflow.example:5000")
    assert said.startswith(f"http_proxy: the proxy http://{closed}, through which mlflow.example is asked, does not")
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        environment.setenv("http_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert store_problems("http://mlflow.example:5000") == []  # it has no address here


def test_an_endpoint_elsewhere_is_not_called_through_what_is_no_proxy(environment):
    from posweep.errors import JudgeUnavailable
    from posweep.judges.llm import LlmJudge, problems

    environment.setenv("ALL_PROXY", "gopher://host:1")
    settings = LlmSettings(base_url=URL, model="judge", key_from="")
    [said] = problems(settings, "judge.llm")
    assert said.startswith("ALL_PROXY: must begin with http://")
    with pytest.raises(JudgeUnavailable, match="ALL_PROXY: must begin with http://"):
        LlmJudge(settings).compare(["p"], ["a"], ["b"])


def test_a_model_of_the_hub_names_the_proxy(environment, closed, tmp_path):
    from huggingface_hub import constants

    from posweep import hub
    from posweep.errors import PreflightError
    from posweep.settings import HubModel

    environment.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    environment.setattr(constants, "HF_HUB_OFFLINE", False)
    environment.setenv("https_proxy", f"http://{closed}")
    environment.setattr(constants, "ENDPOINT", "https://hub.invalid")
    environment.setattr("huggingface_hub.HfApi.repo_info", _refuse)
    with pytest.raises(PreflightError, match=r"^https_proxy: the proxy http://.*, through which hub\.invalid is asked"):
        hub.commit(HubModel(name="owner/model"), "model", "model")
    environment.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PreflightError, match=r"^model\.name: no model 'owner/model'"):
        hub.commit(HubModel(name="owner/model"), "model", "model")


def _refuse(*_: object, **__: object) -> None:
    raise ConnectionError("refused")


def test_a_plan_asks_nobody_and_needs_no_proxy(environment, tmp_path, capsys):
    """Proxies of the environment are nobody's business where nothing is asked through them."""
    environment.chdir(tmp_path)
    environment.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    environment.setenv("http_proxy", "http://")
    assert cli.run(["plan", "sweep=smoke"]) == 0
    assert " trials, 0 finished" in capsys.readouterr().out
    assert os.environ["NO_PROXY"].split(",") == ["localhost", "127.0.0.1", "::1"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [("http://a:b@host:1", "http://…@host:1"), ("a:b@host:1", "…@host:1"), ("a:x://b@host:1", "…@host:1"),
     ("http://a:b@c/d@host:1", "http://…@host:1"), ("host:1", "host:1"), ("SOCKS5://host", "SOCKS5://host")],
)  # fmt: skip
def test_no_password_is_shown(value, shown):
    assert Proxy("ALL_PROXY", value).shown == shown
