#!/bin/bash
# build.sh [ROOTFS]: builds the container image localhost/cdp of this checkout with buildah, in a storage of its own,
# build/container/storage, and writes it to build/container/cdp.tar (docker-archive: `podman load -i`).
#
# ROOTFS: a folder with a minimal Debian (debootstrap --variant=minbase bookworm ROOTFS), as the base where no registry
# of images can be reached. As root it needs no container runtime: isolation is chroot. In the environment: PIP_CERT is a
# file of certificates for pip, WHEEL a wheel of cdp for the same Debian, which is then not built again. Some
# minutes, 1 GB of disk: no layer is kept of each step, since this storage copies all of the image for one.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=$PWD/build/container
mkdir -p "$out"
buildah() { command buildah --root "$out/storage" --runroot "$out/run" --storage-driver vfs "$@"; }

arguments=(--isolation chroot --format docker)
if [ $# -gt 0 ] && ! buildah inspect --type image localhost/cdp-base > /dev/null 2>&1; then
    base=$(buildah from scratch)
    tar --one-file-system --exclude './dev/*' --exclude './var/cache/apt/archives/*.deb' --exclude './proc/*' \
        -C "$1" -cf "$out/base.tar" .
    buildah add -q "$base" "$out/base.tar" /
    rm "$out/base.tar"
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd bash "$base"
    buildah commit -q --rm "$base" localhost/cdp-base
fi
[ $# -eq 0 ] || arguments+=(--build-arg BASE=localhost/cdp-base)
if [ -n "${PIP_CERT:-}" ]; then
    printf '[global]\ncert = /etc/ssl/pip.pem\n' > "$out/pip.conf"
    arguments+=(--volume "$PIP_CERT:/etc/ssl/pip.pem:ro" --volume "$out/pip.conf:/etc/pip.conf:ro")
fi
if [ -n "${WHEEL:-}" ]; then
    arguments+=(--volume "$(dirname "$(realpath "$WHEEL")"):/wheel:ro" --build-arg "SOURCE=/wheel/$(basename "$WHEEL")")
fi
buildah bud "${arguments[@]}" -t localhost/cdp -f contrib/container/Containerfile .
rm -f "$out/cdp.tar"
buildah push -q localhost/cdp "docker-archive:$out/cdp.tar:localhost/cdp"
ls -l "$out/cdp.tar"
