#!/bin/sh
# Install pip for the base image's Python: Ubuntu and Red Hat bases differ here and nowhere else.
set -eu
if command -v apt-get >/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends python3-pip
    rm -rf /var/lib/apt/lists/*
    exit
fi
for manager in microdnf dnf; do
    if command -v "$manager" >/dev/null; then
        "$manager" install -y --nodocs --setopt=install_weak_deps=0 python3-pip
        "$manager" clean all
        exit
    fi
done
echo "error: the base image has none of apt-get, microdnf and dnf; choose an Ubuntu or Red Hat base: --build-arg BASE_IMAGE=IMAGE" >&2
exit 1
