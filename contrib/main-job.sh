#!/bin/bash
# main-job.sh FOLDER [SEEN_AS COMMAND...]: does the README's main job with an installation of cdp, and checks each step:
# create, serve, write over NBD, bookmark, look at the past, writable image, restore, undo, stop, check.
#
# COMMAND (default: cdp) is how that cdp is run, for instance `chroot /srv/root cdp`; it calls FOLDER, which must exist,
# SEEN_AS. Clients are this machine's qemu-io, so that what is tested is not what tests. Takes some seconds and 2 MiB;
# removes what it made, except after a failure.
set -euo pipefail
folder=$(realpath "$1")
seen=${2:-$folder}
shift $(($# < 2 ? $# : 2))
cdp=("${@:-cdp}")
command -v qemu-io > /dev/null || { echo "qemu-io is needed (Debian: qemu-utils)" >&2; exit 2; }

volume=$seen/main-job
socket=main-job.sock
io() { # EXPORT COMMAND...: over NBD; fails where the content is not what the command expects
    local export=$1 said
    shift
    said=$(qemu-io -f raw "$@" "nbd+unix:///$export?socket=$folder/$socket" 2>&1) || { echo "$said" >&2; return 1; }
    ! grep -qE "Pattern verification failed|error|rror:" <<< "$said" || { echo "$said" >&2; return 1; }
}
step() { echo "-- $*"; }
stop() { # the server itself: what COMMAND starts it with may not pass SIGTERM on, as `buildah run` does not
    local pid
    pid=$(grep -oE '"pid": ?[0-9]+' "$folder/main-job/serving.json" | grep -oE '[0-9]+$')
    grep -qs "$socket" "/proc/$pid/cmdline" || pid=$server # the number is of another namespace
    kill -TERM "$pid"
}

step "version: $("${cdp[@]}" --version)"
"${cdp[@]}" create "$volume" --size 64M
step serve
"${cdp[@]}" serve "$volume" --unix "$seen/$socket" --admin-socket "$seen/main-job.admin" 2> "$folder/main-job.log" &
server=$!
trap 'kill $server 2> /dev/null || true' EXIT
for _ in $(seq 300); do
    grep -q "cdp: ready" "$folder/main-job.log" && break
    kill -0 $server || { cat "$folder/main-job.log" >&2; exit 1; }
    sleep 0.1
done
step "write over NBD, bookmark, write again"
io main-job -c 'write -P 0x41 0 1M' -c flush
"${cdp[@]}" bookmark "$volume" before
io main-job -c 'write -P 0x58 0 1M' -c flush
step "the window, and what a point means"
"${cdp[@]}" window "$volume"
"${cdp[@]}" explain "$volume@before"
step "the past is an export, and a writable image begins there"
io main-job@before -r -c 'read -P 0x41 0 1M'
"${cdp[@]}" image create "$volume@before" trial
io main-job/trial -c 'read -P 0x41 0 1M' -c 'write -P 0x42 0 4k' -c flush
io main-job -r -c 'read -P 0x58 0 1M'
step "restore, and undo it"
"${cdp[@]}" restore "$volume@before"
io main-job -r -c 'read -P 0x41 0 1M'
"${cdp[@]}" undo "$volume"
io main-job -r -c 'read -P 0x58 0 1M'
step "status, and stop"
"${cdp[@]}" status "$volume"
stop
wait $server
"${cdp[@]}" check "$volume"
"${cdp[@]}" image delete "$volume" trial
"${cdp[@]}" delete "$volume" --yes
rm -f "$folder"/main-job.{log,sock,admin}
trap - EXIT
echo "the main job is done"
