# openvino/model_server:py: the model server, the servables with their dependencies, and the two model commands.
#   make python_image
#   make python_image BASE_IMAGE=openvino/model_server:latest-gpu
#   make python_image BASE_IMAGE=registry.connect.redhat.com/intel/openvino-model-server:latest
ARG BASE_IMAGE=openvino/model_server:latest
# The base is the user's choice; anything that depends on its release is determined below.
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

USER root
# The base image's own paths; newer releases have jinja2, which the server itself imports, in python_deps. The address
# is inside the container: whoever publishes LLM_METRICS_PORT decides who can reach it.
ENV LD_LIBRARY_PATH=/ovms/lib \
    PYTHONPATH=/ovms/lib/python:/ovms/python_deps \
    LLM_METRICS_ADDRESS=0.0.0.0
# For pip, during the build only: the server embeds the system's Python, so there is no virtual environment.
ARG PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_ROOT_USER_ACTION=ignore

# Ordered from least to most frequently changed, so that a rebuild starts as late as possible.
WORKDIR /opt/text_generation
COPY deploy/image/install_pip.sh deploy/image/
RUN deploy/image/install_pip.sh

# The three OpenVINO packages come with the base: pip sees them as installed in the base's release and adds none.
COPY requirements.txt deploy/image/openvino_release.py ./
RUN python3.12 openvino_release.py /ovms/bin/ovms constraints.txt openvino_release

# PyTorch's own CPU index: its +cpu builds take precedence over the same release elsewhere, which adds gigabytes of CUDA
# packages. To use those, leave it empty: --build-arg TORCH_INDEX=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN PYTHONPATH="${PWD}/openvino_release:${PYTHONPATH}" python3.12 -m pip install --no-cache-dir \
    ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} -r requirements.txt

COPY pyproject.toml LICENSE ./
COPY text_generation text_generation/
COPY ovms_local ovms_local/
RUN python3.12 -m pip install --no-cache-dir --no-deps . && rm -rf build ./*.egg-info

COPY download_model.py compress_model.py ./
COPY deploy/image/check_imports.py deploy/image/drain.py deploy/image/probe.py deploy/image/
COPY servable_unary /servables/unary/
COPY servable_stream /servables/stream/
COPY servable_chat /servables/chat/

USER ovms
RUN ["python3.12", "deploy/image/check_imports.py"]

WORKDIR /
# The server allows no more REST workers than a sixth of its limit on open files, which many runtimes set to 1,024.
ENTRYPOINT ["/bin/sh", "-c", "ulimit -S -n $(ulimit -H -n); exec /ovms/bin/ovms \"$@\"", "ovms"]
