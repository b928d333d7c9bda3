"""VOLUME, VOLUME@POINT, VOLUME/IMAGE: what is a path, what a point, and where the volume is."""
import json
import os

import pytest

from cdp.cli.refs import Ref, split, volume_and_point, volume_only
from cdp.service.connect import find_server
from cdp.service.locate import Location, locate
from cdp.service.serving_file import read_serving
from cdpcore.base.errors import InvalidRequest, NotFound


def make(path):
    """A directory that looks like a volume."""
    os.makedirs(os.path.join(path, "log"))
    open(os.path.join(path, "lock"), "w").close()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("web", "web/images/test", "web/images/test/images/inner", "a@b/vol", "odd@name", "images/vol"):
        make(path)
    os.mkdir("folder")
    open("file.img", "w").close()
    return tmp_path


@pytest.mark.parametrize("text, ref", [
    ("web", ("web", None)),
    ("web@-10m", ("web", "-10m")),
    ("web@#12", ("web", "#12")),
    ("web@@mark", ("web", "@mark")),
    ("web@mark", ("web", "mark")),
    ("web@2026-11-23T10:00:00+01:00", ("web", "2026-11-23T10:00:00+01:00")),
    ("web/test@now", ("web/test", "now")),
    ("a@b/vol", ("a@b/vol", None)),
    ("a@b/vol@now", ("a@b/vol", "now")),
    ("odd@name", ("odd@name", None)),
    ("odd@name@-1s", ("odd@name", "-1s")),
    ("web@folder/x", ("web", "folder/x")),
])
def test_split(text, ref):
    assert split(text) == Ref(*ref)


@pytest.mark.parametrize("text", ["", "@now", "web@", "web@@"])
def test_split_refuses(text):
    with pytest.raises(InvalidRequest) as caught:
        split(text)
    assert caught.value.hint


@pytest.mark.parametrize("text, location", [
    ("web", Location("web")),
    ("web/", Location("web")),
    ("./web", Location("web")),
    ("folder/../web", Location("web")),
    ("web/test", Location("web", ("test",))),
    ("web/images/test", Location("web", ("test",))),
    ("web/test/inner", Location("web", ("test", "inner"))),
    ("web/images/test/images/inner", Location("web", ("test", "inner"))),
    ("web/images/test/inner", Location("web", ("test", "inner"))),
    ("images/vol", Location("images/vol")),
    ("a@b/vol", Location("a@b/vol")),
])
def test_locate(text, location, here):
    assert locate(text) == location
    assert os.path.exists(os.path.join(location.path, "lock"))
    absolute = Location(str(here / location.root), location.images)
    assert locate(str(here / text)) == absolute


def test_locate_from_within_a_volume(monkeypatch):
    monkeypatch.chdir("web")
    assert locate(".") == Location(".")
    assert locate("test") == Location(".", ("test",))


@pytest.mark.parametrize("text, hint", [
    ("nowhere", "'cdp create nowhere --size 10G' makes one"),
    ("folder", "give the folder that 'cdp create' made"),
    ("file.img", "'cdp import file.img VOLUME' makes a volume"),
    ("web/none", "'cdp image list web' lists the images"),
    ("web/test/none", "'cdp image list web/test' lists the images"),
    ("web/none/inner", "'cdp image list web' lists the images"),
    ("folder/none", "'cdp create folder/none --size 10G' makes one"),
    ("/nowhere/at/all", "cdp create"),
    ("../../../../../../../../nowhere", "cdp create"),
])
def test_locate_says_what_to_do(text, hint):
    with pytest.raises(NotFound) as caught:
        locate(text)
    assert hint in caught.value.hint


def test_points_where_none_belong_and_the_other_way_round():
    with pytest.raises(InvalidRequest, match="takes a volume, not a point; leave off @-10m"):
        volume_only("web@-10m", "info")
    with pytest.raises(NotFound):
        volume_only("nowhere@-10m", "info")
    with pytest.raises(InvalidRequest, match="needs a point; write web@POINT"):
        volume_and_point("web", "restore")
    assert volume_and_point("web", "export", default="now") == (Location("web"), "now")
    assert volume_and_point("web@-1s", "export", default="now") == (Location("web"), "-1s")


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", '{"admin_socket": 5}',
    json.dumps({"admin_socket": "/nowhere/s", "name": "web", "uuid": "u"}),
    json.dumps({"admin_socket": "x" * 300, "name": "web", "uuid": "u"}),
])
def test_a_stale_or_broken_serving_file_is_no_server(content):
    with open("web/serving.json", "w") as file:
        file.write(content)
    assert find_server(Location("web")) is None


def test_no_serving_file():
    assert read_serving("web") is None and find_server(Location("web")) is None
