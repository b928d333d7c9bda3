#!/bin/bash
# Builds the Debian package of this checkout for this machine's Debian, build/deb/cdp_VERSION_ARCH.deb, as any user.
# Needs the packages dpkg-dev debhelper python3-dev python3-venv, a C compiler, and once the network, for wheels: those of
# contrib/constraints.txt. The build itself (rules) has no network. Some three minutes, 400 MB of disk.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/build/deb
source=$out/source
rm -rf "$source"
mkdir -p "$source" "$out/wheels"
tar --exclude '*.so' --exclude __pycache__ --exclude '*.egg-info' -cf - setup.py pyproject.toml MANIFEST.in README.md \
    CHANGELOG.md SECURITY.md LICENSE src docs contrib | tar -xf - -C "$source"
cp -r contrib/debian "$source/debian"

/usr/bin/python3 -m venv "$out/fetch"
"$out/fetch/bin/python" - > "$out/requirements.txt" << 'PY'
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
print(*project["build-system"]["requires"], *project["project"]["dependencies"], sep="\n")
PY
"$out/fetch/bin/pip" --disable-pip-version-check -q download --only-binary :all: -d "$out/wheels" \
    -r "$out/requirements.txt" -c contrib/constraints.txt wheel
cp -r "$out/wheels" "$source/wheels"

cd "$source"
dpkg-buildpackage -b -us -uc
ls -l "$out"/*.deb
