#!/bin/sh
# Installs nginx for the tests of deploy/proxy, tmux for those of the clients, and Chromium for those of the chat page.
# Without the rights to install them, or with SYSTEM_PACKAGES=no, these tests are skipped with a message.
set -eu
command -v nginx >/dev/null && command -v tmux >/dev/null && command -v chromedriver >/dev/null && exit
if [ "${SYSTEM_PACKAGES:-}" = no ] || [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "nginx, tmux or Chromium is not installed: their tests will be skipped" \
        "(apt-get install nginx-light tmux chromium chromium-driver)" >&2
    exit
fi
trap '[ $? -eq 0 ] || echo "nginx, tmux and Chromium could not be installed: SYSTEM_PACKAGES=no skips their tests" >&2' EXIT
apt-get update -qq
# Do not start nginx as a service: the tests start their own.
RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light tmux \
    chromium chromium-driver
