"""The units under a real systemd: process 1 in namespaces of its own, on an overlay of this machine's root, so that
nothing of it is left. (A backup runs there as other programs do, not behind them: beside a busy machine it would take
minutes.) Start and readiness, the timer of backups, a backup that fails, socket activation, a file system on top,
stop."""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support.interop import PATH, need
from support.mounted import need_a_kernel

import cdp

ROOT = Path(__file__).parents[2]
PACKAGES = Path(cdp.__file__).parents[1]     # a checkout's src has no engine unless it was built there
SILENT = ("systemd-udevd.service", "systemd-udev-trigger.service", "systemd-networkd.service", "postgresql.service",
          "systemd-timesyncd.service", "systemd-resolved.service", "systemd-modules-load.service", "prometheus.service",
          "systemd-remount-fs.service", "apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "fstrim.timer",
          "e2scrub_all.timer", "dpkg-db-backup.timer")

BOOT = """
set -e
cd {home}
mount --make-rprivate /
mount -t tmpfs tmpfs layer
mkdir layer/changed layer/work
mount -t overlay overlay -o lowerdir=/,upperdir={home}/layer/changed,workdir={home}/layer/work root
cd root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
for folder in {seen}; do mkdir -p .$folder; mount --rbind $folder .$folder; done
rm -rf etc/systemd/system/*.wants var/lib/cdp backup
cp {units}/* etc/systemd/system/
cp {home}/try.service {home}/try.target {home}/srv-web.mount etc/systemd/system/
for unit in {silent}; do ln -sf /dev/null etc/systemd/system/$unit; done
rm -f usr/bin/cdp
printf '#!/bin/sh\\nPYTHONPATH={packages} exec {python} -m cdp "$@"\\n' > usr/bin/cdp
chmod 755 usr/bin/cdp
: > ../begun
exec chroot . env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \\
    --unit=try.target --log-target=console --show-status=no
"""
TARGET = "[Unit]\nRequires=basic.target try.service\nAfter=basic.target\nAllowIsolate=yes\n"
SERVICE = """[Service]
Type=oneshot
ExecStart=/bin/bash {home}/try.sh
ExecStopPost=/bin/systemctl --no-block exit
StandardOutput=file:{home}/out
StandardError=file:{home}/trace
TimeoutStartSec=500
"""
# As docs/operating.md has it.
MOUNT = """[Unit]
Requires=cdp-disk@web.service
After=cdp-disk@web.service
[Mount]
What=/run/cdp-disk/web/nbd
Where=/srv/web
Type=ext4
Options=loop
"""
TRY = """
set -x
uri='nbd+unix:///web?socket=/run/cdp/web.sock'
say() { local key=$1; shift; echo "$key:" $("$@"); }
state() { systemctl is-active "$@" | tr '\\n' ' '; }
writes() { cdp records /backup/web | grep -c write; }
resting() { while [ "$(systemctl is-active cdp-backup@web.service)" = activating ]; do sleep 0.2; done; }
copied() { until [ -e /backup/web/volume.json ] && resting && [ "$(writes)" -ge $1 ]; do sleep 0.2; done; writes; }
say first ps -p 1 -o comm=
mkdir -p -m 700 /var/lib/cdp /backup /srv/web
cdp create /var/lib/cdp/web --size 64M
systemctl start cdp@web
say ready state cdp@web
qemu-io -f raw -c 'write -P 0x41 0 1M' -c flush $uri
systemctl enable --now cdp-backup@web.timer
say timer state cdp-backup@web.timer
mkdir -p /etc/systemd/system/cdp-backup@web.timer.d
printf '[Timer]\\nOnCalendar=\\nOnCalendar=*:*:0/2\\nRandomizedDelaySec=0\\nAccuracySec=100ms\\n' \\
    > /etc/systemd/system/cdp-backup@web.timer.d/sooner.conf
mkdir -p /etc/systemd/system/cdp-backup@web.service.d
printf '[Service]\\nNice=0\\nIOSchedulingClass=none\\n' > /etc/systemd/system/cdp-backup@web.service.d/even.conf
systemctl daemon-reload
systemctl restart cdp-backup@web.timer
say copied copied 1
qemu-io -f raw -c 'write -P 0x42 1M 1M' -c flush $uri
say later copied 2
systemctl stop cdp-backup@web.timer
resting
say check cdp check /backup/web
echo BACKUP_FOLDER=/proc > /etc/default/cdp-backup-web
systemctl start cdp-backup@web.service
echo "failed: $? $(systemctl show -p Result --value cdp-backup@web.service)"
systemctl stop cdp@web
say stopped systemctl show -p Result --value cdp@web
systemctl start cdp@web.socket
say listening state cdp@web.socket cdp@web
qemu-io -r -f raw -c 'read -P 0x42 1M 1M' $uri
echo "activated: $?"
systemctl stop cdp@web.socket cdp@web
systemctl start cdp-disk@web
mkfs.ext4 -q -F /run/cdp-disk/web/nbd
systemctl start srv-web.mount
say mounted state srv-web.mount cdp-disk@web cdp@web
echo kept > /srv/web/file
systemctl stop cdp@web
say unmounted state srv-web.mount cdp-disk@web cdp@web
systemctl start srv-web.mount
say again cat /srv/web/file
systemctl stop cdp@web
echo "end: 1"
"""


@pytest.mark.long
@pytest.mark.interop
@pytest.mark.timeout(600)
def test_the_units_under_systemd():
    need("unshare", "chroot", "systemctl", "qemu-io", "mkfs.ext4", "bash")
    need_a_kernel("nbdfuse")
    if not Path("/lib/systemd/systemd").exists():
        need("/lib/systemd/systemd")
    home = Path(tempfile.mkdtemp(prefix="cdp-sd-", dir="/var/tmp"))
    try:
        for name in ("layer", "root"):
            (home / name).mkdir()
        packages = os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH"))))
        seen = dict.fromkeys((str(home), str(ROOT), sys.prefix, sys.base_prefix))
        seen.pop("/usr", None)
        words = {"home": home, "units": ROOT / "contrib/systemd", "silent": " ".join(SILENT), "packages": packages,
                 "python": sys.executable, "seen": " ".join(seen)}
        for name, text in (("boot.sh", BOOT.format(**words)), ("try.sh", TRY), ("try.target", TARGET),
                           ("try.service", SERVICE.format(**words)), ("srv-web.mount", MOUNT)):
            (home / name).write_text(text)
        with (home / "console").open("w+b") as console:
            booted = subprocess.run(["unshare", "-m", "-p", "-f", "-u", "-i", "-C", "--kill-child", "bash",
                                     str(home / "boot.sh")], stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                    env={**os.environ, "PATH": PATH}, timeout=550, check=False)
        said = (home / "console").read_text(errors="replace")[-3000:]
        if not (home / "begun").exists():
            pytest.skip(f"no namespaces, overlay or cgroup2 for a systemd of its own here: {said}")
        out = (home / "out").read_text() if (home / "out").exists() else ""
        assert booted.returncode == 0 and out.endswith("end: 1\n"), (out, said)
        found = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line)
        wanted = {"first": "systemd", "ready": "active", "timer": "active", "copied": "1", "later": "2",
                  "failed": "1 exit-code", "stopped": "success", "listening": "active inactive", "activated": "0",
                  "mounted": "active active active", "unmounted": "inactive inactive inactive", "again": "kept"}
        assert {key: found.get(key) for key in wanted} == wanted, (out, said)
        assert found["check"].startswith("/backup/web: no problems")
    finally:
        shutil.rmtree(home, ignore_errors=True)
