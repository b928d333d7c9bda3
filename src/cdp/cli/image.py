"""image create, list and delete: writable disks that begin as a past moment of a volume."""
from shlex import quote

import click

from cdp.cli import cli
from cdp.cli.base import VOLUME_EXITS, WRITE_EXITS, State, command, emit, fields, table
from cdp.cli.explain import moment_text
from cdp.cli.refs import group_at, volume_and_point, volume_only, with_point
from cdp.text.sizes import approx_size
from cdp.text.timestamps import local_utc_and_age
from cdpcore.base.errors import NotFound


@cli.group("image")
def image() -> None:
    """Writable images of past moments.

    An image is a disk of its own that begins as the volume was at a point. Writing to it changes nothing in the volume.
    It has its own history: VOLUME/IMAGE can be given to every command in place of VOLUME.
    """


@command(image, "create", examples=[
    ("cdp image create web@-10m test", "the image web/test: the volume as of ten minutes ago, writable"),
    ("cdp image create web/test@now again", "an image of an image"),
    ("cdp image create shop@before-upgrade test", "an image of each volume of the group shop"),
], exit_codes=WRITE_EXITS)
@click.argument("volume_at_point", metavar="VOLUME@POINT")
@click.argument("name")
def create(state: State, volume_at_point: str, name: str) -> None:
    """Make a writable image; nothing is copied. Without @POINT: of now. Of GROUP@POINT: one of each volume."""
    if group := group_at(volume_at_point):
        from cdp.cli.group import image_group

        image_group(state, with_point(group, "image create", "now"), name)
        return
    location, point = volume_and_point(volume_at_point, "image create", default="now")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        made = service.create_image(name, at=point)
    path = f"{location.text}/{made['name']}"
    emit(state, made, fields(f"{path}: a writable image", [
        ("begins as", moment_text(made["at"])), ("size", approx_size(made["size_bytes"])),
        ("folder", made["path"])]))


@command(image, "list", examples=[("cdp image list web", "all writable images of web")], exit_codes=VOLUME_EXITS)
@click.argument("volume")
def list_(state: State, volume: str) -> None:
    """List the writable images of a volume."""
    location = volume_only(volume, "image list")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        got = service.images()
    rows = [(one["name"], f"#{one['at']['seq']}", local_utc_and_age(one["at"]["ts_ns"]), approx_size(one["log_bytes"]),
             str(one["children"]))
            for one in got]
    emit(state, got, table(("NAME", "SEQ", "BEGINS AS OF", "LOG", "IMAGES"), rows) if got else
         f"{volume}: no images; 'cdp image create {quote(volume)}@POINT NAME' makes one")


@command(image, "delete", examples=[
    ("cdp image delete web test", "the image and all that was written to it are gone"),
    ("cdp image delete web test --dry-run", "show what would be gone"),
], exit_codes=VOLUME_EXITS)
@click.argument("volume")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
def delete(state: State, volume: str, name: str, dry_run: bool) -> None:
    """Delete a writable image, in one step.

    What was written to it cannot be had back. The volume is not touched.
    """
    location = volume_only(volume, "image delete")
    from cdp.service.connect import connect

    with connect(location, state.settings) as service:
        gone = next((one for one in service.images() if one["name"] == name), None)
        if gone is None:
            raise NotFound(f"{volume}: no image {name!r}", f"'cdp image list {quote(volume)}' lists the images")
        if not dry_run:
            service.delete_image(name)
    verb = "would be deleted" if dry_run else "deleted"
    emit(state, {"deleted": gone, "dry_run": dry_run},
         f"{volume}/{name}: {verb}, with {approx_size(gone['log_bytes'])} of log; begun as {moment_text(gone['at'])}")
