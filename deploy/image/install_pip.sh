#!/bin/sh
# Installs pip for Python 3.12, which the server embeds. This is the only step that differs between Ubuntu and Red Hat.
set -eu
if command -v apt-get >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends python3-pip
    rm -rf /var/lib/apt/lists/*
elif manager=$(command -v microdnf || command -v dnf); then
    # there, python3-pip is for Python 3.9
    "$manager" install -y --nodocs --setopt=install_weak_deps=0 python3.12-pip
    "$manager" clean all
else
    echo "error: the base image has neither apt-get, microdnf nor dnf; choose an Ubuntu or Red Hat base: --build-arg BASE_IMAGE=IMAGE" >&2
    exit 1
fi
if ! python3.12 -m pip --version; then
    echo "error: the base image's distribution has no Python 3.12 with pip; choose an Ubuntu 24.04 or UBI 9 base: --build-arg BASE_IMAGE=IMAGE" >&2
    exit 1
fi
