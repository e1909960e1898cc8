"""The lock of a directory in a bucket; fsspec's file system in memory stands in for the store."""

import json
import threading
import time

import fsspec
import pytest

from data_pipelines import bucket_lock, buckets, lock_holders
from data_pipelines.directory_lock import lock_of_contents, only_maker
from data_pipelines.lock_holders import HeldError, LostError, this_process, to_json

URL = "gs://bucket/runs/a"


class Store:
    """Objects by URL."""

    def __init__(self):
        self._memory = fsspec.filesystem("memory", skip_instance_cache=True)
        self._memory.store = {}

    def _path(self, url):
        return f"/{url.partition('://')[2]}"

    def pipe_file(self, url, data, mode="overwrite"):
        self._memory.pipe_file(self._path(url), data, mode=mode)

    def cat_file(self, url):
        return self._memory.cat_file(self._path(url))

    def rm_file(self, url):
        self._memory.rm_file(self._path(url))

    def exists(self, url):
        return self._memory.exists(self._path(url))


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(buckets, "filesystem", lambda url: store)
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(bucket_lock, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(lock_holders, "SECONDS_BETWEEN_ATTEMPTS", 0.05)
    monkeypatch.setattr(bucket_lock, "SETTLE_SECONDS", 0.05)
    return store


def write_holder(store, **changes):
    holder = this_process("other")._replace(**changes)
    store.pipe_file(f"{URL}/.lock", json.dumps(to_json(holder, heartbeat=0)).encode())


def test_the_second_refuses_and_the_object_is_removed_at_the_end(store):
    with lock_of_contents(URL) as lock:
        with pytest.raises(HeldError, match=f"{URL}: another process writes this directory"):
            lock_of_contents(URL).attempt()
        lock.check()
    assert not store.exists(f"{URL}/.lock")
    with lock_of_contents(URL) as lock:
        lock.check()


def test_a_killed_process_of_this_machine_is_followed_at_once(store):
    write_holder(store, started="another boot 1")
    lock = lock_of_contents(URL)
    assert lock.attempt()
    lock.check()
    lock.release()


def test_a_silent_host_is_waited_for_then_followed(store, capsys):
    write_holder(store, host="elsewhere")
    lock = lock_of_contents(URL)
    assert not lock.attempt()
    with lock:
        lock.check()
    assert capsys.readouterr().err.count("(process") == 1


def test_a_lock_that_is_taken_after_a_lost_race_shows_that_it_lives(store, monkeypatch):
    def overtaken(url, data):
        is_created = buckets.create_object(url, data)
        if is_created:
            write_holder(store, host="elsewhere")
        return is_created

    write_holder(store, started="another boot 1")
    lock = lock_of_contents(URL)
    with monkeypatch.context() as patch:
        patch.setattr(bucket_lock, "create_object", overtaken)
        assert not lock.attempt()
    store.rm_file(f"{URL}/.lock")
    with lock:
        first, until = store.cat_file(f"{URL}/.lock"), time.monotonic() + 20
        while store.cat_file(f"{URL}/.lock") == first:
            assert time.monotonic() < until
            time.sleep(0.01)
        lock.check()


def test_a_request_that_is_sent_again_after_it_was_done_takes_the_lock(store, monkeypatch):
    pipe_file = store.pipe_file

    def sent_twice(url, data, mode="overwrite"):
        pipe_file(url, data, mode=mode)
        pipe_file(url, data, mode=mode)

    monkeypatch.setattr(store, "pipe_file", sent_twice)
    with lock_of_contents(URL) as lock:
        lock.check()


def test_a_host_that_gives_signs_of_life_keeps_its_lock(store):
    write_holder(store, host="elsewhere")
    lock = lock_of_contents(URL)
    assert not lock.attempt()
    write_holder(store, host="elsewhere", command="its next heartbeat")
    with pytest.raises(HeldError, match="on elsewhere"):
        lock.attempt()


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_holder_that_lost_its_lock_writes_no_more(store, is_removed, monkeypatch):
    monkeypatch.setattr(bucket_lock, "HEARTBEAT_SECONDS", 1000)  # as of a suspended process
    with lock_of_contents(URL) as lock:
        lock.check()
        if is_removed:
            store.rm_file(f"{URL}/.lock")
        else:
            write_holder(store, host="elsewhere")
        later = bucket_lock.seconds() + 5000
        monkeypatch.setattr(bucket_lock, "seconds", lambda: later)
        with pytest.raises(LostError, match="was removed or overwritten" if is_removed else "on elsewhere"):
            lock.check()
    assert store.exists(f"{URL}/.lock") != is_removed


def test_what_appears_whole_is_locked_beside_it(store):
    with only_maker(URL):
        assert store.exists("gs://bucket/runs/.a.lock")
    assert not store.exists("gs://bucket/runs/.a.lock")


def given_back_while_hanging(began):
    """(lock that was held and given back, its heartbeat, whose request hangs since `began`)."""
    lock = lock_of_contents(URL)
    lock.acquire()
    heartbeat = next(one for one in threading.enumerate() if one.name == "bucket-lock")
    assert began.wait(30)
    lock.release()
    return lock, heartbeat


def test_a_sign_of_life_that_hung_until_after_the_release_brings_no_lock_back(store, monkeypatch):
    began, may_continue = threading.Event(), threading.Event()

    def hanging(url, data):
        began.set()
        may_continue.wait(30)
        buckets.write_object(url, data)

    monkeypatch.setattr(bucket_lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(bucket_lock, "write_object", hanging)
    _, heartbeat = given_back_while_hanging(began)
    may_continue.set()
    heartbeat.join(30)
    assert not heartbeat.is_alive() and not store.exists(f"{URL}/.lock")


def test_a_sign_of_life_that_hung_until_the_lock_was_taken_again_leaves_it_alone(store, monkeypatch):
    began, may_continue = threading.Event(), threading.Event()

    def hanging(url):
        if threading.current_thread().name == "bucket-lock" and not began.is_set():
            began.set()
            may_continue.wait(30)
        return buckets.read_object(url)

    monkeypatch.setattr(bucket_lock, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(bucket_lock, "read_object", hanging)
    lock, first = given_back_while_hanging(began)
    with lock:
        taken = json.loads(store.cat_file(f"{URL}/.lock"))["token"]
        may_continue.set()
        first.join(30)
        assert not first.is_alive()
        lock.check()
        assert json.loads(store.cat_file(f"{URL}/.lock"))["token"] == taken
    assert not store.exists(f"{URL}/.lock")


def test_a_lock_that_is_given_back_while_another_process_asks_for_it_is_taken(store, monkeypatch):
    """The object is there when it shall be made, and gone when it is read."""
    write_holder(store, host="elsewhere")
    cat_file = store.cat_file

    def given_back(url):
        monkeypatch.setattr(store, "cat_file", cat_file)
        store.rm_file(url)
        return cat_file(url)

    monkeypatch.setattr(store, "cat_file", given_back)
    lock = lock_of_contents(URL)
    assert lock.attempt()
    lock.release()
